"""Who races: `vit_flax`, jitted, and all of PyTorch that a user might run instead, on the same weights and batch.

Each is used as its users would: PyTorch trains with its fused Adam, and in bfloat16 under autocast.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F

from conformance.precision import DTYPES, on_gpu, to_torch, torch_device
from conformance.torch_side import BUILDERS
from tests.benchmark.clock import finish, timed
from tests.benchmark.race import OURS
from vit_flax import ViT, loss, train
from vit_flax.config import ViTConfig, preset
from vit_flax.devices import divided, everywhere, mesh_for
from vit_flax.recipe import recipe
from vit_flax.weights import Weights, to_params

MODES = ("forward", "train")
TRIALS = 3  # of each number of threads
PUBLISHED = {
    "vit_ti16": {"timm": "vit_tiny_patch16_224"},
    "vit_s16": {"timm": "vit_small_patch16_224"},
    "vit_b16": {"timm": "vit_base_patch16_224", "torchvision": "vit_b_16"},
}


@dataclass(frozen=True)
class Heat:
    """One race: a model, a batch of one size, a precision, and what is done."""

    preset: str
    batch_size: int
    dtype: str
    mode: str

    @property
    def config(self) -> ViTConfig:
        return preset(self.preset)

    def __str__(self) -> str:
        return f"{self.preset}-{self.batch_size}-{self.dtype}-{self.mode}"

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        rng, c = np.random.default_rng(0), self.config
        images = rng.uniform(-1, 1, (self.batch_size, *c.image_size, c.channels)).astype(np.float32)
        return images, rng.integers(0, c.num_classes, self.batch_size)


@dataclass(frozen=True)
class Contestant:
    run: Callable[[], Any]  # once, to the end
    logits: Callable[[], np.ndarray]  # in evaluation, with the weights it started from; before any run
    compile_seconds: float = 0.0  # from the first call to the second
    peak_memory: int | None = None  # bytes; None where the device does not say
    moved: float | None = None  # bytes read and written in a run, as XLA counts them


def contestants(heat: Heat, weights: Weights, compiled: bool) -> Iterator[tuple[str, Callable[[], Contestant]]]:
    """Everyone who can run this race; `compiled` says whether torch.compile takes part, which takes it minutes."""
    yield OURS, lambda: flax_contestant(heat, weights)
    published = PUBLISHED.get(heat.preset, {})
    modes = {" compiled": "default"}
    if on_gpu() and heat.mode == "train":
        modes[" max-autotune"] = "max-autotune"
    for kind, architecture in {"twin": heat.preset, **published}.items():
        is_compiled = compiled and kind == ("timm" if published else "twin")  # the twin, where there is none other
        for suffix, mode in {"": None, **(modes if is_compiled else {})}.items():
            yield f"{kind}{suffix}", lambda k=kind, a=architecture, m=mode: torch_contestant(heat, weights, k, a, m)


def flax_contestant(heat: Heat, weights: Weights) -> Contestant:
    model, dtype = ViT(heat.config), jnp.dtype(DTYPES[heat.dtype])
    mesh = mesh_for(heat.batch_size)
    params = everywhere(to_params(weights, heat.config), mesh)
    images, labels = divided(heat.batch(), mesh)
    forward = jax.jit(lambda params, images: model.apply({"params": params}, images))
    narrow, x = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, images))

    def logits() -> np.ndarray:
        return np.asarray(forward(narrow, x))

    if heat.mode == "forward":
        compiled, seconds = timed(lambda: forward.lower(narrow, x).compile())
        costs = _costs(compiled, mesh.size)
        return Contestant(lambda: compiled(narrow, x).block_until_ready(), logits, seconds, *costs)
    settings = recipe("article").replace(compute_dtype=heat.dtype, batch_size=heat.batch_size)
    fresh = jax.tree.map(jnp.copy, params)
    state = train.create_train_state(model, fresh, jax.random.key(0), settings, 1, mesh)
    batch = train.Batch(images, loss.targets(labels, heat.config.num_classes))
    step, seconds = timed(lambda: jax.jit(train.train_step, donate_argnums=0).lower(state, batch).compile())

    def run() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state.params, metrics))

    return Contestant(run, logits, seconds, *_costs(step, mesh.size))


def torch_contestant(heat: Heat, weights: Weights, kind: str, architecture: str, compiler: str | None) -> Contestant:
    device = torch_device()
    side = BUILDERS[kind](architecture, heat.config, device)
    training, half = heat.mode == "train", heat.dtype != "float32"
    dtype = torch.float32 if training else getattr(torch, heat.dtype)
    side.load(weights)
    model: Any = side.model.to(dtype)
    images, labels = (to_torch(array, device) for array in heat.batch())
    images = images.to(dtype)
    called = model if compiler is None else torch.compile(model, mode=None if compiler == "default" else compiler)
    autocast = torch.autocast(device, torch.bfloat16, enabled=training and half)

    def logits() -> np.ndarray:
        model.eval()
        with torch.inference_mode(), autocast:
            return model(images).float().cpu().numpy()

    def forward() -> None:
        with torch.inference_mode():
            called(images)
        finish()

    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            value = F.cross_entropy(called(images).float(), labels)
        value.backward()
        optimizer.step()
        finish()

    def first() -> None:
        model.train(training)
        run()

    run = step if training else forward
    start = logits()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    _, cold = timed(first)
    _, warm = timed(run)
    if device == "cpu":
        run = _with_best_threads(run)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return Contestant(run, lambda: start, max(cold - warm, 0.0), peak)


def _with_best_threads(run: Callable[[], None]) -> Callable[[], None]:
    """On all cores, or on one where that is faster: waking threads can take longer than what there is to do."""

    def on(threads: int) -> Callable[[], None]:
        def pinned() -> None:
            torch.set_num_threads(threads)
            run()

        return pinned

    candidates = [on(threads) for threads in {1, os.cpu_count() or 1}]
    return min(candidates, key=lambda pinned: min(timed(pinned)[1] for _ in range(TRIALS)))


def _costs(compiled: Any, devices: int) -> tuple[int, float]:
    """The memory that XLA has planned to hold at once, and what it counts to be moved; it says so of one device."""
    plan = compiled.memory_analysis()
    held = plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return devices * held, devices * compiled.cost_analysis()["bytes accessed"]
