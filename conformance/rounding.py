"""Rounding to fewer bits than a dtype has."""

import numpy as np


def to_bits(x: np.ndarray, bits: int) -> np.ndarray:
    """Rounded to so many significant bits, halves to even; the dtype stays."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.round(mantissa * 2**bits) / 2**bits, exponent).astype(x.dtype)
