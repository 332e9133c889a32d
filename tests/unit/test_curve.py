"""The learning curve is a picture that shows the whole history and says where it comes from."""

import pytest
from matplotlib.figure import Figure
from PIL import Image

from vit_flax.config import preset
from vit_flax.curve import draw
from vit_flax.recipe import recipe
from vit_flax.settings import Settings

SETTINGS = Settings(
    preset="article-p4",
    config=preset("article-p4"),
    recipe_name="modern",
    recipe=recipe("modern"),
    seed=3,
    data="some/folder",
    source="toy shapes",
    digest="0123",
    train_images=200,
    classes=("circle", "square"),
)


def result_of(epochs, first=1):
    numbers = range(first, first + epochs)
    history = [{"epoch": i, "train/loss": 2 / i, "train/acc": 1 - 1 / i, "val/acc": 1 - 1 / i**2} for i in numbers]
    return {"history": history, "test_acc": 0.7704}


@pytest.fixture
def drawn(monkeypatch):
    """Every figure that is saved."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *given, **named: (figures.append(self), save(self, *given, **named))
    )
    return figures


@pytest.mark.parametrize("epochs", (1, 2, 300))
def test_a_curve_is_a_picture_of_every_epoch(tmp_path, drawn, epochs):
    result = result_of(epochs)
    draw(result, SETTINGS, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500
        assert len(picture.convert("RGB").getcolors(maxcolors=2**16)) > 10  # more than an empty page

    upper, lower = drawn[0].axes
    shown = {line.get_label(): line.get_xydata().tolist() for line in lower.lines}
    shown["train/loss"] = upper.lines[0].get_xydata().tolist()
    for name in ("train/loss", "train/acc", "val/acc"):
        assert shown.pop(name) == [[record["epoch"], record[name]] for record in result["history"]]
    assert shown == {"test 0.7704": [[epochs, 0.7704]]}


def test_a_curve_says_what_was_trained_how_and_on_what(tmp_path, drawn):
    draw(result_of(2), SETTINGS, tmp_path / "curve.png")
    upper, lower = drawn[0].axes
    assert drawn[0].get_suptitle() == "article-p4, recipe modern, on toy shapes (seed 3)"
    assert (upper.get_ylabel(), lower.get_ylabel(), lower.get_xlabel()) == ("train/loss", "accuracy", "epoch")
    assert [text.get_text() for text in lower.get_legend().get_texts()] == ["train/acc", "val/acc", "test 0.7704"]


def test_epochs_are_whole_numbers_on_the_axis(tmp_path, drawn):
    draw(result_of(2), SETTINGS, tmp_path / "curve.png")
    assert {tick % 1 for tick in drawn[0].axes[1].get_xticks()} == {0.0}


def test_a_curve_is_drawn_over_an_older_one(tmp_path):
    file = tmp_path / "curve.png"
    file.write_text("an older one")
    draw(result_of(1), SETTINGS, file)
    assert file.read_bytes().startswith(b"\x89PNG")
