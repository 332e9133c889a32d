"""A damaged weight file gives the weights that it gave before, or one sentence that names it; never anything else."""

import io
import json
import struct
import warnings
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from damage import Tally, damaged

from conformance.weights import random_weights
from vit_flax.config import preset
from vit_flax.layouts import TIMM, load_any

CONFIG = preset("vit_ti16").replace(
    image_size=(8, 8), patch_size=4, hidden_dim=4, num_heads=2, mlp_dim=6, num_layers=1, num_classes=3
)
WEIGHTS = random_weights(CONFIG, seed=0)
FOREIGN = TIMM.write(WEIGHTS, CONFIG)
WRONG_DTYPES = ("i1", "i8", "u2", "?", "c8", "c16", "g", "O", "S4", "U2", "M8[s]", "V4", "i4,f4")


def stored(arrays, kind):
    """The bytes of a file of these arrays."""
    if kind == "safetensors":
        # safetensors writes a transposed array's memory under its new shape.
        return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    stream = io.BytesIO()
    (np.savez_compressed if kind == "compressed.npz" else np.savez)(stream, **arrays)
    return stream.getvalue()


KINDS = ("npz", "compressed.npz", "safetensors")
FILES = [(kind, stored(arrays, kind)) for kind in KINDS for arrays in (WEIGHTS, FOREIGN)]


def is_same(weights):
    """Bit for bit what was written."""
    return list(weights) == list(WEIGHTS) and all(
        weights[name].dtype == leaf.dtype and weights[name].tobytes() == leaf.tobytes()
        for name, leaf in WEIGHTS.items()
    )


def wrong_arrays(rng):
    """Whole files that are no checkpoint: one array is of another dtype or shape, or has a value that is not finite."""
    arrays = dict(FOREIGN if rng.integers(2) else WEIGHTS)
    name = list(arrays)[rng.integers(len(arrays))]
    kind = KINDS[rng.integers(3)]
    match rng.integers(3):
        case 0:
            dtype = WRONG_DTYPES[rng.integers(5 if kind == "safetensors" else len(WRONG_DTYPES))]
            dtype = ml_dtypes.float8_e5m2 if kind == "safetensors" and rng.integers(2) else dtype
            arrays[name] = np.zeros(arrays[name].shape, dtype)
        case 1:
            arrays[name] = arrays[name].copy()
            arrays[name].flat[rng.integers(arrays[name].size)] = rng.choice((np.nan, np.inf, -np.inf))
        case 2:
            arrays[name] = arrays[name][..., None] if rng.integers(2) else arrays[name][..., :-1]
    return kind, stored(arrays, kind)


def doubled_name(rng):
    """A file in which one name comes twice, with the same array."""
    name = list(FOREIGN)[rng.integers(len(FOREIGN))]
    if rng.integers(2):
        stream = io.BytesIO(stored(FOREIGN, "npz"))
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(stream, "a") as archive:
            archive.writestr(f"{name}.npy", archive.read(f"{name}.npy"))
        return "npz", stream.getvalue()
    content = stored(FOREIGN, "safetensors")
    (length,) = struct.unpack("<Q", content[:8])
    entry = json.dumps(json.loads(content[8 : 8 + length])[name])
    header = content[8 : 8 + length].rstrip()[:-1] + f', "{name}": {entry}}}'.encode()
    return "safetensors", struct.pack("<Q", len(header)) + header + content[8 + length :]


def try_files(folder, count, seed):
    tally, rng = Tally(), np.random.default_rng(seed)
    for i in range(count):
        must_refuse = i % 5 == 0
        if must_refuse:
            kind, content = (wrong_arrays if i % 15 else doubled_name)(rng)
        else:
            kind, content = FILES[rng.integers(len(FILES))]
            content = damaged(content, rng)
        path = folder / f"{i}.{kind}"
        path.write_bytes(content)
        outcome = tally.try_file(lambda path=path: load_any(path, CONFIG), is_same, path)
        assert outcome == "refused" or not must_refuse, f"{path} was read"
        # Nothing in a safetensors file guards its numbers.
        assert outcome != "changed" or kind == "safetensors", f"{path} was read, and changed"
        path.unlink()
    return tally


@pytest.mark.parametrize(("kind", "content"), FILES)
def test_undamaged_files_are_read(tmp_path, kind, content):
    (tmp_path / f"a.{kind}").write_bytes(content)
    assert is_same(load_any(tmp_path / f"a.{kind}", CONFIG))


def test_damaged_files_are_read_unchanged_or_refused(tmp_path):
    tally = try_files(tmp_path, 400, seed=0)
    assert tally.outcomes["refused"] > 200
    assert tally.outcomes["read unchanged"] > 10


@pytest.mark.slow
def test_thousands_of_damaged_files_are_read_unchanged_or_refused(tmp_path):
    print(try_files(tmp_path, 6000, seed=1))
