"""The two sides of a comparison: anything that turns weights and images into taps.

    taps = side.taps(weights, images, given=None, draw=None)

`weights` is the canonical dict, `images` is NHWC, and the dtype of both is the precision to compute in. The
result holds every tap by name, as NumPy arrays of that dtype; the reference's are in data order, a candidate's
need not be. `given` holds values from elsewhere: the side records what it computed at a tap, then goes on with
the given value instead. So one pass with the reference's taps as `given` runs every block *alone*, on the
reference's input. With `draw`, the side runs as in training, and takes the outcome of each of its random draws
from there, in data order: `draw(shape, keep)` is a boolean mask.

`taps` without `draw` is all that a side must have. Each of the other methods is a capability: a rung whose
capability a side lacks is reported as not verified.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from vit_flax.recipe import Recipe
from vit_flax.weights import Weights

Taps = dict[str, np.ndarray]
Draw = Callable[[tuple[int, ...], float], np.ndarray]


class Gradients(NamedTuple):
    inputs: Taps  # with respect to the images, and to every tap as an input of what follows it
    parameters: Weights


class Side(Protocol):
    """An implementation of a ViT, as the suite sees it."""

    def taps(self, weights: Weights, images: np.ndarray, given: Taps | None = None) -> Taps: ...


class TrainableSide(Protocol):
    """A side with every capability. Recipes count in steps: an epoch is one step."""

    def taps(
        self, weights: Weights, images: np.ndarray, given: Taps | None = None, draw: Draw | None = None
    ) -> Taps: ...

    def held(self, weights: Weights) -> Weights:
        """The weights, loaded into the model and read back from it."""

    def gradients(
        self, weights: Weights, images: np.ndarray, upstream: Taps, given: Taps | None = None, draw: Draw | None = None
    ) -> Gradients:
        """Of the sum of upstream[tap] · tap over the taps in `upstream`. Those of tap `t` itself include upstream[t].

        With `given`, every tap is an input of its own: nothing flows back through it.
        """

    def drawn(self, weights: Weights, images: np.ndarray, seed: int) -> Taps:
        """Every tap as in training, under random draws of the side's own."""

    def loss(
        self, logits: np.ndarray, labels: np.ndarray, mask: np.ndarray, recipe: Recipe
    ) -> tuple[np.ndarray, np.ndarray]:
        """Training's loss on the images whose mask is 1, and its gradient with respect to the logits.

        The loss is computed in the mask's dtype, and the gradient has the logits': those may be bfloat16 where the mask
        is float32, as in training whose activations are bfloat16.
        """

    def accuracy(self, logits: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> float:
        """The share of the images whose mask is 1 that are classified correctly."""

    def clip(self, gradients: Weights, recipe: Recipe) -> Weights:
        """The gradients, their global norm bounded by `recipe.clip_norm`."""

    def rates(self, recipe: Recipe) -> np.ndarray:
        """The learning rate of each step."""

    def update(self, weights: Weights, gradients: Weights, state: Any, recipe: Recipe) -> tuple[Weights, Any]:
        """One step of the optimizer at `recipe.learning_rate`, without clipping; a state of None is the first."""

    def train(
        self, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe
    ) -> tuple[np.ndarray, list[Weights]]:
        """A full training step on each of the batches (steps x batch x ...), without dropout: losses, and weights."""

    def initial(self, seed: int) -> Weights:
        """Fresh weights, as training starts from."""

    def crops(self, seed: int, count: int, image_size: tuple[int, int], recipe: Recipe) -> np.ndarray:
        """Random crop boxes (top, left, height, width), as training draws them."""

    def pixels(self, images: np.ndarray, boxes: np.ndarray, flips: np.ndarray, recipe: Recipe) -> np.ndarray:
        """uint8 images flipped where `flips`, their boxes resized to full size, and normalised to float32."""

    def epoch_rows(self, seed: int, epoch: int, examples: int, batch_size: int) -> Sequence[np.ndarray]:
        """The numbers of the examples in each batch of an epoch, as training shuffles them. Without an incomplete one.

        Both the epochs and the examples count from 0.
        """

    def augment(
        self, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe
    ) -> tuple[np.ndarray, np.ndarray]:
        """What a training step makes of uint8 images of any size: float32 images, and targets (B, classes)."""

    def noisy_losses(
        self, weights: Weights, images: np.ndarray, labels: np.ndarray, seed: int, recipe: Recipe
    ) -> np.ndarray:
        """The losses of `train`, with dropout: under draws of the side's own, at the rates of the recipe."""

    def evaluate(self, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> float:
        """The share of uint8 images that are classified correctly, in batches of `recipe.batch_size` but for the last.

        The weights are float32, and the pixels normalised as the recipe says.
        """

    def averages(self, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> list[Weights]:
        """The weights that would be evaluated after each step of `train`: averages, where `recipe.ema_decay` is set."""


def can(side: Side, capability: str) -> bool:
    return callable(getattr(side, capability, None))


class Recorder:
    """A tap that keeps what it is shown, and hands back the given value where there is one."""

    def __init__(self, given: dict[str, Any] | None = None) -> None:
        self.given = given or {}
        self.taps: dict[str, Any] = {}

    def __call__(self, name: str, x: Any) -> Any:
        self.taps[name] = x
        return self.given.get(name, x)


class Masks:
    """A `Draw` that two sides make alike: the n-th mask depends on the seed, n, its shape and its rate alone."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.asked: list[tuple[tuple[int, ...], float]] = []

    def __call__(self, shape: tuple[int, ...], keep: float) -> np.ndarray:
        rng = np.random.default_rng([self.seed, len(self.asked)])
        self.asked.append((tuple(shape), float(keep)))
        return rng.random(shape) < keep
