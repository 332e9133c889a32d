"""A PyTorch model as a side: the twin, timm's or torchvision's, with the training rules of `reference/train.py`."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import reference.config
import reference.data
import reference.model
from conformance import port
from conformance.precision import from_torch, to_torch, torch_sums
from conformance.sides import Draw, Gradients, Recorder, Taps
from reference import loop, train
from vit_flax.config import ViTConfig
from vit_flax.layouts import TIMM, TORCHVISION, Layout
from vit_flax.recipe import Recipe
from vit_flax.weights import Weights


class TorchSide:
    """A PyTorch model that is called like the twin; `layout` says where its weights go.

    `clip_epsilon` is the one rule on which the two frameworks differ by design: 0 is optax's, and vit_flax's.
    """

    def __init__(
        self,
        model: nn.Module,
        state: nn.Module,
        layout: Layout,
        config: ViTConfig,
        device: str,
        clip_epsilon: float = 0.0,
    ) -> None:
        self.model, self.state, self.layout, self.config, self.device = model.eval(), state, layout, config, device
        self.clip_epsilon = clip_epsilon

    def load(self, weights: Weights) -> None:
        port.load_into(self.state, weights, self.layout, self.config)
        self.model.to(self.device)

    def read(self, gradient: bool = False) -> Weights:
        """The canonical weights that the model holds, or their gradients."""

        def tensor(p: torch.Tensor) -> torch.Tensor:
            if not gradient:
                return p
            return torch.zeros_like(p) if p.grad is None else p.grad  # none: nothing depends on it

        named = self.state.named_parameters()
        return self.layout.read({name: from_torch(tensor(p)) for name, p in named}, self.config)

    def held(self, weights: Weights) -> Weights:
        self.load(weights)
        return self.read()

    def taps(self, weights: Weights, images: np.ndarray, given: Taps | None = None, draw: Draw | None = None) -> Taps:
        self.load(weights)
        recorder = Recorder(self._tensors(given or {}))
        with torch.no_grad(), self._running(draw):
            self.model(to_torch(images, self.device), tap=recorder)
        return {name: from_torch(tensor) for name, tensor in recorder.taps.items()}

    def gradients(
        self, weights: Weights, images: np.ndarray, upstream: Taps, given: Taps | None = None, draw: Draw | None = None
    ) -> Gradients:
        self.load(weights)
        leaves = {"images": to_torch(images, self.device)} | self._tensors(given or {})
        for leaf in leaves.values():
            leaf.requires_grad_()
        recorder = Recorder({name: leaf for name, leaf in leaves.items() if name != "images"})
        with self._running(draw):
            self.model(leaves["images"], tap=recorder)
            for tensor in recorder.taps.values():
                tensor.retain_grad()
            taps = recorder.taps
            torch.autograd.backward([taps[t] for t in upstream], [*self._tensors(upstream).values()])
        inputs = leaves if given else leaves | recorder.taps
        grads = {name: from_torch(x.grad) for name, x in inputs.items() if x.grad is not None}
        return Gradients(grads, self.read(gradient=True))

    def drawn(self, weights: Weights, images: np.ndarray, seed: int) -> Taps:
        return self.taps(weights, images, draw=_own_draws(seed))

    def loss(
        self, logits: np.ndarray, labels: np.ndarray, mask: np.ndarray, recipe: Recipe
    ) -> tuple[np.ndarray, np.ndarray]:
        tensors = (to_torch(array, self.device) for array in (logits, labels.astype(np.int64), mask))
        z, y, m = tensors
        value = train.cross_entropy(z.requires_grad_(), y, m, recipe.label_smoothing)
        value.backward()
        return from_torch(value), from_torch(z.grad)

    def accuracy(self, logits: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> float:
        z, y, m = (to_torch(array, self.device) for array in (logits, labels.astype(np.int64), mask))
        return float(train.accuracy(z, y, m))

    def clip(self, gradients: Weights, recipe: Recipe) -> Weights:
        tensors = self._tensors(gradients)
        if recipe.clip_norm is not None:
            train.clip_(tensors.values(), recipe.clip_norm, self.clip_epsilon)
        return {name: from_torch(tensor) for name, tensor in tensors.items()}

    def rates(self, recipe: Recipe) -> np.ndarray:
        twin_recipe, held = _recipe(recipe), nn.Linear(1, 1)
        optimizer = train.optimizer(twin_recipe, held)
        scheduler = train.scheduler(twin_recipe, optimizer, steps_per_epoch=1)
        rates = []
        for _ in range(recipe.epochs):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return np.array(rates)

    def update(self, weights: Weights, gradients: Weights, state: Any, recipe: Recipe) -> tuple[Weights, Any]:
        self.load(weights)
        optimizer = train.optimizer(_recipe(recipe), self.state)
        if state is not None:
            optimizer.load_state_dict(state)
        grads = self.layout.write(gradients, self.config)
        for name, parameter in self.state.named_parameters():
            parameter.grad = to_torch(grads[name], self.device)
        optimizer.step()
        return self.read(), optimizer.state_dict()

    def train(
        self, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe
    ) -> tuple[np.ndarray, list[Weights]]:
        losses, after = [], []
        for loss in self._steps(weights, images, labels, recipe, None):
            losses.append(loss)
            after.append({name: leaf.copy() for name, leaf in self.read().items()})
        return np.array(losses), after

    def averages(self, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> list[Weights]:
        _, after = self.train(weights, images, labels, recipe)
        if recipe.ema_decay is None:
            return after
        averages = [weights]
        for step, now in enumerate(after, start=1):
            averages.append(loop.averaged(averages[-1], now, step, recipe.ema_decay))
        return averages[1:]

    def noisy_losses(
        self, weights: Weights, images: np.ndarray, labels: np.ndarray, seed: int, recipe: Recipe
    ) -> np.ndarray:
        side = Twin(recipe.regularised(self.config), self.device, self.clip_epsilon)  # others' rates are their own
        return np.array([*side._steps(weights, images, labels, recipe, _own_draws(seed))])

    def _steps(
        self, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe, draw: Draw | None
    ) -> Iterator[np.ndarray]:
        """The loss of each training step; the model holds the weights after it."""
        self.load(weights)
        twin_recipe = _recipe(recipe)
        optimizer = train.optimizer(twin_recipe, self.state)
        scheduler = train.scheduler(twin_recipe, optimizer, steps_per_epoch=1)
        with self._running(draw):
            for batch, names in zip(images, labels, strict=True):
                x, y = to_torch(batch, self.device), to_torch(names.astype(np.int64), self.device)
                yield from_torch(
                    train.train_step(self.model, optimizer, scheduler, x, y, twin_recipe, self.clip_epsilon)
                )

    def epoch_rows(self, seed: int, epoch: int, examples: int, batch_size: int) -> list[np.ndarray]:
        return loop.epoch_rows(seed, epoch, examples, batch_size)

    def augment(
        self, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe
    ) -> tuple[np.ndarray, np.ndarray]:
        with seeded(seed, step):
            return loop.augment(images, labels, self.config.num_classes, _recipe(recipe))

    def evaluate(self, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> float:
        self.load(weights)
        with self._running(None):
            return loop.evaluate(lambda x: self.model(x.to(self.device)).cpu(), images, labels, _recipe(recipe))

    def crops(self, seed: int, count: int, image_size: tuple[int, int], recipe: Recipe) -> np.ndarray:
        with seeded(seed):
            return reference.data.crop_boxes(count, image_size, recipe.crop_scale, recipe.crop_ratio)

    def pixels(self, images: np.ndarray, boxes: np.ndarray, flips: np.ndarray, recipe: Recipe) -> np.ndarray:
        crops = map(reference.data.crop_and_flip, images, boxes, flips)
        return loop.normalised(np.stack(list(crops)), _recipe(recipe))

    def _tensors(self, arrays: Taps) -> dict[str, torch.Tensor]:
        return {name: to_torch(array, self.device) for name, array in arrays.items()}

    @contextlib.contextmanager
    def _running(self, draw: Draw | None) -> Iterator[None]:
        """In evaluation, or as in training with all draws from `draw`; sums as the regime has them."""
        self.model.train(draw is not None)
        mode = contextlib.nullcontext() if draw is None else Drawing(draw)
        try:
            with torch_sums(), mode:
                yield
        finally:
            self.model.eval()


class Twin(TorchSide):
    """`reference.model.ViT`, which also has an initialiser to be compared with."""

    draws = True  # at whatever rates the config has

    def __init__(self, config: ViTConfig, device: str, clip_epsilon: float = 0.0) -> None:
        model = self._fresh(config)
        super().__init__(model, model, port.TWIN, config, device, clip_epsilon)

    def initial(self, seed: int) -> Weights:
        with seeded(seed):
            return port.read_from(self._fresh(self.config), self.layout, self.config)

    @staticmethod
    def _fresh(config: ViTConfig) -> nn.Module:
        return reference.model.ViT(reference.config.ViTConfig(**dataclasses.asdict(config)))


class Drawing(TorchDispatchMode):
    """PyTorch's dropout draws from `draw` where it would draw bits; its rule, positions and shapes stay its own.

    Under a state of the generator that was had before, it draws what it drew then: `torch.utils.checkpoint` computes
    again in the backward pass, and restores the states of the default ones unless it is told not to.
    """

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.draw = draw
        self.drawn: dict[tuple[bytes, tuple[int, ...], float], np.ndarray] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        match func:
            case torch.ops.aten.bernoulli_.float:
                noise, keep = args if len(args) == 2 else (*args, 0.5)  # PyTorch leaves its default out
                return noise.copy_(self._mask(noise, keep, (kwargs or {}).get("generator")))
            case torch.ops.aten.native_dropout.default if self._drops(*args):  # on GPUs, in one kernel
                x, rate = args[:2]
                mask = self._mask(x, 1 - rate)
                return x * mask * (1 / (1 - rate)), mask.bool()  # in the kernel's order
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _drops(x: torch.Tensor, rate: float, training: bool | None) -> bool:
        """Whether this call would draw: a rate of 0 or 1 leaves no choice; None is taken for training."""
        return training is not False and 0 < rate < 1

    def _mask(self, like: torch.Tensor, keep: float, generator: torch.Generator | None = None) -> torch.Tensor:
        generator = generator or _default_generator(like.device)
        asked = generator.get_state().numpy().tobytes(), tuple(like.shape), float(keep)
        torch.rand((), generator=generator, device=generator.device)  # the state moves on, as bits would have moved it
        if asked not in self.drawn:
            self.drawn[asked] = np.array(self.draw(*asked[1:]))
        return torch.from_numpy(self.drawn[asked]).to(like)


def _default_generator(device: torch.device) -> torch.Generator:
    return torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[device.index or 0]


@contextlib.contextmanager
def seeded(seed: int, step: int | None = None) -> Iterator[None]:
    """PyTorch's global generator begins with a seed, or with one of the step's own; afterwards it is as it was."""
    with torch.random.fork_rng():
        own = seed if step is None else int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
        # torch.manual_seed would seed GPUs as well, and takes a millisecond to keep a stack trace for those to come.
        torch.default_generator.manual_seed(own)
        yield


def _own_draws(seed: int) -> Draw:
    generator = torch.Generator().manual_seed(seed)
    return lambda shape, keep: (torch.rand(shape, generator=generator) < keep).numpy()


def _recipe(recipe: Recipe) -> reference.config.Recipe:
    names = [field.name for field in dataclasses.fields(reference.config.Recipe)]
    return reference.config.Recipe(**{name: getattr(recipe, name) for name in names})


def twin(architecture: str, config: ViTConfig, device: str) -> TorchSide:
    """The twin; `architecture` is the preset that `config` came from, and says nothing more."""
    return Twin(config, device)


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


BUILDERS: dict[str, Callable[[str, ViTConfig, str], TorchSide]] = {
    "twin": twin,
    "timm": timm,
    "torchvision": torchvision,
}
