"""How long it takes to import `vit_flax`, beside what it needs."""

import subprocess
import sys

import pytest

from tests.benchmark.race import race, ratio

pytestmark = pytest.mark.benchmark


def importing(*modules):
    return lambda: subprocess.run([sys.executable, "-c", f"import {', '.join(modules)}"], check=True)


def test_import(benchmark):
    contestants = {"vit_flax": importing("vit_flax"), "jax, flax": importing("jax", "flax.linen")}
    for run in contestants.values():
        run()
    slower = 1 / ratio(race(contestants, 20.0, rounds=(5, 9)), "jax, flax")
    benchmark.group = "import"
    benchmark.extra_info["over_jax_and_flax"] = slower
    benchmark.pedantic(contestants["vit_flax"], rounds=3)
    assert slower < 1.5
