"""The two sides of a comparison: anything that turns weights and images into taps.

    taps = side.taps(weights, images, given=None)

`weights` is the canonical dict, `images` is NHWC, and the dtype of both is the precision to compute in. The
result holds every tap by name, as NumPy arrays of that dtype; the reference's are in data order, a candidate's
need not be. `given` holds values from elsewhere: the side records what it computed at a tap, then goes on with
the given value instead. So one pass with the reference's taps as `given` runs every block *alone*, on the
reference's input.
"""

import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

import reference.config
import reference.model
from conformance import port
from conformance.precision import from_torch, to_torch
from vit_flax.config import ViTConfig
from vit_flax.layouts import TIMM, TORCHVISION, Layout
from vit_flax.model import ViT
from vit_flax.weights import Weights, to_params

Taps = dict[str, np.ndarray]


class Side(Protocol):
    """An implementation of a ViT, as the suite sees it."""

    def taps(self, weights: Weights, images: np.ndarray, given: Taps | None = None) -> Taps: ...


class Recorder:
    """A tap that keeps what it is shown, and hands back the given value where there is one."""

    def __init__(self, given: dict[str, Any] | None = None) -> None:
        self.given = given or {}
        self.taps: dict[str, Any] = {}

    def __call__(self, name: str, x: Any) -> Any:
        self.taps[name] = x
        return self.given.get(name, x)


class FlaxSide:
    """`vit_flax`, jitted."""

    def __init__(self, config: ViTConfig) -> None:
        self.config = config

    def taps(self, weights: Weights, images: np.ndarray, given: Taps | None = None) -> Taps:
        with jax.enable_x64(images.dtype == np.float64), jax.default_matmul_precision("highest"):
            params = jax.tree.map(jnp.asarray, to_params(weights, self.config))
            return jax.tree.map(np.asarray, _record(self.config, params, images, given))


@functools.partial(jax.jit, static_argnums=0)
def _record(config: ViTConfig, params: Any, images: jax.Array, given: dict[str, jax.Array] | None) -> Any:
    recorder = Recorder(given)
    ViT(config).apply({"params": params}, images, tap=recorder)
    return recorder.taps


class TorchSide:
    """A PyTorch model that is called like the twin; `layout` says where its weights go."""

    def __init__(self, model: nn.Module, state: nn.Module, layout: Layout, config: ViTConfig, device: str) -> None:
        self.model, self.state, self.layout, self.config, self.device = model.eval(), state, layout, config, device

    def load(self, weights: Weights) -> None:
        port.load_into(self.state, weights, self.layout, self.config)
        self.model.to(self.device)

    @torch.no_grad()
    def taps(self, weights: Weights, images: np.ndarray, given: Taps | None = None) -> Taps:
        self.load(weights)
        recorder = Recorder({name: to_torch(value, self.device) for name, value in (given or {}).items()})
        with torch.backends.cudnn.flags(allow_tf32=False):  # on by default for convolutions
            self.model(to_torch(images, self.device), tap=recorder)
        return {name: from_torch(tensor) for name, tensor in recorder.taps.items()}


def twin(architecture: str, config: ViTConfig, device: str) -> TorchSide:
    """The twin; `architecture` is the preset that `config` came from, and says nothing more."""
    model = reference.model.ViT(reference.config.ViTConfig(**dataclasses.asdict(config)))
    return TorchSide(model, model, port.TWIN, config, device)


def timm(architecture: str, config: ViTConfig, device: str) -> TorchSide:
    from reference.third_party import timm_vit  # takes seconds to import: only those who ask for it pay

    sizes = {"img_size": config.image_size, "depth": config.num_layers, "num_classes": config.num_classes}
    hooked = timm_vit(architecture, **sizes)
    return TorchSide(hooked, hooked.model, TIMM, config, device)


def torchvision(architecture: str, config: ViTConfig, device: str) -> TorchSide:
    from reference.third_party import torchvision_vit

    height, width = config.image_size
    if height != width:
        raise ValueError(f"torchvision's VisionTransformer takes square images only, not {height}x{width}")
    sizes = {"image_size": height, "num_layers": config.num_layers, "num_classes": config.num_classes}
    hooked = torchvision_vit(architecture, **sizes)
    return TorchSide(hooked, hooked.model, TORCHVISION, config, device)
