"""A certificate says of every known layout that nothing is lost, doubled or moved; and of a bad one, what is."""

import subprocess
import sys

import numpy as np
import pytest

from conformance.certificate import KNOWN, certify
from vit_flax.config import preset

SMALL = dict(image_size=(16, 24), patch_size=8, hidden_dim=12, num_heads=3, mlp_dim=20, num_layers=2, num_classes=5)
CONFIG = preset("vit_ti16").replace(**SMALL)
TIMM = KNOWN["timm"]


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_layout_is_certified(name):
    certificate = certify(KNOWN[name], CONFIG)
    assert certificate.holds
    assert {leaf for line in certificate.lines for leaf in line.leaves} >= {"head/bias", "encoder/01/mlp/fc1/kernel"}
    assert str(certificate).count("\n") == len(certificate.lines)


def transposed(weights, config):
    """A square kernel that passes every check of shapes."""
    arrays = TIMM.write(weights, config)
    return arrays | {"blocks.0.attn.proj.weight": arrays["blocks.0.attn.proj.weight"].T.copy()}


def swapped(weights, config):
    arrays = TIMM.write(weights, config)
    a, b = "blocks.0.norm1.weight", "blocks.0.norm2.weight"
    return arrays | {a: arrays[b], b: arrays[a]}


def doubled(weights, config):
    arrays = TIMM.write(weights, config)
    return arrays | {"blocks.1.norm1.weight": arrays["blocks.0.norm1.weight"]}


def rounded(weights, config):
    return {key: array.astype(np.float16).astype(np.float64) for key, array in TIMM.write(weights, config).items()}


@pytest.mark.parametrize("wrong", (transposed, swapped))
def test_what_is_moved_breaks_the_round_trip(wrong):
    certificate = certify(TIMM, CONFIG, write=wrong)
    assert certificate.bijection
    assert not certificate.round_trip
    assert "round trip: NO" in str(certificate)


@pytest.mark.parametrize("wrong", (doubled, rounded))
def test_what_is_doubled_or_rounded_breaks_the_bijection(wrong):
    certificate = certify(TIMM, CONFIG, write=wrong)
    assert not certificate.bijection
    assert not certificate.holds


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    (
        (["timm", "digits"], 0, "round trip: yes"),
        (["tim", "digits"], 1, "did you mean timm"),
        (["timm", "digit"], 1, "did you mean digits"),
        ([], 1, "python -m conformance.certificate"),
    ),
)
def test_the_command(arguments, code, text):
    run = subprocess.run(
        [sys.executable, "-m", "conformance.certificate", *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == code
    assert text in run.stdout + run.stderr
