"""The Flax ViT by itself: its taps, its dtypes, its dropout, and the parts that a config asks for."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from conformance.precision import DTYPES
from conformance.weights import random_weights
from vit_flax.config import PRESETS, preset
from vit_flax.dropout import Dropout
from vit_flax.model import MLP, MultiHeadSelfAttention, ViT, layer_norm
from vit_flax.weights import canonical_shapes, to_params

SMALL = dict(image_size=(16, 24), patch_size=8, hidden_dim=12, num_heads=3, mlp_dim=20, num_layers=2, num_classes=5)
PAPER = preset("vit_ti16").replace(**SMALL)
ARTICLE = preset("article").replace(**SMALL, embed_dim=8)
CONFIGS = {"paper": PAPER, "article": preset("article").replace(num_layers=2)}
TAPS = [
    "patches",
    "embedding",
    "encoder/00/attention",
    "encoder/00/middle",
    "encoder/00/mlp",
    "encoder/00",
    "encoder/01/attention",
    "encoder/01/middle",
    "encoder/01/mlp",
    "encoder/01",
    "norm",
    "logits",
]
NO_DROPOUT = dict(dropout=0.0, attention_dropout=0.0, drop_path=0.0)
DROPOUT = (
    (PAPER, NO_DROPOUT | {"dropout": 0.5}),
    (PAPER, NO_DROPOUT | {"attention_dropout": 0.5}),
    (ARTICLE, NO_DROPOUT | {"attention_dropout": 0.5}),
    (PAPER, NO_DROPOUT | {"drop_path": 0.5}),
)


def params_of(config, dtype=np.float32):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), to_params(random_weights(config, seed=0), config))


def images_of(config, dtype=np.float32):
    shape = (2, *config.image_size, config.channels)
    return jnp.asarray(np.random.default_rng(1).standard_normal(shape), dtype)


def run(config, dtype=np.float32, *, given=None, **options):
    """Logits, and every tap as it was shown; where a value is given, the model goes on with that."""
    seen = {}

    def tap(name, x):
        seen[name] = x
        return (given or {}).get(name, x)

    logits = ViT(config).apply({"params": params_of(config, dtype)}, images_of(config, dtype), tap=tap, **options)
    return logits, seen


def same(a, b):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True)


@pytest.mark.parametrize("name", PRESETS)
def test_logits_are_one_row_per_image_and_one_column_per_class(name):
    logits, _ = run(preset(name).replace(**SMALL))
    assert logits.shape == (2, 5)
    assert np.isfinite(logits).all()


def test_taps_come_in_data_order():
    _, taps = run(PAPER)
    assert list(taps) == TAPS


def test_a_tap_sees_what_the_docstring_says():
    _, taps = run(ARTICLE)
    assert taps["patches"].shape == (2, 6, 8)
    assert {taps[name].shape for name in TAPS[1:-2]} == {(2, 7, 12)}
    assert taps["logits"].shape == (2, 5)


@pytest.mark.parametrize("name", TAPS)
def test_a_replaced_tap_changes_what_follows_and_nothing_else(name):
    _, before = run(PAPER)
    other = jax.random.normal(jax.random.key(0), before[name].shape)
    logits, after = run(PAPER, given={name: other})
    unchanged = [tap for tap in TAPS if np.array_equal(before[tap], after[tap])]
    assert unchanged == TAPS[: TAPS.index(name) + 1]
    assert not np.array_equal(logits, before["logits"])


def test_a_replaced_last_tap_is_what_the_model_returns():
    logits, _ = run(PAPER, given={"logits": jnp.ones((2, 5))})
    same(logits, np.ones((2, 5), np.float32))


@pytest.mark.parametrize("dtype", (np.float32, jnp.bfloat16), ids=("float32", "bfloat16"))
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_looking_changes_no_bit_of_the_logits(config, dtype):
    params, images = params_of(config, dtype), images_of(config, dtype)
    plain = ViT(config).apply({"params": params}, images)
    tapped, taps = run(config, dtype)
    same(tapped, plain)
    same(taps["logits"], plain)


@pytest.mark.parametrize("dtype", (np.float32, jnp.bfloat16), ids=("float32", "bfloat16"))
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_looking_changes_no_bit_of_the_logits_when_jitted(config, dtype):
    def tapped(params, images):
        taps = {}
        logits = ViT(config).apply({"params": params}, images, tap=lambda name, x: taps.setdefault(name, x))
        return logits, taps

    params, images = params_of(config, dtype), images_of(config, dtype)
    plain = jax.jit(lambda params, images: ViT(config).apply({"params": params}, images))(params, images)
    logits, taps = jax.jit(tapped)(params, images)
    same(logits, plain)
    same(taps["logits"], plain)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("config", (PAPER, ARTICLE), ids=("paper", "article"))
def test_a_model_computes_in_the_dtype_it_is_given(config, precision):
    with jax.enable_x64(precision == "float64"):
        logits, taps = run(config, DTYPES[precision])
    assert {tap.dtype for tap in (logits, *taps.values())} == {DTYPES[precision]}


def test_float64_is_more_than_a_name():
    with jax.enable_x64(True):
        wide, _ = run(PAPER, np.float64)
    assert not np.array_equal(wide, np.asarray(wide).astype(np.float32))


@pytest.mark.parametrize(("config", "rates"), DROPOUT, ids=("paper", "paper attention", "article attention", "path"))
def test_dropout_follows_its_key(config, rates):
    config = config.replace(**rates)
    quiet, _ = run(config)
    first, again, other = (run(config, train=True, rngs={"dropout": jax.random.key(seed)})[0] for seed in (0, 0, 1))
    same(first, again)
    assert not np.array_equal(first, quiet)
    assert not np.array_equal(first, other)


def test_training_without_dropout_changes_no_bit():
    same(run(PAPER.replace(**NO_DROPOUT), train=True)[0], run(PAPER)[0])


@pytest.mark.parametrize("rate", NO_DROPOUT)
def test_without_training_no_rate_changes_a_bit(rate):
    same(run(PAPER.replace(**{rate: 0.5}))[0], run(PAPER)[0])


@pytest.mark.parametrize("rate", NO_DROPOUT)
def test_no_rate_changes_a_weight(rate):
    assert canonical_shapes(PAPER.replace(**{rate: 0.5})) == canonical_shapes(PAPER)


@pytest.mark.parametrize("rate", NO_DROPOUT)
def test_training_with_dropout_needs_a_key(rate):
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        run(PAPER.replace(**{rate: 0.5}), train=True)


def test_dropout_falls_on_the_embedding_and_on_both_sub_layers():
    _, taps = run(PAPER.replace(dropout=0.5), train=True, rngs={"dropout": jax.random.key(0)})
    dropped = {name for name, tap in taps.items() if (np.asarray(tap) == 0).any()}
    assert dropped >= {name for name in TAPS if name == "embedding" or name.endswith(("attention", "mlp"))}
    assert not dropped & {"patches", "norm", "logits"}
    same(taps["encoder/00"], taps["embedding"] + taps["encoder/00/attention"] + taps["encoder/00/mlp"])


def test_the_two_dropouts_of_an_mlp_are_independent():
    config = PAPER.replace(dropout=0.5, mlp_dim=12)
    _, state = MLP(config).init_with_output(
        {"params": jax.random.key(0), "dropout": jax.random.key(1)},
        jnp.ones((2, 7, 12)),
        train=True,
        capture_intermediates=lambda module, _: isinstance(module, Dropout),
        mutable=["params", "intermediates"],
    )
    inner, outer = state["intermediates"]["dropout"]["__call__"]
    assert (inner == 0).any() and (outer == 0).any()
    assert not np.array_equal(inner == 0, outer == 0)


@pytest.mark.parametrize(("place", "leaves_zeros"), (("output", True), ("weights", False)))
def test_attention_dropout_falls_where_the_config_says(place, leaves_zeros):
    config = PAPER.replace(attention_dropout=0.1, attention_dropout_on=place)
    x = jax.random.normal(jax.random.key(0), (2, 7, 12))
    params = MultiHeadSelfAttention(config).init(jax.random.key(1), x)["params"]
    params["projection"] = {"kernel": jnp.eye(12), "bias": jnp.zeros(12)}  # the heads' output is seen as it is
    out = MultiHeadSelfAttention(config).apply({"params": params}, x, train=True, rngs={"dropout": jax.random.key(2)})
    assert not np.array_equal(out, MultiHeadSelfAttention(config).apply({"params": params}, x))
    assert bool((out == 0).any()) is leaves_zeros


@pytest.mark.parametrize(("share_layers", "own"), ((True, {"00"}), (False, {"00", "01"})))
def test_shared_layers_have_one_set_of_weights(share_layers, own):
    shapes = canonical_shapes(PAPER.replace(share_layers=share_layers))
    assert {name.split("/")[1] for name in shapes if name.startswith("encoder/")} == own


def test_shared_layers_compute_what_equal_layers_do():
    shared, untied = PAPER.replace(share_layers=True), PAPER
    weights = random_weights(shared, seed=0)
    doubled = weights | {name.replace("/00/", "/01/"): leaf for name, leaf in weights.items()}
    images = images_of(PAPER)
    same(
        ViT(shared).apply({"params": to_params(weights, shared)}, images),
        ViT(untied).apply({"params": to_params(doubled, untied)}, images),
    )


@pytest.mark.parametrize(("embed_dim", "found"), ((None, set()), (8, {"bias", "kernel"}), (12, {"bias", "kernel"})))
def test_a_second_projection_exists_only_with_an_embed_dim(embed_dim, found):
    shapes = canonical_shapes(PAPER.replace(embed_dim=embed_dim))
    assert {name.split("/")[-1] for name in shapes if name.startswith("embedding/projection/")} == found
    assert shapes["patches/conv/kernel"] == (8, 8, 3, embed_dim or 12)


@pytest.mark.parametrize("final_norm", (True, False))
def test_a_final_norm_exists_only_where_the_config_has_one(final_norm):
    config = PAPER.replace(final_norm=final_norm)
    assert ("norm/scale" in canonical_shapes(config)) is final_norm
    assert ("norm" in run(config)[1]) is final_norm


@pytest.mark.parametrize("share_norm", (True, False))
def test_a_block_has_a_second_norm_only_where_it_is_not_shared(share_norm):
    shapes = canonical_shapes(PAPER.replace(share_norm=share_norm))
    assert ("encoder/00/norm2/scale" not in shapes) is share_norm


def test_layer_norm_survives_a_large_offset():
    x = np.random.default_rng(0).standard_normal((64, 192), dtype=np.float32) + np.float32(1e3)
    wide = x.astype(np.float64)
    spread = wide - wide.mean(-1, keepdims=True)
    truth = spread / np.sqrt(np.mean(spread**2, -1, keepdims=True) + PAPER.norm_epsilon)
    norms = {"two-pass": layer_norm(PAPER), "fast": nn.LayerNorm(epsilon=PAPER.norm_epsilon, use_fast_variance=True)}
    plain = {"params": {"scale": np.ones(192), "bias": np.zeros(192)}}
    error = {name: np.abs(np.asarray(norm.apply(plain, x)) - truth).max() for name, norm in norms.items()}
    assert error["fast"] > 100 * error["two-pass"]
