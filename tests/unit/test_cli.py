"""The command line: digits out of the box, and one sentence for what cannot be done."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_flax import commands
from vit_flax.cli import main
from vit_flax.data import read_data
from vit_flax.layouts import LAYOUTS, load_any
from vit_flax.run import Run
from vit_flax.weight_files import load
from vit_flax.weights import from_params

GOOD_ACCURACY = 0.95


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """`vit-flax train` with nothing but a folder."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def result(digits):
    return json.loads((digits / "result.json").read_text())


def test_train_without_arguments_learns_the_digits(digits, result):
    assert result["test_acc"] > GOOD_ACCURACY
    assert (digits / "learning_curve.png").stat().st_size


def test_one_epoch_is_not_enough_to_pass_that(result):
    assert result["history"][0]["val/acc"] < GOOD_ACCURACY


def test_evaluate_repeats_the_accuracy_of_training(digits, result, capsys):
    assert main(["evaluate", "--run", str(digits)]) == 0
    assert f"test_acc: {result['test_acc']:.4f} (scikit-learn digits, 360 images)" in capsys.readouterr().out


def test_evaluate_best_names_its_epoch(digits, result, capsys):
    best = max(result["history"], key=lambda record: (record["val/acc"], record["epoch"]))
    assert main(["evaluate", "--run", str(digits), "--checkpoint", "best"]) == 0
    out = capsys.readouterr().out
    assert f"epoch {best['epoch']} of" in out
    assert f"val_acc: {best['val/acc']:.4f}" in out


def test_evaluate_says_and_draws_what_is_taken_for_what(digits, result, capsys):
    assert main(["evaluate", "--run", str(digits)]) == 0

    by_class = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [line[0] for line in by_class] == [str(i) for i in range(10)]
    right = sum(round(float(line[1]) * int(line[3])) for line in by_class)
    assert right == round(360 * result["test_acc"])
    assert (digits / "confusion_last.png").stat().st_size


@pytest.mark.parametrize("name", ("weights.npz", "weights.safetensors"))
def test_export_writes_the_weights_that_are_evaluated(digits, tmp_path, name):
    assert main(["export", "--run", str(digits), "--to", str(tmp_path / name)]) == 0

    run = Run.open(digits)
    expected = from_params(run.restored("last").state.eval_params)
    found = load_any(tmp_path / name, run.settings.config)
    assert found.keys() == expected.keys()
    for leaf, values in expected.items():
        np.testing.assert_array_equal(found[leaf], values)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_export_knows_other_names(digits, tmp_path, layout):
    file = tmp_path / "weights.npz"
    assert main(["export", "--run", str(digits), "--to", str(file), "--layout", layout]) == 0

    run = Run.open(digits)
    assert load(file).keys() == {rule.foreign for rule in LAYOUTS[layout].rules(run.settings.config)}


def test_predict_takes_a_folder_and_writes_a_table(digits, tmp_path, capsys):
    data = read_data(None)
    (tmp_path / "images" / "more").mkdir(parents=True)
    for i in range(6):
        place = tmp_path / "images" / ("more" if i % 2 else ".") / f"{i}.png"
        Image.fromarray(data.test.images[i, :, :, 0]).save(place)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    table = tmp_path / "table.csv"

    assert main(["predict", "--run", str(digits), str(tmp_path / "images"), "--csv", str(table)]) == 0

    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert capsys.readouterr().out == f"6 images in {table}\n"
    for row in rows:
        shares = {name: float(row[name]) for name in data.classes}
        assert max(shares, key=shares.get) == row["class"]
        assert round(sum(shares.values()), 4) == 1
    right = [row["class"] == data.classes[data.test.labels[int(Path(row["file"]).stem)]] for row in rows]
    assert len(right) == 6 and sum(right) >= 5


def test_a_table_is_whole_or_not_there(digits, tmp_path, capsys):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"damaged")

    assert main(["predict", "--run", str(digits), str(tmp_path), "--csv", str(tmp_path / "t.csv")]) == 2

    assert "b.png" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_attention_is_drawn(digits, tmp_path, capsys):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    picture = tmp_path / "looks.png"

    assert main(["attention", "--run", str(digits), str(tmp_path / "a.png"), "--to", str(picture)]) == 0

    assert capsys.readouterr().out == f"drawn in {picture}\n"
    assert picture.stat().st_size


def test_a_folder_without_images_is_said(digits, tmp_path, capsys):
    assert main(["predict", "--run", str(digits), str(tmp_path)]) == 2
    assert f"{tmp_path} holds no images (.bmp, " in capsys.readouterr().err


def test_predict_reads_images_of_digits(digits, tmp_path, capsys):
    data = read_data(None)
    right = 0
    for i in range(20):
        Image.fromarray(data.test.images[i, :, :, 0]).save(tmp_path / f"{i}.png")
    assert main(["predict", "--run", str(digits), *(str(tmp_path / f"{i}.png") for i in range(20))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20
    for i, line in enumerate(lines):
        file, digit = re.fullmatch(r"(.*\.png): (\d) \d+\.\d%, \d \d+\.\d%, \d \d+\.\d%", line).groups()
        assert file == str(tmp_path / f"{i}.png")
        right += int(digit) == data.test.labels[i]
    assert right / 20 > GOOD_ACCURACY - 0.1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    (
        (["train", "--preset", "artcle"], r"unknown preset 'artcle': did you mean article"),
        (["train", "--recipe", "modren"], r"unknown recipe 'modren': did you mean modern"),
        (["train", "--recipe", "article"], r"recipe 'article' has means for 3 channels, but .* has images of 1"),
        (["train", "--epochs", "0"], r"epochs is 0"),
        (["train", "--batch-size", "9999"], r"1293 training images .* batch of 9999"),
        (["train", "--data", "nowhere"], r"nowhere does not exist"),
        (["train", "--resume"], r"fresh holds no run"),
        (["train", "--set", "epohcs=1"], r"unknown field 'epohcs': did you mean epochs"),
        (["train", "--set", "num_heads=3"], r"hidden_dim \d+ is not divisible by num_heads 3"),
        (["train", "--config", "nowhere/run.json"], r"nowhere/run.json"),
        (["train", "--config", "run.json", "--resume"], r"--resume goes on with a run, --config begins another"),
    ),
)
def test_what_cannot_be_done_is_said_in_a_sentence_and_leaves_no_folder(tmp_path, capsys, arguments, sentence):
    out = tmp_path / "fresh"
    assert main([*arguments, "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert re.fullmatch(rf"vit-flax: .*{sentence}.*\n", message)
    assert not out.exists()


def test_a_run_does_not_go_on_with_other_settings(digits, capsys):
    assert main(["train", "--resume", "--out", str(digits), "--seed", "6", "--epochs", "4"]) == 2
    message = capsys.readouterr().err
    assert "recipe.epochs was 60, not 4" in message
    assert "seed was 0, not 6" in message


def test_a_finished_run_stays_as_it_is_when_resumed(digits, result):
    assert main(["train", "--resume", "--out", str(digits)]) == 0
    assert json.loads((digits / "result.json").read_text()) == result


def test_a_run_is_repeated_from_its_settings(digits, tmp_path, capsys):
    out = tmp_path / "again"
    options = ["--config", str(digits / "run.json"), "--set", "epochs=3", "--set", "num_layers=1", "--seed", "5"]
    assert main(["train", *options, "--out", str(out)]) == 0
    first, again = (json.loads((folder / "run.json").read_text())["settings"] for folder in (digits, out))
    assert again["recipe"] == first["recipe"] | {"epochs": 3}
    assert (again["seed"], again["config"]) == (5, first["config"] | {"num_layers": 1})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def test_a_repeated_run_has_its_preset_and_recipe(digits, tmp_path, capsys):
    options = ["--config", str(digits / "run.json"), "--preset", "article"]
    assert main(["train", *options, "--out", str(tmp_path / "again")]) == 2
    assert "--preset is article, but the kept run has digits: leave the option out" in capsys.readouterr().err


def test_a_run_is_not_overwritten(digits, capsys):
    assert main(["train", "--out", str(digits)]) == 2
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize("command", ("evaluate", "predict"))
def test_a_folder_without_a_run_is_named(tmp_path, capsys, command):
    assert main([command, "--run", str(tmp_path), *(["x.png"] if command == "predict" else [])]) == 2
    assert f"{tmp_path} holds no run" in capsys.readouterr().err


def test_predict_names_a_file_that_is_no_image(digits, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("no image")
    assert main(["predict", "--run", str(digits), str(tmp_path / "notes.txt")]) == 2
    assert "notes.txt" in capsys.readouterr().err


def test_help_shows_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(f"vit-flax {command}" in out for command in ("train", "evaluate", "predict"))
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "attention", "export"])
def test_the_help_of_a_command_fits_a_terminal(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def imported_by(code):
    """The names of the modules that this code imports, and the seconds of processor time that it takes."""
    tell = "import sys, time; print(time.process_time(), *sys.modules, file=sys.stderr)"
    code = f"import atexit; atexit.register(lambda: exec({tell!r})); {code}"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    seconds, *modules = process.stderr.split()
    return set(modules), float(seconds)


def test_help_imports_nothing_that_takes_long():
    modules, seconds = imported_by("from vit_flax.cli import main; main(['--help'])")
    assert "vit_flax.recipe" in modules
    assert not modules & {"jax", "flax", "orbax", "numpy", "matplotlib", "tensorboard"}
    assert seconds < 0.5


def test_an_import_that_takes_long_would_be_found():
    modules, _ = imported_by("import vit_flax.commands")
    assert {"jax", "numpy"} <= modules


def test_ctrl_c_is_a_sentence_also_where_no_training_listens_for_it(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "predict", interrupted)
    assert main(["predict", "cat.jpg"]) == 130
    assert capsys.readouterr().err == "vit-flax: interrupted\n"


def test_the_version_is_the_package_s(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert re.fullmatch(r"vit-flax \d+\.\d+\.\d+\n", capsys.readouterr().out)
