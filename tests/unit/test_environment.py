"""What a record says of the device."""

import json
import platform
import subprocess

import jax
import pytest

from vit_flax.environment import begun, commit, cpu, environment, go_on_here, measured_on

TOLD = "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\ncpu family\t: 1\n"


@pytest.fixture
def told(tmp_path):
    return tmp_path / "cpuinfo"


def test_processors_of_one_name_are_told_apart(told):
    told.write_text(TOLD)
    newer = cpu(told)
    told.write_text(TOLD.replace("26", "25"))
    assert (newer, cpu(told)) == ("AMD EPYC, family 26, model 2", "AMD EPYC, family 25, model 2")


@pytest.mark.parametrize("text", [None, "processor\t: 0\nCPU part\t: 0xd0c\n"])
def test_where_linux_does_not_tell_python_does(told, text):
    if text:
        told.write_text(text)
    assert cpu(told) == (platform.processor() or platform.machine())


def test_a_record_names_the_processor():
    assert cpu() in environment()["device"]


def test_a_record_of_several_days_says_the_first_and_the_last():
    record = {"created": "2026-11-24T23:59:00+00:00", "environment": environment()}
    assert measured_on(record).endswith("Recorded 2026-11-24.")
    assert measured_on(record | {"ended": "2026-11-24T23:59:59+00:00"}).endswith("Recorded 2026-11-24.")
    assert measured_on(record | {"ended": "2026-11-29T00:00:00+00:00"}).endswith("Recorded 2026-11-24 to 2026-11-29.")


def test_a_record_that_goes_on_names_each_device_and_commit_once():
    found = {"device": "abacus"}
    for here in ({"device": "abacus", "commit": "f00"}, {"device": "cpu", "commit": "f00"}, {"device": "cpu"}):
        go_on_here(found, here)
    assert found == {"device": "abacus; cpu", "commit": "f00"}


def test_a_device_whose_name_begins_another_is_told_too():
    found = {"device": "abacus (slow)"}
    go_on_here(found, {"device": "abacus"})
    assert found["device"] == "abacus (slow); abacus"


def test_a_record_of_other_versions_is_not_continued(tmp_path):
    file = tmp_path / "part.json"
    fresh = {"environment": {"device": "abacus", "packages": {"jax": "0.2"}}}
    assert begun(file, fresh) is fresh
    file.write_text(json.dumps({"environment": {"device": "abacus", "packages": {"jax": "0.1"}}}))
    with pytest.raises(ValueError, match=r"part\.json was begun with other versions of the packages"):
        begun(file, fresh)


def test_a_record_says_what_jax_was_told(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert environment()["jax"] == {"matmul_precision": "default"}
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1  --xla_b=2")
    jax.config.update("jax_default_matmul_precision", "highest")
    try:
        assert environment()["jax"] == {"matmul_precision": "highest", "xla_flags": "--xla_a=1 --xla_b=2"}
    finally:
        jax.config.update("jax_default_matmul_precision", None)


def git(folder, *command):
    identity = ("-c", "user.name=someone", "-c", "user.email=someone@example.org")
    return subprocess.run(["git", "-C", folder, *identity, *command], check=True, capture_output=True, text=True).stdout


def test_the_commit_of_a_checkout_is_told_and_whether_anything_was_changed_since(tmp_path):
    file = tmp_path / "code.py"
    file.write_text("1")
    git(tmp_path, "init")
    assert commit(file) == {}
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD").strip()
    assert commit(file) == {"commit": head}
    file.write_text("2")
    assert commit(file) == {"commit": f"{head} and changes"}


def test_code_that_a_checkout_does_not_have_or_without_git_has_no_commit(tmp_path, monkeypatch):
    assert commit(tmp_path / "code.py") == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(tmp_path / "code.py") == {}
