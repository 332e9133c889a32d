"""What a record says of the device."""

import platform

import pytest

from vit_flax.environment import cpu, environment

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
