"""Every layout holds every number exactly once, and a number in the wrong place is seen whatever the shapes.

The matrices here are square and of one size, and every entry is unique: no shape check can help.
"""

import dataclasses
import re

import numpy as np
import pytest

import reference.config
import reference.model
from conformance.port import TWIN, load_into, read_from
from conformance.weights import unique_weights
from reference.third_party import timm_vit, torchvision_vit
from vit_flax import weight_files
from vit_flax.config import preset
from vit_flax.layouts import TIMM, TORCHVISION, Layout, load_any, read_any
from vit_flax.weight_files import save
from vit_flax.weights import WeightError

SQUARE = dict(image_size=(6, 6), patch_size=3, hidden_dim=12, num_heads=3, mlp_dim=12, num_layers=2, num_classes=12)
PAPER = preset("vit_ti16").replace(**SQUARE)
ARTICLE = preset("article").replace(**SQUARE, embed_dim=12)
PLACES = (
    (TWIN, PAPER),
    (TWIN, ARTICLE),
    (TWIN, ARTICLE.replace(share_layers=False, final_norm=True)),
    (TWIN, PAPER.replace(image_size=(6, 9), num_layers=11)),
    (TIMM, PAPER),
    (TIMM, PAPER.replace(image_size=(6, 9), num_layers=11)),
    (TORCHVISION, PAPER),
    (TORCHVISION, PAPER.replace(num_layers=11)),
)
IDS = [f"{layout.name}-{i}" for i, (layout, _) in enumerate(PLACES)]
RESHAPES = {"short": lambda a: a[:-1], "flat": lambda a: a.ravel(), "deep": lambda a: a[None]}
each_place = pytest.mark.parametrize(("layout", "config"), PLACES, ids=IDS)
LAYOUTS = {layout.name: layout for layout in (TWIN, TIMM, TORCHVISION)}
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)

# A square matrix and the prefixes of two layers, in each layout.
FC1 = {
    "twin": "encoder.0.mlp.fc1.weight",
    "timm": "blocks.0.mlp.fc1.weight",
    "torchvision": "encoder.layers.encoder_layer_0.mlp.0.weight",
}
CONV = {
    "twin": "patches.conv.weight",
    "timm": "patch_embed.proj.weight",
    "torchvision": "conv_proj.weight",
}
LAYER = {"twin": "encoder.{}.", "timm": "blocks.{}.", "torchvision": "encoder.layers.encoder_layer_{}."}
FUSED = {"timm": "blocks.0.attn.qkv.{}", "torchvision": "encoder.layers.encoder_layer_0.self_attention.in_proj_{}"}


def live_model(layout, config):
    c = config
    match layout.name:
        case "twin":
            return reference.model.ViT(reference.config.ViTConfig(**dataclasses.asdict(c)))
        case "timm":
            sizes = dict(img_size=c.image_size, embed_dim=c.hidden_dim, depth=c.num_layers, mlp_ratio=1.0)
            heads = dict(num_heads=c.num_heads, num_classes=c.num_classes)
            return timm_vit("vit_tiny_patch16_224", patch_size=c.patch_size, **sizes, **heads).model
        case "torchvision":
            sizes = dict(image_size=c.image_size[0], patch_size=c.patch_size, num_layers=c.num_layers)
            widths = dict(hidden_dim=c.hidden_dim, mlp_dim=c.mlp_dim, num_heads=c.num_heads)
            return torchvision_vit("vit_b_16", **sizes, **widths, num_classes=c.num_classes).model


def same(ours, theirs):
    assert list(ours) == list(theirs)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], strict=True, err_msg=name)


def moved(foreign, layout, config):
    """The canonical leaves that no longer hold what was written."""
    weights, back = unique_weights(config), layout.read(foreign, config)
    return {name for name in weights if not np.array_equal(weights[name], back[name])}


def swap_query_and_key(foreign, layout):
    if layout is TWIN:
        for kind in ("weight", "bias"):
            query, key = (f"encoder.0.attention.{part}.{kind}" for part in ("query", "key"))
            foreign[query], foreign[key] = foreign[key], foreign[query]
        return
    for kind in ("weight", "bias"):
        name = FUSED[layout.name].format(kind)
        query, key, value = np.split(foreign[name], 3)
        foreign[name] = np.concatenate([key, query, value])


def swap_layers(foreign, layout):
    first, second = (LAYER[layout.name].format(i) for i in (0, 1))
    for name in [name for name in foreign if name.startswith(first)]:
        other = second + name.removeprefix(first)
        foreign[name], foreign[other] = foreign[other], foreign[name]


@each_place
def test_what_was_written_is_read_back_bit_for_bit(layout, config):
    weights = unique_weights(config)
    same(layout.read(layout.write(weights, config), config), weights)


@each_place
def test_a_live_model_holds_the_weights_bit_for_bit(layout, config):
    weights, model = unique_weights(config), live_model(layout, config)
    load_into(model, weights, layout, config)
    same(read_from(model, layout, config), weights)


@each_place
def test_every_number_is_written_exactly_once(layout, config):
    numbers = np.concatenate([array.ravel() for array in layout.write(unique_weights(config), config).values()])
    np.testing.assert_array_equal(np.sort(numbers), np.arange(numbers.size), strict=False)


@each_layout
def test_a_dense_matrix_is_turned_over(layout):
    weights = unique_weights(PAPER)
    foreign = layout.write(weights, PAPER)[FC1[layout.name]]
    np.testing.assert_array_equal(foreign, weights["encoder/00/mlp/fc1/kernel"].T, strict=True)


@each_layout
def test_a_convolution_has_its_outputs_first_and_its_columns_last(layout):
    weights = unique_weights(PAPER)
    foreign = layout.write(weights, PAPER)[CONV[layout.name]]
    np.testing.assert_array_equal(foreign, weights["patches/conv/kernel"].transpose(3, 2, 0, 1), strict=True)


@pytest.mark.parametrize("layout", (TIMM, TORCHVISION), ids=lambda layout: layout.name)
@pytest.mark.parametrize(("ours", "theirs"), (("kernel", "weight"), ("bias", "bias")))
def test_a_fused_array_has_queries_then_keys_then_values(layout, ours, theirs):
    weights = unique_weights(PAPER)
    foreign = layout.write(weights, PAPER)[FUSED[layout.name].format(theirs)]
    parts = [weights[f"encoder/00/attention/{part}/{ours}"].T for part in ("query", "key", "value")]
    np.testing.assert_array_equal(foreign, np.concatenate(parts), strict=True)


@each_layout
def test_a_transposed_square_matrix_is_seen(layout):
    foreign = layout.write(unique_weights(PAPER), PAPER)
    foreign[FC1[layout.name]] = foreign[FC1[layout.name]].T
    assert moved(foreign, layout, PAPER) == {"encoder/00/mlp/fc1/kernel"}


@each_layout
def test_swapped_queries_and_keys_are_seen(layout):
    foreign = layout.write(unique_weights(PAPER), PAPER)
    swap_query_and_key(foreign, layout)
    assert moved(foreign, layout, PAPER) == {
        f"encoder/00/attention/{part}/{kind}" for part in ("query", "key") for kind in ("kernel", "bias")
    }


@each_layout
def test_shifted_layers_are_seen(layout):
    foreign = layout.write(unique_weights(PAPER), PAPER)
    swap_layers(foreign, layout)
    assert moved(foreign, layout, PAPER) == {name for name in unique_weights(PAPER) if name.startswith("encoder/")}


@each_layout
def test_an_untouched_dict_has_nothing_moved(layout):
    assert moved(layout.write(unique_weights(PAPER), PAPER), layout, PAPER) == set()


@each_layout
def test_a_missing_key_is_named(layout):
    foreign = layout.write(unique_weights(PAPER), PAPER)
    lost = FC1[layout.name]
    del foreign[lost]
    with pytest.raises(WeightError, match=rf"{layout.name} weights: .*1 missing, first '{re.escape(lost)}'"):
        layout.read(foreign, PAPER)


@each_layout
def test_an_unused_key_is_named(layout):
    foreign = layout.write(unique_weights(PAPER), PAPER) | {"head_dist.weight": np.ones(1)}
    with pytest.raises(WeightError, match=rf"{layout.name} weights: .*1 unused, first 'head_dist.weight'"):
        layout.read(foreign, PAPER)


@each_layout
@pytest.mark.parametrize("reshape", RESHAPES.values(), ids=RESHAPES)
def test_a_misshapen_array_is_named(layout, reshape):
    foreign = layout.write(unique_weights(PAPER), PAPER)
    foreign[FC1[layout.name]] = reshape(foreign[FC1[layout.name]])
    with pytest.raises(WeightError, match=rf"{layout.name} weights: '{re.escape(FC1[layout.name])}'.* has shape"):
        layout.read(foreign, PAPER)


@pytest.mark.parametrize("layout", (TIMM, TORCHVISION), ids=lambda layout: layout.name)
@pytest.mark.parametrize("rows", (1, 3), ids=("not in three", "three too short"))
def test_a_fused_array_that_lost_rows_is_named(layout, rows):
    name = FUSED[layout.name].format("weight")
    foreign = layout.write(unique_weights(PAPER), PAPER)
    foreign[name] = foreign[name][:-rows]
    with pytest.raises(WeightError, match=re.escape(name)):
        layout.read(foreign, PAPER)


@each_layout
def test_weights_that_miss_a_leaf_are_not_written(layout):
    weights = unique_weights(PAPER)
    del weights["head/bias"]
    with pytest.raises(WeightError, match=r"canonical weights: .*'head/bias'"):
        layout.write(weights, PAPER)


@each_layout
def test_a_leaf_that_two_rules_fill_is_named(layout):
    twice = Layout(layout.name, (*layout.table, dataclasses.replace(layout.table[0], foreign="again")))
    leaf = layout.table[0].leaves[0]
    with pytest.raises(WeightError, match=f"{layout.name} layout: canonical leaf '{leaf}' is used by more than one"):
        twice.read(layout.write(unique_weights(PAPER), PAPER), PAPER)


@each_layout
def test_a_key_that_two_rules_read_is_named(layout):
    # The last rule is that of the head's bias: it now reads the first rule's key.
    doubled = dataclasses.replace(layout.table[-1], foreign=layout.table[0].foreign)
    twice = Layout(layout.name, (*layout.table[:-1], doubled))
    key = re.escape(layout.table[0].foreign)
    with pytest.raises(WeightError, match=f"{layout.name} layout: key '{key}' is used by more than one rule"):
        twice.write(unique_weights(PAPER), PAPER)


@each_layout
def test_a_leaf_that_no_rule_fills_is_named(layout):
    leaf = layout.table[0].leaves[0]
    with pytest.raises(WeightError, match=f"{layout.name} layout against this config: .*1 missing, first '{leaf}'"):
        Layout(layout.name, layout.table[1:]).write(unique_weights(PAPER), PAPER)


@pytest.mark.parametrize("layout", (TIMM, TORCHVISION), ids=lambda layout: layout.name)
def test_a_config_that_a_layout_cannot_hold_is_refused_naming_the_leaf(layout):
    config = PAPER.replace(embed_dim=12)
    with pytest.raises(WeightError, match=f"{layout.name} layout .*2 missing, first 'embedding/projection/"):
        layout.write(unique_weights(config), config)


@pytest.mark.parametrize("layout", (TIMM, TORCHVISION), ids=lambda layout: layout.name)
def test_the_article_has_no_place_in_a_published_layout(layout):
    with pytest.raises(WeightError, match="first 'embedding/projection/"):
        layout.rules(preset("article"))


@pytest.mark.parametrize("layout", (TIMM, TORCHVISION), ids=lambda layout: layout.name)
def test_a_published_layout_is_recognised(layout):
    weights = unique_weights(PAPER)
    same(read_any(layout.write(weights, PAPER), PAPER, "a.npz"), weights)


@pytest.mark.parametrize("config", (PAPER, ARTICLE), ids=("paper", "article"))
def test_canonical_weights_are_recognised(config):
    weights = unique_weights(config)
    same(read_any(weights, config, "a.npz"), weights)


@pytest.mark.parametrize(("arrays", "first"), (({"conv1.weight": np.ones(1)}, "'conv1.weight'"), ({}, "None")))
def test_a_foreign_dict_is_refused_naming_its_file_and_first_key(arrays, first):
    sentence = "resnet.npz: no key of any known layout (canonical, timm, torchvision); its first key is "
    with pytest.raises(WeightError, match=re.escape(sentence + first)):
        read_any(arrays, PAPER, "resnet.npz")


@pytest.mark.parametrize("name", ("canonical", "timm", "torchvision"))
def test_an_incomplete_dict_is_refused_in_the_words_of_its_layout(name):
    weights = unique_weights(PAPER)
    arrays = weights if name == "canonical" else LAYOUTS[name].write(weights, PAPER)
    lost = list(arrays)[-1]
    del arrays[lost]
    with pytest.raises(WeightError, match=rf"^half\.npz: {name} weights: .*1 missing, first '{re.escape(lost)}'"):
        read_any(arrays, PAPER, "half.npz")


@pytest.mark.parametrize("kind", (".npz", ".safetensors"))
@pytest.mark.parametrize("name", ("canonical", "timm", "torchvision"))
def test_a_file_in_any_layout_is_read(tmp_path, name, kind):
    weights = unique_weights(PAPER)
    save(weights if name == "canonical" else LAYOUTS[name].write(weights, PAPER), tmp_path / f"weights{kind}")
    same(load_any(tmp_path / f"weights{kind}", PAPER), weights)


@pytest.mark.parametrize("name", ("canonical", "timm", "torchvision"))
@pytest.mark.parametrize("change", ({"num_layers": 3}, {"mlp_dim": 24}), ids=("deeper", "wider"))
def test_a_file_of_another_model_is_refused_before_it_is_read(tmp_path, monkeypatch, name, change):
    weights = unique_weights(PAPER)
    save(weights if name == "canonical" else LAYOUTS[name].write(weights, PAPER), tmp_path / "a.npz")
    monkeypatch.setattr(weight_files, "_read", lambda name, stored: pytest.fail(f"{name} was read"))
    with pytest.raises(WeightError, match=rf"^{re.escape(str(tmp_path / 'a.npz'))}: {name} weights: "):
        load_any(tmp_path / "a.npz", PAPER.replace(**change))
