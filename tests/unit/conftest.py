"""What several test files need."""

import jax
import pytest

from vit_flax.config import PRESETS, preset


@pytest.fixture(scope="module")
def quickly_compiled():
    """For what does not run long enough to earn back the time that XLA takes to optimise."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def one_layer():
    """The model of digits with a single layer, which compiles quickly, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "digits", preset("digits").replace(num_layers=1))
        yield
