"""Who may import whom: vit_flax -> jax, reference -> torch, conformance -> both, and nothing -> tests."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import conformance
import reference
import vit_flax

ROOT = Path(vit_flax.__file__).parents[1]
ROOMS = ("vit_flax", "reference", "conformance")
FORBIDDEN = (
    (vit_flax, {"torch", "torchvision", "timm", "transformers", "reference", "conformance", "tests"}),
    (reference, {"jax", "jaxlib", "flax", "optax", "orbax", "vit_flax", "conformance", "tests"}),
)
LIMITS = {"atol", "rtol", "abs_tol", "rel_tol"}
WITH_LIMITS = {"assert_allclose", "allclose", "isclose", "approx"}  # these bring a limit of their own
STRAYS = (
    "close = compare(a, b, {limit}=1)".format,
    "def close(a, b, {limit}=1): ...".format,
    "def close(a, b, *, {limit}): ...".format,
    "{limit} = 1".format,
)


def modules_of(package):
    names = [package.__name__]
    names += [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return [name for name in names if not name.rsplit(".")[-1].startswith(("test_", "__main__"))]


def loaded_by(modules):
    """The top-level packages that a fresh interpreter holds once it has imported these modules."""
    code = f"import {', '.join(modules)}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def imports_in(source):
    """Every top-level package that a file imports, wherever in the file that stands."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=str(name)):
                names.add(name)
    return {name.partition(".")[0] for name in names}


def limits_in(source):
    """Every tolerance that a file sets, and every helper it names that has one built in."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.keyword(arg=name) | ast.arg(arg=name) | ast.Name(id=name) | ast.Attribute(attr=name):
                found |= {name} & (LIMITS | WITH_LIMITS)
            case ast.ImportFrom(names=aliases):
                found |= {alias.name for alias in aliases} & WITH_LIMITS
    return found


def python_files(*folders):
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize(("package", "forbidden"), FORBIDDEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_side_loads_nothing_of_the_other(package, forbidden):
    loaded = loaded_by(modules_of(package))
    assert loaded >= {package.__name__, "numpy"}
    assert not loaded & forbidden


def test_the_check_would_see_both_sides_together():
    loaded = loaded_by(["conformance.flax_side", "conformance.torch_side"])
    assert all(loaded & forbidden for _, forbidden in FORBIDDEN)
    assert loaded >= {"jax", "flax", "torch", "vit_flax", "reference"}


@pytest.mark.parametrize("package", (vit_flax, reference, conformance), ids=ROOMS)
def test_no_module_is_left_unchecked(package):
    files = {file.stem for file in Path(package.__file__).parent.glob("*.py")}
    checked = {name.rsplit(".")[-1] for name in modules_of(package)}
    assert {name for name in files - checked if not name.startswith("test_")} <= {"__init__", "__main__", "conftest"}


def test_no_source_imports_tests():
    sources = python_files(*ROOMS)
    assert len(sources) > len(ROOMS)
    assert {file.name for file in sources if "tests" in imports_in(file.read_text())} == set()


@pytest.mark.parametrize(
    "source", ("import tests", "from tests.unit import x", "def f():\n    import numpy, tests.unit.test_model as t")
)
def test_an_import_of_tests_would_be_found(source):
    assert "tests" in imports_in(source)


def test_no_file_sets_a_tolerance_of_its_own():
    files = [*python_files(*ROOMS, "tests", "examples"), *ROOT.glob("*.py")]
    assert Path(__file__) in files
    strays = {file.relative_to(ROOT): limits_in(file.read_text()) for file in files}
    strays.pop(Path("conformance/tolerances.py"))
    assert {file: found for file, found in strays.items() if found} == {}


@pytest.mark.parametrize("limit", sorted(LIMITS))
@pytest.mark.parametrize("stray", STRAYS, ids=("argument", "default", "parameter", "variable"))
def test_a_stray_tolerance_would_be_found(tmp_path, limit, stray):
    (tmp_path / "stray.py").write_text(stray(limit=limit))
    assert limits_in((tmp_path / "stray.py").read_text()) == {limit}


@pytest.mark.parametrize("helper", sorted(WITH_LIMITS))
@pytest.mark.parametrize("stray", ("module.{}(a, b)", "from module import {}", "{}(a, b)"))
def test_a_helper_with_a_limit_of_its_own_would_be_found(helper, stray):
    assert limits_in(stray.format(helper)) == {helper}
