"""Rounding to fewer bits than a dtype has."""

import numpy as np


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Rounded as frameworks cast: by way of float32, which may bring a float64 to a tie. The dtype stays."""
    return to_bits(x.astype(np.float32), 8).astype(x.dtype)


def to_bits(x: np.ndarray, bits: int) -> np.ndarray:
    """Rounded to so many significant bits, halves to even; the dtype stays."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.round(mantissa * 2**bits) / 2**bits, exponent).astype(x.dtype)
