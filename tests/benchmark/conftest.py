"""A record of a benchmark says what it was measured on, and what that device can do at best."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.benchmark.peaks import copy_peak, matmul_peak
from vit_flax.environment import environment, now
from vit_flax.memory import keep_memory


def pytest_configure(config):
    keep_memory()  # for all contestants, which share the process


@pytest.fixture(scope="session", autouse=True)
def compiled_anew():
    """How long it takes to compile is a figure, and not how long to read what was compiled before."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # it asks for the setting once only
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


def pytest_benchmark_update_json(config, benchmarks, output_json):
    output_json |= {"kind": "speed", "images": {"source": "random numbers"}, "seed": 0}
    output_json["created"] = now()
    output_json["environment"] = environment("torch", "torchvision", "timm", "pytest-benchmark")
    peaks = {dtype: matmul_peak(dtype) for dtype in ("float32", "bfloat16")}
    output_json["peaks"] = {"matmul": peaks, "copy": copy_peak()}
