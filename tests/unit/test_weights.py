"""Weights keep every bit into a model and out of it, to disk and back; what does not fit is refused by name."""

import functools
import pickle
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from conformance.weights import random_weights
from vit_flax.config import preset
from vit_flax.model import ViT
from vit_flax.weights import WeightError, canonical_shapes, check, from_params, load, save, to_params

SMALL = dict(image_size=(16, 24), patch_size=8, hidden_dim=12, num_heads=3, mlp_dim=20, num_layers=2, num_classes=5)
CONFIGS = {
    "paper": preset("vit_ti16").replace(**SMALL),
    "article": preset("article").replace(**SMALL, embed_dim=8),
}
CONFIG = CONFIGS["article"]
KINDS = (".npz", ".safetensors")
NAME = re.compile(
    r"patches/conv/(kernel|bias)"
    r"|embedding/(cls_token|position_embedding|projection/(kernel|bias))"
    r"|encoder/\d\d/(norm[12]/(scale|bias)"
    r"|attention/(query|key|value|projection)/(kernel|bias)|mlp/fc[12]/(kernel|bias))"
    r"|norm/(scale|bias)|head/(kernel|bias)"
)
WRONG = (
    (lambda w: w.pop("head/bias"), "1 missing, first 'head/bias'"),
    (lambda w: w.update({"head/biass": w["head/bias"]}), "1 unused, first 'head/biass'"),
    (
        lambda w: w.update({"head/biass": w.pop("head/bias")}),
        "1 missing, first 'head/bias'; 1 unused, first 'head/biass'",
    ),
    (lambda w: w.update({"head/kernel": w["head/kernel"].T}), "'head/kernel' has shape (5, 12), expected (12, 5)"),
    (lambda w: w.update({"head/bias": w["head/bias"][None]}), "'head/bias' has shape (1, 5), expected (5,)"),
)
ARRAYS = {
    "a/kernel": np.random.default_rng(0).standard_normal((3, 4)),
    "a/bias": np.array([-0.0, np.inf, np.nan, 1e-45], np.float32),
    "transposed": np.arange(6, dtype=np.float16).reshape(2, 3).T,
}


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGED = (
    ("half.npz", lambda path: (np.savez(path, **ARRAYS), half(path))),
    ("half.safetensors", lambda path: (safetensors.numpy.save_file({"a": np.ones(99)}, path), half(path))),
    ("empty.npz", lambda path: path.write_bytes(b"")),
    ("empty.safetensors", lambda path: path.write_bytes(b"")),
    ("text.npz", lambda path: path.write_text("<html>404</html>")),
    ("text.safetensors", lambda path: path.write_text("<html>404</html>")),
    ("objects.npz", lambda path: np.savez(path, a=np.array([{"any": "thing"}], object))),
    ("pickle.npz", lambda path: path.write_bytes(pickle.dumps(ARRAYS))),
)


def same(a, b):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True)


@functools.cache
def params_of(config):
    """Parameters as the model makes them, but no two alike: it begins with many zeros and ones."""
    images, rng = jnp.zeros((1, *config.image_size, config.channels)), np.random.default_rng(0)
    shapes = jax.eval_shape(ViT(config).init, jax.random.key(0), images)["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype), shapes)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_parameters_come_back_bit_for_bit(config):
    params = params_of(config)
    jax.tree.map(same, to_params(from_params(params), config), params)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_weights_come_back_bit_for_bit(config):
    weights = random_weights(config, seed=0)
    back = from_params(to_params(weights, config))
    assert set(back) == set(weights)
    jax.tree.map(same, back, weights)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_canonical_names_have_the_expected_form(config):
    names = list(from_params(params_of(config)))
    assert [name for name in names if not NAME.fullmatch(name)] == []
    assert set(names) == set(canonical_shapes(config))


def test_layers_are_counted_from_zero_with_two_digits():
    config = CONFIGS["paper"].replace(num_layers=11)
    weights = random_weights(config, seed=0)
    assert {name.split("/")[1] for name in weights if name.startswith("encoder/")} == {f"{i:02}" for i in range(11)}
    assert set(from_params(to_params(weights, config))) == set(weights)


@pytest.mark.parametrize("use", (check, to_params), ids=("check", "to_params"))
@pytest.mark.parametrize(("change", "sentence"), WRONG, ids=("missing", "unused", "renamed", "transposed", "deeper"))
def test_a_leaf_that_does_not_fit_is_named(change, sentence, use):
    weights = dict(random_weights(CONFIG, seed=0))
    change(weights)
    with pytest.raises(WeightError, match=re.escape(sentence)):
        use(weights, CONFIG)


def test_weights_that_fit_pass_the_check():
    check(random_weights(CONFIG, seed=0), CONFIG)


@pytest.mark.parametrize("kind", KINDS)
def test_files_keep_every_bit(tmp_path, kind):
    save(ARRAYS, tmp_path / f"weights{kind}")
    back = load(tmp_path / f"weights{kind}")
    assert set(back) == set(ARRAYS)
    jax.tree.map(same, back, ARRAYS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_may_be_a_string(tmp_path, kind):
    save(ARRAYS, str(tmp_path / f"weights{kind}"))
    assert set(load(str(tmp_path / f"weights{kind}"))) == set(ARRAYS)


@pytest.mark.parametrize(("name", "write"), DAMAGED, ids=[name for name, _ in DAMAGED])
def test_a_damaged_file_is_named(tmp_path, name, write):
    write(tmp_path / name)
    with pytest.raises(WeightError, match=f"cannot read weight file .*{re.escape(name)}, it is damaged or incomplete"):
        load(tmp_path / name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_is_named(tmp_path, kind):
    with pytest.raises(WeightError, match=rf"no weight file .*absent\{kind}"):
        load(tmp_path / f"absent{kind}")


def test_a_folder_is_not_a_weight_file(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(WeightError, match=r"no weight file .*folder\.npz"):
        load(tmp_path / "folder.npz")


@pytest.mark.parametrize("name", ("weights.pt", "weights", "weights.npz.bak"))
def test_a_file_of_another_kind_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(WeightError, match=rf"{re.escape(name)}: expected a name ending in \.npz or \.safetensors"):
        load(tmp_path / name)
    with pytest.raises(WeightError, match=rf"{re.escape(name)}: expected a name ending in \.npz or \.safetensors"):
        save(ARRAYS, tmp_path / name)


@pytest.mark.parametrize(
    ("kind", "writer"), ((".npz", "numpy.savez"), (".safetensors", "safetensors.numpy.save_file")), ids=KINDS
)
@pytest.mark.parametrize("before", ({}, {"old": np.ones(3)}), ids=("no file yet", "a file already"))
def test_an_error_while_writing_leaves_things_as_they_were(tmp_path, monkeypatch, kind, writer, before):
    def fills_the_disk(*args, **arrays):
        partial = next(path for path in args if isinstance(path, Path))
        Path(partial).write_bytes(b"half of it")
        raise OSError("no space left on device")

    path = tmp_path / f"weights{kind}"
    if before:
        save(before, path)
    left = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.setattr(writer, fills_the_disk)
    with pytest.raises(OSError, match="no space left"):
        save(ARRAYS, path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == left


@pytest.mark.parametrize("kind", KINDS)
def test_saving_replaces_the_old_file_and_leaves_no_other(tmp_path, kind):
    path = tmp_path / f"weights{kind}"
    save({"old": np.ones(3)}, path)
    save({"new": np.zeros(2)}, path)
    assert list(load(path)) == ["new"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_folder_is_named_and_not_made(tmp_path, kind):
    with pytest.raises(WeightError, match=f"nowhere/weights{kind}: there is no folder"):
        save(ARRAYS, tmp_path / "nowhere" / f"weights{kind}")


def test_what_a_file_cannot_hold_is_refused_rather_than_changed(tmp_path):
    with pytest.raises(WeightError, match="cannot hold 'a', which is bfloat16"):
        save({"a": np.ones(2, ml_dtypes.bfloat16)}, tmp_path / "weights.npz")
    with pytest.raises(WeightError, match="cannot hold 'a', which is object"):
        save({"a": np.array([None])}, tmp_path / "weights.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_number_keeps_its_shape(tmp_path, kind):
    save({"a": np.array(1.0)}, tmp_path / f"weights{kind}")
    assert load(tmp_path / f"weights{kind}")["a"].shape == ()


def test_an_array_file_under_another_name_is_refused(tmp_path):
    with (tmp_path / "weights.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(WeightError, match=r"cannot read weight file .*weights\.npz"):
        load(tmp_path / "weights.npz")
