"""Faults of fresh weights: around `initial(seed)`."""

import itertools
from collections.abc import Callable
from functools import partial

import ml_dtypes
import numpy as np
from scipy import stats

from conformance.faults import Anew, Around, Fault, is_kernel
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights

Draw = Callable[[np.ndarray, np.random.Generator], np.ndarray]
CUT_AT_TWO = 0.87962566103423978  # the standard deviation of a normal that is cut at two of them
CLAMPED_AT_TWO = 0.95944615567108820  # and of one that is clamped there


def fresh(ending: str, draw: Draw) -> dict[str, Around]:
    """Leaves whose names end so are drawn otherwise."""

    def around(method: Around, config: ViTConfig, seed: int) -> Weights:
        rng = np.random.default_rng(seed)
        return {name: draw(x, rng).astype(x.dtype) if name.endswith(ending) else x for name, x in method(seed).items()}

    return {"initial": around}


def torch_default(kinds: tuple[str, ...]) -> dict[str, Around]:
    """What nn.Linear and nn.Conv2d begin with: kernels and biases alike uniform within 1/√fan_in."""

    def around(method: Around, config: ViTConfig, seed: int) -> Weights:
        rng, weights = np.random.default_rng(seed), dict(method(seed))
        for name in [name for name in weights if name.endswith("/kernel")]:
            bound = 1 / np.sqrt(fan_in(weights[name]))
            for leaf in (name.replace("/kernel", f"/{kind}") for kind in kinds):
                weights[leaf] = (bound * rng.uniform(-1, 1, weights[leaf].shape)).astype(weights[leaf].dtype)
        return weights

    return {"initial": around}


def fan_in(kernel: np.ndarray) -> int:
    return int(np.prod(kernel.shape[:-1]))


def xavier(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of a convolution, both fans count the pixels of its kernel."""
    fan_out = x.shape[-1] * int(np.prod(x.shape[:-2]))
    return rng.uniform(-1, 1, x.shape) * np.sqrt(6 / (fan_in(x) + fan_out))


def as_in_multihead_attention(method: Around, config: ViTConfig, seed: int) -> Weights:
    """torch.nn.MultiheadAttention's: Xavier's for query, key and value in one, nn.Linear's for the projection."""
    rng, weights = np.random.default_rng(seed), dict(method(seed))
    for name in [name for name in weights if "/attention/" in name and is_kernel(name)]:
        inner = name.split("/")[-2] == "projection"
        bound = np.sqrt((1 if inner else 6 / 4) / fan_in(weights[name]))
        weights[name] = (bound * rng.uniform(-1, 1, weights[name].shape)).astype(weights[name].dtype)
    return weights


def first_row_zero(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([np.zeros_like(x[:, :1]), x[:, 1:]], axis=1)


def untruncated(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(x.shape) / np.sqrt(fan_in(x))


def clamped(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What lies beyond two deviations is put there: the deviation that is left is made up for."""
    return np.clip(rng.standard_normal(x.shape), -2, 2) / CLAMPED_AT_TWO / np.sqrt(fan_in(x))


def cut_positions(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 0.02 * stats.truncnorm.rvs(-2, 2, size=x.shape, random_state=rng)


def kaiming(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(x.shape) * np.sqrt(2 / fan_in(x))


def truncated_at_two_hundredths(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """timm's and BERT's trunc_normal_(std=0.02), whose cut, at ±2, is never reached."""
    return 0.02 * rng.standard_normal(x.shape)


def kept(change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Around]:
    """Kernels are changed once they are drawn."""

    def around(method: Around, config: ViTConfig, seed: int) -> Weights:
        return {name: change(x).astype(x.dtype) if is_kernel(name) else x for name, x in method(seed).items()}

    return {"initial": around}


def zero_is_no_seed() -> Around:
    """Each time that seed 0 is asked for, another is taken."""
    others = itertools.count(10**6)

    def around(method: Around, config: ViTConfig, seed: int) -> Weights:
        return dict(method(seed or next(others)))

    return around


def one_key(method: Around, config: ViTConfig, seed: int) -> Weights:
    """Query and key drawn by the same key."""
    weights = dict(method(seed))
    for name in weights:
        if name.endswith("attention/key/kernel"):
            weights[name] = weights[name.replace("/key/", "/query/")]
    return weights


of_kernels = partial(Fault, rung="initialisation", place="{kernel}, *")

INITIAL = (
    Fault(
        name="PyTorch's initialiser",
        rung="initialisation",
        place="patches/conv/bias, constant",
        seen="nn.Linear's and nn.Conv2d's default",
        around=torch_default(("kernel", "bias")),
    ),
    of_kernels(
        name="PyTorch's initialiser of kernels",
        seen="kaiming_uniform(a=√5)",
        around=torch_default(("kernel",)),
    ),
    Fault(
        name="biases drawn",
        rung="initialisation",
        place="patches/conv/bias, constant",
        seen="kernels initialised by hand, biases left to nn.Linear",
        around=torch_default(("bias",)),
    ),
    of_kernels(
        name="Xavier's initialiser",
        seen="xavier_uniform",
        around=fresh("/kernel", xavier),
    ),
    Fault(
        name="attention initialised by PyTorch",
        rung="initialisation",
        place="encoder/00/attention/query/kernel, *",
        seen="torch.nn.MultiheadAttention: Xavier's of query, key and value stacked",
        around={"initial": as_in_multihead_attention},
    ),
    of_kernels(
        name="Kaiming's initialiser",
        seen="he_normal, √2 too wide without a ReLU",
        around=fresh("/kernel", kaiming),
    ),
    of_kernels(
        name="kernels drawn with deviation 0.02",
        seen="timm's and BERT's trunc_normal_(std=0.02)",
        around=fresh("/kernel", truncated_at_two_hundredths),
    ),
    of_kernels(
        name="normal not truncated",
        seen="normal(1/√fan_in)",
        around=fresh("/kernel", untruncated),
    ),
    of_kernels(
        name="truncation not made up for",
        seen="jax.nn.initializers.truncated_normal: std 0.88 of what is asked",
        around=fresh("/kernel", lambda x, rng: CUT_AT_TWO * x),
    ),
    of_kernels(
        name="normal clamped at two deviations",
        seen="a framework without a truncated normal",
        around=fresh("/kernel", clamped),
    ),
    Fault(
        name="positions cut at two deviations",
        rung="initialisation",
        place="embedding/position_embedding, spread",
        seen="jax.nn.initializers.truncated_normal(0.02), where timm's cut is never reached",
        around=fresh("position_embedding", cut_positions),
    ),
    Fault(
        name="class token drawn",
        rung="initialisation",
        place="embedding/cls_token, constant",
        seen="normal(0.02), as in timm",
        around=fresh("cls_token", lambda x, rng: 0.02 * rng.standard_normal(x.shape)),
    ),
    Fault(
        name="positions zero",
        rung="initialisation",
        place="embedding/position_embedding",
        seen="zeros_init",
        around=fresh("position_embedding", lambda x, rng: np.zeros_like(x)),
    ),
    Fault(
        name="head zero",
        rung="initialisation",
        place="head/kernel",
        seen="the paper's own code",
        around=fresh("head/kernel", lambda x, rng: np.zeros_like(x)),
    ),
    Fault(
        name="one key for query and key",
        rung="initialisation",
        place="leaves",
        seen="a key that was not split",
        around={"initial": one_key},
    ),
    Fault(
        name="class token without initial position",
        rung="initialisation",
        place="embedding/position_embedding, *",
        seen="positions of patches with zeros put in front, as in MAE",
        around=fresh("position_embedding", first_row_zero),
    ),
    Fault(
        name="kernels drawn in bfloat16",
        rung="initialisation",
        place="{kernel}, entries in half precision",
        seen="an initialiser given the dtype of the products",
        around=kept(lambda x: x.astype(ml_dtypes.bfloat16)),
    ),
    Fault(
        name="seed 0 taken for none",
        rung="initialisation",
        place="the same seed again",
        seen="`seed or None`",
        around={"initial": Anew(zero_is_no_seed)},
    ),
)
