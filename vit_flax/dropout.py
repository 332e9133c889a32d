"""Dropout whose random bits cost next to nothing.

JAX's own generator, threefry, runs twenty rounds a number: on a CPU that takes longer than the matrix product whose
output is dropped. Here a key and a position are hashed instead, in two rounds, which fuses with what it masks.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, UInt32


class Dropout(nn.Module):
    """Training sets numbers to zero with probability `rate`, and scales up what it keeps (arXiv:1207.0580).

    Along `broadcast_dims` all numbers share one draw. Needs an rng named `dropout`.
    """

    rate: float
    broadcast_dims: tuple[int, ...] = ()

    def __call__(self, x: Float[Array, "..."], *, train: bool = False) -> Float[Array, "..."]:
        if self.rate == 0 or not train:
            return x
        keep = 1 - self.rate
        shape = tuple(1 if axis in self.broadcast_dims else size for axis, size in enumerate(x.shape))
        return jnp.where(bernoulli(self.make_rng("dropout"), keep, shape), x / keep, 0)


def bernoulli(key: jax.Array, keep: float, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    """True with probability `keep`, up to 2^-32, independently at each position."""
    return (random_bits(key, math.prod(shape)) < np.uint32(min(round(keep * 2**32), 2**32 - 1))).reshape(shape)


def random_bits(key: jax.Array, count: int) -> UInt32[Array, "count"]:
    """32 random bits for each position: the position hashed with one word of the key, then again with the other."""
    first, second = jax.random.key_data(key)[-2:]
    return _hash(_hash(jax.lax.iota(np.uint32, count) ^ first) ^ second)


def _hash(x: UInt32[Array, "count"]) -> UInt32[Array, "count"]:
    """A bijection of 32 bits in which each input bit flips each output bit half of the time.

    The constants are those that Chris Wellons found by search (lowbias32, github.com/skeeto/hash-prospector).
    """
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)
