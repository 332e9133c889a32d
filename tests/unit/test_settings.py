"""Settings are all that a run depends on, kept exactly, and follow the data they are for."""

import dataclasses
import json
import re

import numpy as np
import pytest

from vit_flax.config import PRESETS, preset
from vit_flax.data import Data, Dataset
from vit_flax.recipe import RECIPES, recipe
from vit_flax.settings import Settings, differences, digest, from_json, repeat, resolve, to_json

CLASSES = ("circle", "square", "star")
SIZES = {"train": 130, "validation": 5, "test": 7}


def toy(shape=(8, 12, 3), classes=CLASSES, seed=0):
    rng = np.random.default_rng(seed)

    def dataset(n):
        images = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        return Dataset(images, rng.integers(0, len(classes), n).astype(np.int32))

    return Data(**{name: dataset(n) for name, n in SIZES.items()}, classes=classes, source="toy shapes")


def settings_of(preset_name="article-p4", recipe_name="article", **changes):
    return Settings(
        **dict(
            preset=preset_name,
            config=recipe(recipe_name).regularised(preset(preset_name)),
            recipe_name=recipe_name,
            recipe=recipe(recipe_name),
            seed=3,
            data="some/folder",
            source="toy shapes",
            digest="0123",
            train_images=1293,
            classes=CLASSES,
        )
        | changes
    )


def read_back(settings):
    return from_json(json.loads(json.dumps(to_json(settings))))


@pytest.mark.parametrize("preset_name", PRESETS)
@pytest.mark.parametrize("recipe_name", RECIPES)
def test_settings_come_back_exactly(preset_name, recipe_name):
    settings = settings_of(preset_name, recipe_name)
    back = read_back(settings)
    assert back == settings
    assert hash(back) == hash(settings)  # nothing has become a list


@pytest.mark.parametrize("path", ("some/folder", "dossier à part", None))
def test_any_path_comes_back(path):
    assert read_back(settings_of(data=path)).data == path


def test_odd_numbers_come_back_to_the_bit():
    odd = recipe("modern").replace(learning_rate=0.1 + 0.2, weight_decay=5e-324, clip_norm=float("inf"))
    assert read_back(settings_of(recipe=odd)).recipe == odd


def forget(plain, *path):
    *parents, name = path
    for parent in parents:
        plain = plain[parent]
    del plain[name]


WRONG = {
    "missing seed": (lambda plain: forget(plain, "seed"), TypeError, "seed"),
    "missing config.dropout": (lambda plain: forget(plain, "config", "dropout"), TypeError, "dropout"),
    "unknown recipe.epoch": (lambda plain: plain["recipe"].update(epoch=1), TypeError, "epoch"),
    "impossible recipe.epochs": (lambda plain: plain["recipe"].update(epochs=0), ValueError, "^epochs is 0,"),
}


@pytest.mark.parametrize(("change", "error", "named"), WRONG.values(), ids=WRONG)
def test_fields_that_are_missing_unknown_or_wrong_are_named(change, error, named):
    plain = to_json(settings_of())
    change(plain)
    with pytest.raises(error, match=named):
        from_json(plain)


def test_a_model_takes_its_sizes_and_classes_from_the_data():
    data = toy()
    assert resolve("article-p4", "article", {}, 5, "some/folder", data) == Settings(
        preset="article-p4",
        config=preset("article-p4").replace(image_size=(8, 12), num_classes=3),
        recipe_name="article",
        recipe=recipe("article"),
        seed=5,
        data="some/folder",
        source="toy shapes",
        digest=digest(data),
        train_images=130,
        classes=CLASSES,
    )


def test_a_model_takes_its_channels_from_the_data():
    settings = resolve("article-p4", "digits", {}, 0, None, toy((8, 8, 1)))
    assert settings.config == preset("article-p4").replace(image_size=(8, 8), channels=1, num_classes=3)


def test_a_model_takes_its_rates_from_the_recipe():
    settings = resolve("article-p4", "modern", {"drop_path": 0.3}, 0, None, toy((8, 8, 3)))
    assert (settings.config.dropout, settings.config.attention_dropout, settings.config.drop_path) == (0.0, 0.0, 0.3)


def test_changes_are_made_to_the_recipe_and_nowhere_else():
    changes = {"epochs": 7, "batch_size": 6, "learning_rate": 0.5}
    plain, changed = (resolve("article-p4", "article", c, 0, None, toy()) for c in ({}, changes))
    assert changed == dataclasses.replace(plain, recipe=plain.recipe.replace(**changes))
    assert changed.steps_per_epoch == 21  # of 130 images, four are left over


def test_changes_of_the_model_are_made_to_it():
    plain, changed = (resolve("article-p4", "article", {}, 0, None, toy(), c) for c in ({}, {"num_layers": 2}))
    assert changed == dataclasses.replace(plain, config=plain.config.replace(num_layers=2))


def test_a_change_of_the_model_that_its_recipe_would_undo_is_refused():
    with pytest.raises(ValueError, match=r"^model.drop_path is 0.5, but the recipe makes it 0.0: set it there$"):
        resolve("article-p4", "article", {}, 0, None, toy(), {"drop_path": 0.5})


def test_a_repeated_run_has_the_settings_of_the_first_whatever_its_preset_and_recipe_say_now():
    changes, model_changes = {"learning_rate": 0.5, "warmup_epochs": 1.5}, {"num_layers": 2}
    kept = resolve("article-p4", "article", changes, 5, "some/folder", toy(), model_changes)
    assert repeat(read_back(kept), {}, None, "some/folder", toy()) == kept
    again = repeat(kept, {"epochs": 7}, 6, "other/folder", toy(), {"num_layers": 3})
    expected = dict(recipe=kept.recipe.replace(epochs=7), config=kept.config.replace(num_layers=3))
    assert again == dataclasses.replace(kept, seed=6, data="other/folder", **expected)


UNFIT = {
    "preset": (("artcle", "article", {}, (8, 8, 3)), "unknown preset 'artcle': did you mean article"),
    "recipe": (("article-p4", "artcle", {}, (8, 8, 3)), "unknown recipe 'artcle': did you mean article?"),
    "change": (("article-p4", "article", {"batch_size": 0}, (8, 8, 3)), "batch_size is 0, but must be"),
    "batch": (
        ("article-p4", "article", {"batch_size": 131}, (8, 8, 3)),
        "130 training images are not enough for a batch of 131",
    ),
    "height": (("vit_ti16", "article", {}, (8, 16, 3)), "image height 8 is not a multiple of patch_size 16"),
    "width": (("article-p4", "article", {}, (8, 9, 3)), "image width 9 is not a multiple of patch_size 4"),
    "channels": (
        ("article-p4", "article", {}, (8, 8, 1)),
        "recipe 'article' has means for 3 channels, but toy shapes has images of 1",
    ),
    "other channels": (
        ("article-p4", "digits", {}, (8, 8, 3)),
        "recipe 'digits' has means for 1 channels, but toy shapes has images of 3",
    ),
}


@pytest.mark.parametrize(("asked", "sentence"), UNFIT.values(), ids=UNFIT)
def test_what_cannot_work_together_is_refused(asked, sentence):
    preset_name, recipe_name, changes, shape = asked
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        resolve(preset_name, recipe_name, changes, 0, None, toy(shape))


@pytest.mark.parametrize("split", SIZES)
@pytest.mark.parametrize("part", ("images", "labels"))
@pytest.mark.parametrize("place", (0, -1))
def test_one_pixel_or_label_changes_the_digest(split, part, place):
    data = toy()
    before = digest(data)
    array = getattr(getattr(data, split), part)
    array.flat[place] ^= 1
    assert digest(data) != before
    array.flat[place] ^= 1
    assert digest(data) == before


def test_the_order_and_the_split_change_the_digest():
    data = toy()
    reordered = Dataset(*(part[::-1] for part in data.train))
    swapped = dataclasses.replace(data, train=data.validation, validation=data.train)
    digests = {digest(data), digest(dataclasses.replace(data, train=reordered)), digest(swapped), digest(toy(seed=1))}
    assert len(digests) == 4


CONFIG, RECIPE = preset("article-p4"), recipe("article")
CHANGED = {
    "seed was 3, not 4": {"seed": 4},
    "preset was 'article-p4', not 'article'": {"preset": "article"},
    "config.num_layers was 12, not 5": {"config": CONFIG.replace(num_layers=5)},
    "config.image_size was (32, 32), not (32, 64)": {"config": CONFIG.replace(image_size=(32, 64))},
    "recipe.learning_rate was 0.0003, not 0.01": {"recipe": RECIPE.replace(learning_rate=0.01)},
    "recipe.clip_norm was None, not 1.0": {"recipe": RECIPE.replace(clip_norm=1.0)},
    "digest was '0123', not '4567'": {"digest": "4567"},
    "classes was ('circle', 'square', 'star'), not ('circle', 'square')": {"classes": CLASSES[:2]},
}


@pytest.mark.parametrize(("line", "changes"), CHANGED.items())
def test_a_difference_is_named_with_both_values(line, changes):
    assert differences(read_back(settings_of()), settings_of(**changes)) == [line]


def test_differences_are_named_one_by_one():
    both = dict(seed=4, recipe=RECIPE.replace(epochs=1, flip=False))
    lines = ["recipe.epochs was 100, not 1", "recipe.flip was True, not False", "seed was 3, not 4"]
    assert differences(settings_of(), settings_of(**both)) == lines


@pytest.mark.parametrize("path", ("another/copy", None))
def test_the_same_data_may_lie_elsewhere(path):
    assert differences(read_back(settings_of()), settings_of(data=path)) == []
