"""A JAX model as a target: taps and gradients of any function from arrays and images to taps."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from conformance.flax_side import computing
from conformance.sides import Gradients, Recorder, Taps
from vit_flax.config import ViTConfig
from vit_flax.layouts import Layout
from vit_flax.weights import Weights

Arrays = dict[str, jax.Array]  # the model's own, by the names that its layout has for them


class Nudged(Recorder):
    """A tap that adds the given value: the gradient with respect to that is the tap's own."""

    def __call__(self, name: str, x: Any) -> Any:
        self.taps[name] = x + self.given[name]
        return self.taps[name]


class JaxModel:
    """`forward(arrays, images, given, recorder)` calls the model with the tap `recorder(given)`, and returns its taps.

    `around` is a context for the model to be traced in.
    """

    def __init__(
        self,
        forward: Callable[[Arrays, jax.Array, Any, type[Recorder]], Any],
        layout: Layout,
        config: ViTConfig,
        around: Callable[[], Any] = contextlib.nullcontext,
    ) -> None:
        self.forward, self.layout, self.config, self.around = forward, layout, config, around
        self._taps = jax.jit(lambda arrays, images, given: forward(arrays, images, given, Recorder))
        self._gradients = jax.jit(self._backward, static_argnames="free")

    def held(self, weights: Weights) -> Weights:
        with computing(np.float64):  # else JAX would halve what is wider than float32
            return self._read(self._load(weights))

    def taps(self, weights: Weights, images: np.ndarray, given: Taps | None = None) -> Taps:
        with computing(images.dtype), self.around():
            return jax.tree.map(np.asarray, self._taps(self._load(weights), images, given))

    def gradients(self, weights: Weights, images: np.ndarray, upstream: Taps, given: Taps | None = None) -> Gradients:
        with computing(images.dtype), self.around():
            arrays = self._load(weights)
            values = given or jax.tree.map(np.zeros_like, self._taps(arrays, images, None))
            grads = self._gradients(arrays, images, values, upstream, free=given is None)
            d_arrays, d_images, d_values = jax.tree.map(np.asarray, grads)
            return Gradients({"images": d_images} | d_values, self._read(d_arrays))

    def _backward(self, arrays: Arrays, images: jax.Array, values: Any, upstream: Any, free: bool) -> Any:
        """`values` are the taps to go on with; where the model runs free, zeros to be added to its own."""

        def objective(arrays: Arrays, images: jax.Array, values: Any) -> jax.Array:
            taps = self.forward(arrays, images, values, Nudged if free else Recorder)
            return sum(jnp.vdot(upstream[name], taps[name]) for name in upstream)

        return jax.grad(objective, argnums=(0, 1, 2))(arrays, images, values)

    def _load(self, weights: Weights) -> Arrays:
        return jax.tree.map(jnp.asarray, self.layout.write(weights, self.config))

    def _read(self, arrays: Arrays) -> Weights:
        return self.layout.read(jax.tree.map(np.asarray, arrays), self.config)
