"""`vit_flax` as a side: its own model, loss, optimizer and training step, jitted."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from conformance.precision import products
from conformance.sides import Draw, Gradients, Recorder, Taps
from vit_flax import dropout, loss, train
from vit_flax.augment import crop_boxes, flip, normalise, resized_crop
from vit_flax.config import ViTConfig
from vit_flax.data import Dataset
from vit_flax.devices import divided, everywhere, mesh_for
from vit_flax.model import Tap, ViT
from vit_flax.optimizer import clipping, rule, schedule
from vit_flax.recipe import Recipe, recipe
from vit_flax.train import TrainState
from vit_flax.weights import Weights, from_params, to_params


@contextlib.contextmanager
def computing(dtype: Any) -> Iterator[None]:
    """JAX computes in float64 where that is asked for, and its products as the regime has them."""
    with jax.enable_x64(np.dtype(dtype) == np.float64), jax.default_matmul_precision(products()):
        yield


class FlaxSide:
    """`vit_flax`, jitted."""

    def __init__(self, config: ViTConfig) -> None:
        self.config = config

    def held(self, weights: Weights) -> Weights:
        return from_params(self._params(weights))

    def taps(self, weights: Weights, images: np.ndarray, given: Taps | None = None, draw: Draw | None = None) -> Taps:
        with computing(images.dtype), drawing(draw):
            run = _taps if draw is None else _traced_anew(_forward, 2)
            arguments = self._params(weights), self._divided(images), given
            return jax.tree.map(np.asarray, run(self.config, draw is not None, *arguments))

    def gradients(
        self, weights: Weights, images: np.ndarray, upstream: Taps, given: Taps | None = None, draw: Draw | None = None
    ) -> Gradients:
        with computing(images.dtype), drawing(draw):
            params, training = self._params(weights), draw is not None
            shapes = self._shapes(params, images, training)
            zeros = jax.tree.map(lambda tap: np.zeros(tap.shape, tap.dtype), shapes)
            run = _gradients if draw is None else _traced_anew(_backward, 2)
            values, upstream, alone = given or zeros, zeros | upstream, np.bool_(given is not None)
            inputs, d_params = run(self.config, training, params, self._divided(images), values, upstream, alone)
            return Gradients(jax.tree.map(np.asarray, inputs), from_params(d_params))

    def _shapes(self, params: Any, images: np.ndarray, training: bool) -> Any:
        if not training:
            return _taps.eval_shape(self.config, training, params, images, None)  # which JAX traces once
        with drawing(lambda shape, keep: np.ones(shape, bool)):  # a draw of its own: this pass is not the one compared
            return jax.eval_shape(functools.partial(_forward, self.config, training), params, images, None)

    def drawn(self, weights: Weights, images: np.ndarray, seed: int) -> Taps:
        with computing(images.dtype):
            taps = _drawn(self.config, self._params(weights), images, jax.random.key(seed))
            return jax.tree.map(np.asarray, taps)

    def loss(
        self, logits: np.ndarray, labels: np.ndarray, mask: np.ndarray, recipe: Recipe
    ) -> tuple[np.ndarray, np.ndarray]:
        def value(logits: jax.Array) -> jax.Array:
            targets = loss.targets(jnp.asarray(labels), logits.shape[-1], recipe.label_smoothing).astype(mask.dtype)
            return loss.cross_entropy(logits, targets, jnp.asarray(mask))

        with computing(logits.dtype):
            return jax.tree.map(np.asarray, jax.value_and_grad(value)(jnp.asarray(logits)))

    def accuracy(self, logits: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> float:
        with computing(np.float64):
            targets = loss.targets(jnp.asarray(labels), logits.shape[-1])
            return float(loss.accuracy(jnp.asarray(logits), targets, jnp.asarray(mask)))

    def clip(self, gradients: Weights, recipe: Recipe) -> Weights:
        with computing(_dtype(gradients)):
            rules, tree = clipping(recipe), self._params(gradients)  # as in training: a rule may ask for names
            clipped, _ = rules.update(tree, rules.init(tree))
            return from_params(clipped)

    def rates(self, recipe: Recipe) -> np.ndarray:
        with computing(np.float64):
            rate = schedule(recipe, steps_per_epoch=1)
            return np.array([rate(jnp.int32(step)) for step in range(recipe.epochs)], np.float64)

    def update(self, weights: Weights, gradients: Weights, state: Any, recipe: Recipe) -> tuple[Weights, Any]:
        with computing(_dtype(weights)):
            params = self._params(weights)
            state = rule(recipe, recipe.learning_rate).init(params) if state is None else state
            params, state = _update(recipe, self._params(gradients), state, params)
            return from_params(params), state

    def train(
        self, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe
    ) -> tuple[np.ndarray, list[Weights]]:
        losses, after = [], []
        for value, state in self._steps(weights, images, labels, 0, recipe.replace(dropout=0.0, drop_path=0.0)):
            losses.append(value)
            after.append(from_params(state.params))
        return np.array(losses), after

    def averages(self, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> list[Weights]:
        steps = self._steps(weights, images, labels, 0, recipe.replace(dropout=0.0, drop_path=0.0))
        return [from_params(state.eval_params) for _, state in steps]

    def noisy_losses(
        self, weights: Weights, images: np.ndarray, labels: np.ndarray, seed: int, recipe: Recipe
    ) -> np.ndarray:
        return np.array([value for value, _ in self._steps(weights, images, labels, seed, recipe)])

    def _steps(
        self, weights: Weights, images: np.ndarray, labels: np.ndarray, seed: int, recipe: Recipe
    ) -> Iterator[tuple[np.ndarray, TrainState]]:
        """The loss of each training step, and the state after it."""
        recipe = recipe.replace(compute_dtype=str(images.dtype))
        model = _model(recipe.regularised(self.config))
        with computing(images.dtype):
            fresh = self._params(weights), jax.random.key(seed)
            state = train.create_train_state(model, *fresh, recipe, 1, self._mesh(images.shape[1]))
            for batch, names in zip(images, labels, strict=True):
                targets = loss.targets(names, model.config.num_classes, recipe.label_smoothing).astype(images.dtype)
                state, metrics = _train_step(state, divided(train.Batch(batch, targets), state.mesh))
                yield np.asarray(metrics.loss), state

    def epoch_rows(self, seed: int, epoch: int, examples: int, batch_size: int) -> np.ndarray:
        state = _idle_state(self.config, recipe("article").replace(batch_size=batch_size), mesh_for(1))
        return train.epoch_rows(state.replace(rng=jax.random.key(seed)), epoch, examples)

    def augment(
        self, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe
    ) -> tuple[np.ndarray, np.ndarray]:
        state = _idle_state(self.config, recipe, self._mesh(len(images)))
        state = state.replace(rng=jax.random.key(seed), step=jnp.int32(step))
        rows = divided(np.arange(len(images))[None], state.mesh, axis=1)
        batch = _step_inputs(state, Dataset(images, labels.astype(np.int32)), rows)
        return np.asarray(batch.images[0]), np.asarray(batch.targets[0])

    def evaluate(self, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> float:
        with computing(np.float32):
            fresh = self._params(weights), jax.random.key(0)
            mesh = self._mesh(recipe.batch_size)
            state = train.create_train_state(_model(self.config), *fresh, recipe.replace(ema_decay=None), 1, mesh)
            return train.eval_model(state, everywhere(Dataset(images, labels.astype(np.int32)), mesh))

    def initial(self, seed: int) -> Weights:
        return from_params(train.initialize_model(self.config, seed)[1])

    def crops(self, seed: int, count: int, image_size: tuple[int, int], recipe: Recipe) -> np.ndarray:
        boxes = crop_boxes(jax.random.key(seed), count, image_size, recipe.crop_scale, recipe.crop_ratio)
        return np.asarray(boxes)

    def pixels(self, images: np.ndarray, boxes: np.ndarray, flips: np.ndarray, recipe: Recipe) -> np.ndarray:
        cropped = resized_crop(flip(jnp.asarray(images), jnp.asarray(flips)), jnp.asarray(boxes), images.shape[1:3])
        return np.asarray(normalise(cropped, recipe.means, recipe.stds))

    def _params(self, weights: Weights) -> Any:
        return jax.tree.map(jnp.asarray, to_params(weights, self.config))

    def _mesh(self, batch_size: int) -> Mesh:
        return mesh_for(1)

    def _divided(self, images: np.ndarray) -> jax.Array:
        return divided(images, self._mesh(len(images)))


class DividedSide(FlaxSide):
    """`vit_flax`, each batch divided among all devices."""

    def _mesh(self, batch_size: int) -> Mesh:
        return mesh_for(batch_size)


def _traced_anew(function: Callable[..., Any], static: int) -> Callable[..., Any]:
    """A function that JAX has not seen: draws are asked for while it traces, and not when it knows a call already."""
    return jax.jit(lambda *arguments: function(*arguments), static_argnums=tuple(range(static)))


def _dtype(arrays: Weights) -> np.dtype:
    return next(iter(arrays.values())).dtype


def _forward(config: ViTConfig, training: bool, params: Any, images: jax.Array, given: Any) -> Any:
    recorder = Recorder(given)
    _apply(config, training, params, images, recorder)
    return recorder.taps


def _backward(
    config: ViTConfig, training: bool, params: Any, images: jax.Array, values: Any, upstream: Any, alone: jax.Array
) -> Any:
    """`values` are what the model goes on with at each tap; or, where it runs free, zeros that are added to its own.

    One function for both, as it takes XLA most of the time to compile it.
    """

    def objective(params: Any, images: jax.Array, values: Any) -> jax.Array:
        taps = {}

        def tap(name: str, x: jax.Array) -> jax.Array:
            nudged = x + values[name]
            taps[name] = jnp.where(alone, x, nudged)
            return jnp.where(alone, values[name], nudged)

        _apply(config, training, params, images, tap)
        return jnp.stack([jnp.vdot(upstream[name], taps[name]) for name in upstream]).sum()

    d_params, d_images, d_values = jax.grad(objective, argnums=(0, 1, 2))(params, images, values)
    return {"images": d_images} | d_values, d_params


def _apply(
    config: ViTConfig, training: bool, params: Any, images: jax.Array, tap: Tap, rng: jax.Array | None = None
) -> None:
    """Without `rng`, `drawing` answers in training, and no key is read."""
    rngs = {"dropout": jax.random.key(0) if rng is None else rng} if training else {}
    ViT(config).apply({"params": params}, images, train=training, tap=tap, rngs=rngs)


@functools.partial(jax.jit, static_argnums=0)
def _update(recipe: Recipe, grads: Any, state: Any, params: Any) -> Any:
    updates, state = rule(recipe, recipe.learning_rate).update(grads, state, params)
    return optax.apply_updates(params, updates), state


@functools.partial(jax.jit, static_argnums=0)
def _drawn(config: ViTConfig, params: Any, images: jax.Array, rng: jax.Array) -> Any:
    recorder = Recorder()
    _apply(config, True, params, images, recorder, rng)
    return recorder.taps


_model = functools.cache(ViT)  # a step is compiled for the model object that it trains


@functools.cache
def _idle_state(config: ViTConfig, recipe: Recipe, mesh: Mesh) -> TrainState:
    """A state that trains nothing, for what depends on a recipe, a key and a step alone."""
    return train.create_train_state(_model(config), {}, jax.random.key(0), recipe, 1, mesh)


@jax.jit
def _step_inputs(state: TrainState, dataset: Dataset, rows: jax.Array) -> train.Batch:
    """What `train_steps` gives to each training step."""
    with mock.patch.object(train, "train_step", lambda state, batch: (state, batch)):
        return inspect.unwrap(train.train_steps)(state, dataset, rows)[1]


_taps = jax.jit(_forward, static_argnums=(0, 1))
_gradients = jax.jit(_backward, static_argnums=(0, 1))
_train_step = jax.jit(train.train_step)


@contextlib.contextmanager
def drawing(draw: Draw | None) -> Iterator[None]:
    """Dropout draws from `draw` where it would draw bits; its rule, positions and shapes stay its own."""

    def bernoulli(key: jax.Array, keep: float, shape: tuple[int, ...]) -> jax.Array:
        assert draw is not None
        return jnp.asarray(draw(shape, keep))

    with contextlib.nullcontext() if draw is None else mock.patch.object(dropout, "bernoulli", bernoulli):
        yield
