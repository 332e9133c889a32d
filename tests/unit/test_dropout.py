"""Dropout: its rule, and that its hashed bits are as good as independent ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vit_flax.dropout import Dropout, _hash, bernoulli, random_bits

KEY = jax.random.key(0)
COUNT = 1 << 16
UNLIKELY = 1e-6  # how often a sound generator fails one of these tests


def dropped(rate, x, key=KEY, **options):
    return np.asarray(Dropout(rate, **options).apply({}, x, train=True, rngs={"dropout": key}))


def agrees(share, expected, draws):
    """A share of so many independent draws is what it should be."""
    return stats.binomtest(round(share * draws), draws, expected).pvalue > UNLIKELY


def test_what_is_kept_is_scaled_up_and_the_rest_is_zero():
    out = dropped(0.25, jnp.full(COUNT, 3.0))
    assert set(np.unique(out)) == {0.0, 4.0}
    assert agrees((out != 0).mean(), 0.75, COUNT)


def test_in_evaluation_and_at_rate_zero_nothing_is_drawn():
    x = jnp.arange(8.0)
    assert Dropout(0.5).apply({}, x) is x
    assert Dropout(0.0).apply({}, x, train=True) is x


def test_numbers_along_broadcast_dimensions_share_a_draw():
    out = dropped(0.5, jnp.ones((64, 5, 7)), broadcast_dims=(1, 2))
    assert (out == out[:, :1, :1]).all()
    assert len(np.unique(out)) == 2


def test_the_dtype_stays():
    assert dropped(0.5, jnp.ones(8, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("keep", (0.001, 0.5, 0.9, 0.999))
def test_it_keeps_as_often_as_it_should(keep):
    draws = [np.asarray(bernoulli(jax.random.key(seed), keep, (COUNT,))) for seed in range(8)]
    assert agrees(np.mean(draws), keep, 8 * COUNT)
    assert all(agrees(draw.mean(), keep, COUNT) for draw in draws)


def test_keeping_all_and_keeping_none():
    assert np.asarray(bernoulli(KEY, 1.0, (COUNT,))).mean() > 1 - 2 / COUNT
    assert not np.asarray(bernoulli(KEY, 0.0, (COUNT,))).any()


def bits_of(words):
    return (np.asarray(words)[:, None] >> np.arange(32, dtype=np.uint32)) & 1


def independent(a, b):
    """Two streams of words agree in half of each of their 32 bits."""
    return all(agrees(share, 0.5, len(a)) for share in (bits_of(a) == bits_of(b)).mean(axis=0))


def sound(generate):
    """Of a generator of words from a key: bits are even, and no neighbour, no other key and no later step is alike."""
    words = np.asarray(generate(KEY, COUNT))
    bits = bits_of(words)
    others = [jax.random.key(1), *(jax.random.fold_in(KEY, step) for step in range(3))]
    return (
        all(agrees(share, 0.5, COUNT) for share in bits.mean(axis=0))
        and all(independent(words[:-lag], words[lag:]) for lag in (1, 2, 64, 192, 768))
        and all(independent(words, np.asarray(generate(other, COUNT))) for other in others)
        and all(agrees(share, 0.5, COUNT) for share in (bits[:, 1:] == bits[:, :-1]).mean(axis=0))
    )


def test_the_bits_pass():
    assert sound(random_bits)


def test_a_single_multiplication_would_not_pass():
    def poor(key, count):
        return (jax.lax.iota(np.uint32, count) ^ jax.random.key_data(key)[-1]) * np.uint32(0x7FEB352D)

    assert not sound(poor)


def test_no_two_positions_collide():
    words = np.asarray(random_bits(KEY, COUNT))
    assert len(np.unique(words)) == COUNT  # a hash that is a bijection


def test_each_input_bit_flips_each_output_bit_half_of_the_time():
    words = np.random.default_rng(0).integers(0, 2**32, COUNT, dtype=np.uint32)
    for bit in range(32):
        flipped = _hash(jnp.asarray(words)) ^ _hash(jnp.asarray(words ^ np.uint32(1 << bit)))
        assert (abs(bits_of(flipped).mean(axis=0) - 0.5) < 0.01).all()


def test_a_key_of_any_kind_will_do():
    for kind in ("threefry2x32", "rbg"):
        assert agrees(np.asarray(bernoulli(jax.random.key(3, impl=kind), 0.9, (COUNT,))).mean(), 0.9, COUNT)
    assert np.asarray(bernoulli(jax.random.PRNGKey(3), 0.9, (COUNT,))).any()
