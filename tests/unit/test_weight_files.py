"""Weight files keep every bit, and what is no checkpoint is refused by name before it costs memory or time."""

import io
import json
import os
import pickle
import re
import struct
import time
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from vit_flax import weight_files
from vit_flax.files import UNPACKED_FREELY
from vit_flax.weight_files import LARGEST_LIST, MOST_ARRAYS, load, save
from vit_flax.weights import WeightError

KINDS = (".npz", ".safetensors")
ARRAYS = {
    "a/kernel": np.random.default_rng(0).standard_normal((3, 4)),
    "a/bias": np.array([-0.0, 1e38, -3.5, 1e-45], np.float32),
    "transposed": np.arange(6, dtype=np.float16).reshape(2, 3).T,
    "empty": np.ones((0, 3), np.float32),
}
NO_FLOATS = {
    "int8": np.ones(3, np.int8),
    "int64": np.ones(3, np.int64),
    "uint16": np.ones(3, np.uint16),
    "bool": np.ones(3, bool),
    "complex64": np.ones(3, np.complex64),
    "float8_e4m3fn": np.ones(3, ml_dtypes.float8_e4m3fn),
}
NPZ_ONLY = {
    "complex128": np.ones(3, np.complex128),
    "longdouble": np.ones(3, np.longdouble),
    "object": np.array([{"any": "thing"}], object),
    "string": np.array(["any"]),
    "bytes": np.array([b"any"]),
    "fields": np.ones(3, [("x", np.float32)]),
    "date": np.array(["2026-01-01"], "datetime64[D]"),
}


def same(a, b):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True)


def write(arrays, path):
    """As others write it, whatever it is."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        safetensors.numpy.save_file(arrays, path)


def write_safetensors(path, header, data=b""):
    """With this header, as text or as what becomes JSON."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def write_members(path, *members, compression=zipfile.ZIP_STORED):
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def floats(first=0, last=12, shape=(3,), **others):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [first, last], **others}


ONES = np.ones(3, np.float32).tobytes()
DAMAGED = (
    ("half.npz", lambda path: (np.savez(path, **ARRAYS), half(path))),
    ("half.safetensors", lambda path: (safetensors.numpy.save_file({"a": np.ones(99)}, path), half(path))),
    ("empty.npz", lambda path: path.write_bytes(b"")),
    ("empty.safetensors", lambda path: path.write_bytes(b"")),
    ("text.npz", lambda path: path.write_text("<html>404</html>")),
    ("text.safetensors", lambda path: path.write_text("<html>404</html>")),
    ("pickle.npz", lambda path: path.write_bytes(pickle.dumps(ARRAYS))),
    ("array.npz", lambda path: path.write_bytes(npy(np.ones(3)))),
    ("deep.safetensors", lambda path: write_safetensors(path, b"[" * 100_000)),
    ("rest.safetensors", lambda path: write_safetensors(path, {"a": floats()}, ONES + b"rest")),
    ("short.safetensors", lambda path: write_safetensors(path, {"a": floats()}, ONES[:-1])),
    ("list.safetensors", lambda path: write_safetensors(path, [1, 2])),
    ("latin.safetensors", lambda path: write_safetensors(path, '{"ä": 1}'.encode("latin-1"))),
    ("digits.safetensors", lambda path: write_safetensors(path, b'{"a": ' + b"9" * 5000 + b"}")),
    ("header.npz", lambda path: write_members(path, ("a.npy", npy(np.ones(3)).replace(b"{", b"[")))),
    ("nested.npz", lambda path: write_members(path, ("a.npy", npy(np.ones(3)).replace(b" " * 10, b"(" * 10)))),
)


def encrypted(path):
    write_members(path, ("a.npy", npy(np.ones(3))))
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + place] |= 1
    path.write_bytes(content)


REFUSED = (  # its name, how it is written, and the sentence
    ("twice.npz", lambda p: write_members(p, *2 * [("a.npy", npy(np.ones(3)))]), "it has 'a' twice"),
    ("twice.safetensors", lambda p: write_safetensors(p, b'{"a": 1, "a": 2}'), "it has 'a' twice"),
    (
        "shape twice.safetensors",
        lambda p: write_safetensors(p, b'{"a": {"dtype": "F32", "shape": [3], "shape": [3], "data_offsets": [0, 12]}}'),
        "it has 'shape' twice",
    ),
    ("other.npz", lambda p: write_members(p, ("a.txt", b"hello")), "'a.txt' is no array"),
    (
        "lzma.npz",
        lambda p: write_members(p, ("a.npy", npy(np.ones(3))), compression=zipfile.ZIP_LZMA),
        "'a' is compressed as NumPy never does",
    ),
    (
        "longer.npz",
        lambda p: write_members(p, ("a.npy", npy(np.ones(3)) + b"more")),
        "'a' has 28 bytes, but shape (3,) and float64 need 24",
    ),
    (
        "shorter.npz",
        lambda p: write_members(p, ("a.npy", npy(np.ones(3))[:-4])),
        "'a' has 20 bytes, but shape (3,) and float64 need 24",
    ),
    (
        "below.npz",
        lambda p: write_members(p, ("a.npy", npy(np.ones(3)).replace(b"(3,), }  ", b"(-3,), } "))),
        "'a' has sizes or places that are no whole numbers: (-3,)",
    ),
    (
        "truth.npz",
        lambda p: write_members(p, ("a.npy", npy(np.ones(3)).replace(b"(3,), }   ", b"(True,), }"))),
        "'a' has sizes or places that are no whole numbers: (True,)",
    ),
    (
        "version.npz",
        lambda p: write_members(p, ("a.npy", npy(np.ones(3)).replace(b"Y\1\0", b"Y\3\0"))),
        "'a' is of version (3, 0) of NumPy's format",
    ),
    ("gap.safetensors", lambda p: write_safetensors(p, {"a": floats(4, 16)}, b"1234" + ONES), "'a' begins at byte "),
    (
        "overlap.safetensors",
        lambda p: write_safetensors(p, {"a": floats(), "b": floats(8, 20)}, ONES + b"12345678"),
        "'b' begins at byte ",
    ),
    ("same.safetensors", lambda p: write_safetensors(p, {"a": floats(), "b": floats()}, ONES), "'b' begins at byte "),
    (
        "size.safetensors",
        lambda p: write_safetensors(p, {"a": floats(shape=(4,))}, ONES),
        "'a' has 12 bytes, but shape (4,) and float32 need 16",
    ),
    (
        "fraction.safetensors",
        lambda p: write_safetensors(p, {"a": floats(shape=(3.0,))}, ONES),
        "'a' has sizes or places that are no whole numbers: (3.0,)",
    ),
    (
        "below.safetensors",
        lambda p: write_safetensors(p, {"a": floats(shape=(-1, -3))}, ONES),
        "'a' has sizes or places that are no whole numbers: (-1, -3)",
    ),
    (
        "more.safetensors",
        lambda p: write_safetensors(p, {"a": floats(strides=[1])}, ONES),
        "'a' lacks a dtype, a shape",
    ),
    ("less.safetensors", lambda p: write_safetensors(p, {"a": {"dtype": "F32"}}, ONES), "'a' lacks a dtype, a shape"),
)


@pytest.mark.parametrize(("name", "write", "sentence"), REFUSED, ids=[name for name, *_ in REFUSED])
def test_a_file_that_contradicts_itself_is_refused_by_name(tmp_path, name, write, sentence):
    write(tmp_path / name)
    with pytest.raises(WeightError, match=rf"^weight file {re.escape(str(tmp_path / name))}: {re.escape(sentence)}"):
        load(tmp_path / name)


def test_an_encrypted_file_is_refused(tmp_path):
    encrypted(tmp_path / "a.npz")
    with pytest.raises(WeightError, match=r"cannot read weight file .*a\.npz, .*encrypted"):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(kind, dtype) for kind in KINDS for dtype in NO_FLOATS] + [(".npz", dtype) for dtype in NPZ_ONLY],
)
def test_what_is_not_a_real_floating_number_is_refused(tmp_path, kind, dtype):
    path = tmp_path / f"weights{kind}"
    write({"fine": np.ones(3), "b/odd": (NO_FLOATS | NPZ_ONLY)[dtype]}, path)
    allowed = "but weights are of float16, bfloat16, float32, float64"
    with pytest.raises(WeightError, match=rf"^weight file .*weights\{kind}: 'b/odd' is of .*, {allowed}$"):
        load(path)
    with pytest.raises(WeightError, match=rf"^cannot write .*weights\{kind}: it cannot hold 'b/odd', which"):
        save({"b/odd": (NO_FLOATS | NPZ_ONLY)[dtype]}, path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", (np.float16, np.float32, np.float64))
@pytest.mark.parametrize("value", (np.nan, np.inf, -np.inf))
def test_values_that_are_not_finite_are_refused_and_counted(tmp_path, kind, dtype, value):
    odd = np.ones((3, 4), dtype)
    odd[1] = value
    write({"fine": np.ones(3), "b/odd": odd}, tmp_path / f"weights{kind}")
    sentence = r"'b/odd' has 4 of 12 values that are not finite \(NaN or infinite\)$"
    with pytest.raises(WeightError, match=rf"^weight file .*weights\{kind}: {sentence}"):
        load(tmp_path / f"weights{kind}")
    with pytest.raises(WeightError, match=rf"^weight file .*new\{kind}: {sentence}"):
        save({"b/odd": odd}, tmp_path / f"new{kind}")


def test_a_half_of_bfloat16_is_read_and_judged(tmp_path):
    path = tmp_path / "weights.safetensors"
    save({"a": np.array([1.5, -2], ml_dtypes.bfloat16)}, path)
    same(load(path)["a"], np.array([1.5, -2], ml_dtypes.bfloat16))
    write({"a": np.array([1.5, np.nan], ml_dtypes.bfloat16)}, path)
    with pytest.raises(WeightError, match="'a' has 1 of 2 values that are not finite"):
        load(path)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ("f2", "f4", "f8"))
def test_numbers_of_either_byte_order_are_read_alike(tmp_path, order, dtype):
    numbers = np.arange(6).reshape(2, 3)
    np.savez(tmp_path / "a.npz", a=numbers.astype(order + dtype), b=np.asfortranarray(numbers, order + dtype))
    for array in load(tmp_path / "a.npz").values():
        same(array, numbers.astype(dtype))


def test_a_compressed_file_is_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **ARRAYS)
    jax.tree.map(same, load(tmp_path / "a.npz"), ARRAYS)


def test_metadata_are_no_array(tmp_path):
    safetensors.numpy.save_file({"a": np.ones(3)}, tmp_path / "a.safetensors", {"format": "pt"})
    assert list(load(tmp_path / "a.safetensors")) == ["a"]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_read_until_the_names_and_shapes_are_checked(tmp_path, monkeypatch, kind):
    save({"a": np.ones((2, 3)), "b": np.ones(4, np.float32)}, tmp_path / f"weights{kind}")
    monkeypatch.setattr(weight_files, "_read", lambda name, stored: pytest.fail(f"{name} was read"))

    def check(stored):
        assert {name: array.shape for name, array in stored.items()} == {"a": (2, 3), "b": (4,)}
        raise WeightError("of another model")

    with pytest.raises(WeightError, match=r"^of another model$"):
        load(tmp_path / f"weights{kind}", check)


def peak_of_refusal(path, sentence, check=None):
    """Bytes and seconds that it takes to refuse a file."""
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(WeightError, match=sentence):
        load(path, check)
    seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak, seconds


def refuse(stored):
    raise WeightError("other shapes")


@pytest.mark.parametrize(("check", "sentence"), ((None, "far more than its size"), (refuse, "other shapes")))
def test_a_bomb_is_refused_before_it_unpacks(tmp_path, check, sentence):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(UNPACKED_FREELY // 8 + 1))
    assert (tmp_path / "a.npz").stat().st_size < 2**20
    peak, _ = peak_of_refusal(tmp_path / "a.npz", sentence, check)
    assert peak < 2**20


def test_a_file_of_zeros_is_no_bomb_if_it_is_small(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(UNPACKED_FREELY // 64))
    assert not load(tmp_path / "a.npz")["a"].any()


def million_members(path):
    fields = (20, 20, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0)
    entries = 1_000_000 * (struct.pack("<4s6H3L5H2L", b"PK\1\2", *fields) + b"a.npy")
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2**16 - 1, 2**16 - 1, len(entries), 0, 0)
    path.write_bytes(entries + end)


def million_entries(path):
    write_safetensors(path, b"{" + 1_000_000 * b'"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, ')


@pytest.mark.parametrize(("name", "write"), (("a.npz", million_members), ("a.safetensors", million_entries)), ids=KINDS)
def test_a_million_names_are_refused_at_once(tmp_path, name, write):
    write(tmp_path / name)
    sentence = f"the list of its arrays takes [0-9,]+ bytes, but {LARGEST_LIST:,} are more than enough"
    peak, seconds = peak_of_refusal(tmp_path / name, sentence)
    assert peak < 2**20
    assert seconds < 1


@pytest.mark.parametrize("kind", KINDS)
def test_more_arrays_than_any_model_has_are_refused(tmp_path, kind):
    write({str(i): np.ones((), np.float16) for i in range(MOST_ARRAYS + 1)}, tmp_path / f"weights{kind}")
    with pytest.raises(WeightError, match=r"it has more than 10,000 arrays"):
        load(tmp_path / f"weights{kind}")


def test_a_name_that_is_too_long_to_read_is_cut(tmp_path):
    write({"x" * 5000: np.ones(3, int)}, tmp_path / "a.npz")
    with pytest.raises(WeightError, match=r"x{90}…") as refusal:
        load(tmp_path / "a.npz")
    assert len(str(refusal.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path, kind):
    os.mkfifo(tmp_path / f"weights{kind}")
    with pytest.raises(WeightError, match=rf"no weight file .*weights\{kind}: it .*is a folder, a pipe or a device"):
        load(tmp_path / f"weights{kind}")


def test_a_malicious_pickle_is_never_run(tmp_path):
    class Malice:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    np.savez(tmp_path / "a.npz", a=np.array([Malice()], object))
    with pytest.raises(WeightError, match="'a' is of 'object'"):
        load(tmp_path / "a.npz")
    assert not (tmp_path / "harm").exists()


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
    with pytest.raises(WeightError, match=rf"no weight file .*absent\{kind}: it does not exist"):
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
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_number_keeps_its_shape(tmp_path, kind):
    save({"a": np.array(1.0)}, tmp_path / f"weights{kind}")
    assert load(tmp_path / f"weights{kind}")["a"].shape == ()
