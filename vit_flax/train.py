"""Training, as the article has it: state, loss, steps, evaluation; on data that stay on the device.

What a step draws depends on the seed, the step's number and how many devices there are, and an epoch's order on the
seed and the epoch's number: so a run can stop after any step and go on bit for bit.

    B batch   n images of a dataset
"""

import functools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.training import train_state
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from vit_flax import loss
from vit_flax.augment import augment, normalise
from vit_flax.config import ViTConfig
from vit_flax.data import Dataset
from vit_flax.devices import divided, everywhere, mean_over_parts, mesh_for
from vit_flax.erase import erase
from vit_flax.mix import mix
from vit_flax.model import ViT
from vit_flax.optimizer import optimizer
from vit_flax.recipe import Recipe
from vit_flax.trivial_augment import trivial_augment

# At most so many steps run in one call on the device: tests/benchmark/test_training.py compares.
STEPS_PER_CALL = 10

Params = Any


class Batch(NamedTuple):
    images: Float[Array, "B height width C"]  # normalised
    targets: Float[Array, "B classes"]  # distributions over the classes


class Metrics(NamedTuple):
    """Of one step, or stacked, of several."""

    loss: Float[Array, "*steps"]
    accuracy: Float[Array, "*steps"]


class TrainState(train_state.TrainState):
    rng: jax.Array  # never changes: each step and epoch derives its own from it
    average: Params | None  # running average of the parameters, where the recipe keeps one
    config: ViTConfig = struct.field(pytree_node=False)
    recipe: Recipe = struct.field(pytree_node=False)
    mesh: Mesh = struct.field(pytree_node=False)  # the devices that each batch is divided among

    @property
    def eval_params(self) -> Params:
        """The parameters that are evaluated."""
        return self.params if self.average is None else self.average

    def stream(self, name: str) -> jax.Array:
        """An independent key for each use of randomness."""
        return jax.random.fold_in(self.rng, ("order", "input", "dropout").index(name))


@functools.cache  # one model object a config, so that a second run compiles nothing again
def _model(config: ViTConfig) -> ViT:
    return ViT(config)


def initialize_model(config: ViTConfig, seed: int) -> tuple[ViT, Params, jax.Array]:
    """The model, its fresh float32 parameters, and the key that all later randomness comes from."""
    rng, init_rng = jax.random.split(jax.random.key(seed))
    return _model(config), _fresh_params(config, init_rng), rng


@partial(jax.jit, static_argnums=0)
def _fresh_params(config: ViTConfig, rng: jax.Array) -> Params:
    images = jnp.ones((1, *config.image_size, config.channels))
    return _model(config).init(rng, images)["params"]


def create_train_state(
    model: ViT, params: Params, rng: jax.Array, recipe: Recipe, steps_per_epoch: int, mesh: Mesh | None = None
) -> TrainState:
    """The state before the first step, on one device or on those of `mesh`.

    Training consumes its arrays, `params` among them.
    """
    mesh = mesh or mesh_for(1)
    state = TrainState.create(
        apply_fn=model.apply,
        params=params,
        tx=optimizer(recipe, steps_per_epoch),
        rng=rng,
        average=None if recipe.ema_decay is None else jax.tree.map(jnp.copy, params),
        config=model.config,
        recipe=recipe,
        mesh=mesh,
    )
    # Flax counts from a Python 0, which jit compiles for once more than for the step that a checkpoint brings back.
    return everywhere(state.replace(step=jnp.zeros((), jnp.int32)), mesh)


def calculate_loss(params: Params, state: TrainState, rng: jax.Array, batch: Batch) -> tuple[Array, Array]:
    """Loss and accuracy on one batch in training, dropout drawn from `rng`."""
    params, images = jax.tree.map(lambda x: x.astype(state.recipe.compute_dtype), (params, batch.images))
    logits = state.apply_fn({"params": params}, images, train=True, rngs={"dropout": rng})
    return loss.cross_entropy(logits, batch.targets), loss.accuracy(logits, batch.targets)


def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """One update of the parameters, and of their average where the recipe keeps one."""
    rng = jax.random.fold_in(state.stream("dropout"), state.step)

    def gradient(params: Params, rng: jax.Array, batch: Batch) -> tuple[tuple[Array, Array], Params]:
        return jax.value_and_grad(calculate_loss, has_aux=True)(params, state, rng, batch)

    (value, accuracy), grads = mean_over_parts(gradient, state.mesh)(state.params, rng, batch)
    state = state.apply_gradients(grads=grads)
    if state.average is not None:
        state = state.replace(average=_averaged(state))
    return state, Metrics(value, accuracy)


def _averaged(state: TrainState) -> Params:
    # A young average would mostly remember the initialisation, so it starts short and grows (as TensorFlow's does).
    assert state.recipe.ema_decay is not None
    step = jnp.asarray(state.step, float)  # whole numbers JAX divides in float32, even where it has float64
    decay = jnp.minimum(state.recipe.ema_decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.average, state.params)


def prepare(rng: jax.Array, picked: Dataset, state: TrainState) -> Batch:
    """The input pipeline on the device: augmented, normalised and mixed as the recipe says."""
    recipe = state.recipe
    trivial_rng, augment_rng, erase_rng, mix_rng = jax.random.split(rng, 4)
    images = trivial_augment(trivial_rng, picked.images) if recipe.trivial_augment else picked.images
    images = normalise(augment(augment_rng, images, recipe), recipe.means, recipe.stds)
    images = erase(erase_rng, images, recipe.erasing)
    targets = loss.targets(picked.labels, state.config.num_classes, recipe.label_smoothing)
    return Batch(*mix(mix_rng, images, targets, recipe.mixup, recipe.cutmix))


@partial(jax.jit, donate_argnames="state")
def train_steps(state: TrainState, dataset: Dataset, rows: Int[Array, "steps B"]) -> tuple[TrainState, Metrics]:
    """A step for each row of image numbers, all in one call; the metrics are stacked."""

    def step(state: TrainState, row: Int[Array, "B"]) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(state.stream("input"), state.step)
        return train_step(state, prepare(rng, take(dataset, row), state))

    return jax.lax.scan(step, state, rows)


def take(dataset: Dataset, row: Int[Array, "B"]) -> Dataset:
    """The images and labels of those numbers."""
    return Dataset(dataset.images[row], dataset.labels[row])


def epoch_rows(state: TrainState, epoch: int, n: int) -> Int[np.ndarray, "steps B"]:
    """The image numbers of each step of an epoch: shuffled, without the last incomplete batch.

    Raises `ValueError` if there is no complete one.
    """
    batch_size, steps = state.recipe.batch_size, state.recipe.steps_per_epoch(n)
    order = jax.random.permutation(jax.random.fold_in(state.stream("order"), epoch), n)
    return np.asarray(order)[: steps * batch_size].reshape(steps, batch_size)


def eval_step(state: TrainState, images: UInt8[Array, "B height width C"]) -> Float[Array, "B classes"]:
    """Logits of images as they are, in float32, with the parameters that are evaluated."""
    images = normalise(images, state.recipe.means, state.recipe.stds)
    return state.apply_fn({"params": state.eval_params}, images, train=False)


@jax.jit
def _classified(state: TrainState, dataset: Dataset, rows: Int[Array, "steps B"]) -> Int[Array, "steps B"]:
    def classes(carry: None, row: Array) -> tuple[None, Array]:
        return carry, eval_step(state, take(dataset, row).images).argmax(axis=-1)

    return jax.lax.scan(classes, None, rows)[1]


def classify(state: TrainState, dataset: Dataset) -> Int[np.ndarray, "n"]:
    """The likeliest class of each image of a dataset, by number.

    The last batch is filled up with images that do not count, so that all batches have one size and compile once.
    """
    n, batch_size = len(dataset.labels), state.recipe.batch_size
    rows = np.arange(-(-n // batch_size) * batch_size).reshape(-1, batch_size)
    (rows,) = divided((rows % n,), state.mesh, axis=1)
    return np.asarray(_classified(state, dataset, rows)).reshape(-1)[:n]


def eval_model(state: TrainState, dataset: Dataset) -> float:
    """The share of a dataset's images that are classified correctly: an exact count."""
    return share_right(classify(state, dataset), dataset)


def share_right(found: Int[np.ndarray, "n"], dataset: Dataset) -> float:
    """The share of a dataset's images whose class was found."""
    right = found == np.asarray(dataset.labels)
    return int(right.sum()) / len(right)
