"""Faults of loss and metric: around `loss(logits, labels, mask, recipe)` and `accuracy(logits, labels, mask)`."""

from functools import partial
from typing import Any

import numpy as np
from scipy import special

from conformance.faults import Around, Fault, recipe_changed
from conformance.precision import DTYPES
from vit_flax.config import ViTConfig
from vit_flax.recipe import Recipe

Z_LOSS = 1e-4  # arXiv:2204.02311
KERAS_EPSILON = 1e-7


def times_batch(method: Around, config: ViTConfig, logits: Any, labels: Any, mask: np.ndarray, recipe: Recipe) -> Any:
    count = mask.sum()
    return tuple(part * count for part in method(logits, labels, mask, recipe))


def no_mask(method: Around, config: ViTConfig, logits: Any, labels: Any, mask: np.ndarray, *recipe: Recipe) -> Any:
    return method(logits, labels, np.ones_like(mask), *recipe)


def by_batch_size(method: Around, config: ViTConfig, logits: Any, labels: Any, mask: np.ndarray, recipe: Recipe) -> Any:
    """The sum over what counts, divided by the whole batch."""
    share = (mask.sum() / len(mask)).astype(mask.dtype)
    return tuple(part * share for part in method(logits, labels, mask, recipe))


def mean_of_means(count: int) -> Around:
    """So many equal parts of the batch averaged alone, as on as many devices; a part of padding alone counts zero."""

    def around(method: Around, config: ViTConfig, logits: Any, labels: Any, mask: np.ndarray, *recipe: Recipe) -> Any:
        size = len(mask) // count
        values: Any = 0.0
        gradients = np.zeros_like(logits)
        for part in (slice(i * size, (i + 1) * size) for i in range(count)):
            if not mask[part].any():
                continue
            mean = method(logits[part], labels[part], mask[part], *recipe)
            if recipe:
                mean, gradients[part] = mean[0], mean[1] / count
            values = values + mean / count
        return (values, gradients) if recipe else values

    return around


def narrow(method: Around, config: ViTConfig, logits: Any, labels: Any, mask: np.ndarray, recipe: Recipe) -> Any:
    """Log-probabilities rounded to the logits' bfloat16; the gradient is rounded to it anyway."""
    value, gradient = method(logits, labels, mask, recipe)
    if logits.dtype != DTYPES["bfloat16"]:
        return value, gradient
    logs = special.log_softmax(logits.astype(np.float32), axis=-1).astype(logits.dtype).astype(np.float32)
    own = logs[np.arange(len(labels)), labels]
    losses = -(1 - recipe.label_smoothing) * own - recipe.label_smoothing * logs.mean(axis=-1)
    return np.asarray((losses * mask).sum() / mask.sum(), mask.dtype), gradient


def smooth_others_only(
    method: Around, config: ViTConfig, logits: Any, labels: Any, mask: np.ndarray, recipe: Recipe
) -> Any:
    """a / (C - 1) to each other class, not a / C to all: the same as smoothing by a · C / (C - 1)."""
    classes = logits.shape[-1]
    return method(
        logits, labels, mask, recipe.replace(label_smoothing=recipe.label_smoothing * classes / (classes - 1))
    )


def with_z_loss(method: Around, config: ViTConfig, logits: Any, labels: Any, mask: np.ndarray, recipe: Recipe) -> Any:
    """The squared logarithm of softmax's denominator is kept small."""
    value, gradient = method(logits, labels, mask, recipe)
    largest = logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(logits - largest)
    total = exponentials.sum(axis=-1, keepdims=True)
    z = np.log(total) + largest
    share = Z_LOSS * (mask / mask.sum())[:, None]
    return value + (share * z**2).sum(), gradient + 2 * share * z * exponentials / total


def log_of_softmax(
    method: Around, config: ViTConfig, logits: Any, labels: Any, mask: np.ndarray, recipe: Recipe
) -> Any:
    """An epsilon keeps the logarithm finite, and small probabilities from counting in full."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p = exponentials / exponentials.sum(axis=-1, keepdims=True)
    classes = logits.shape[-1]
    smoothing = mask.dtype.type(recipe.label_smoothing)
    targets = (1 - smoothing) * np.eye(classes, dtype=p.dtype)[labels] + smoothing / classes
    share = (mask / mask.sum())[:, None]
    value = -(share * targets * np.log(p + KERAS_EPSILON)).sum()
    by_p = -share * targets / (p + KERAS_EPSILON)
    return value, p * (by_p - (p * by_p).sum(axis=-1, keepdims=True))


def clipped_probabilities(
    method: Around, config: ViTConfig, logits: Any, labels: Any, mask: np.ndarray, recipe: Recipe
) -> Any:
    """Probabilities kept from 0 and from 1: where one is held, no gradient goes through."""
    least = mask.dtype.type(KERAS_EPSILON)
    p = special.softmax(logits.astype(mask.dtype), axis=-1)
    held = np.clip(p, least, 1 - least)
    classes = logits.shape[-1]
    smoothing = mask.dtype.type(recipe.label_smoothing)
    targets = (1 - smoothing) * np.eye(classes, dtype=p.dtype)[labels] + smoothing / classes
    share = (mask / mask.sum())[:, None]
    by_p = np.where(p == held, -share * targets / held, 0)
    gradient = p * (by_p - (p * by_p).sum(axis=-1, keepdims=True))
    return -(share * targets * np.log(held)).sum(), gradient.astype(logits.dtype)


def ties_are_right(method: Around, config: ViTConfig, logits: Any, labels: Any, mask: np.ndarray) -> Any:
    own = np.take_along_axis(logits, labels[:, None], axis=-1)
    return ((own[:, 0] >= logits.max(axis=-1)) * mask).sum() / mask.sum()


of_smoothing = partial(Fault, rung="loss", place="loss, smoothing 0.1, whole batch, float64")
of_loss = partial(Fault, rung="loss", place="loss, smoothing 0, whole batch, float64")
of_padded_loss = partial(Fault, rung="loss", place="loss, smoothing 0, padded batch, float64")
of_metric = partial(Fault, rung="metric", place="accuracy, whole batch")
of_padded_metric = partial(Fault, rung="metric", place="accuracy, padded batch")

LOSS = (
    of_smoothing(
        name="labels not smoothed",
        seen="an argument that is ignored",
        around=recipe_changed("loss", label_smoothing=0.0),
    ),
    of_smoothing(
        name="smoothing of the other classes only",
        seen="a / (C - 1) for a / C",
        around={"loss": smooth_others_only},
        applies=lambda c: c.num_classes > 2,
    ),
    of_loss(
        name="loss summed",
        seen="reduction='sum'",
        around={"loss": times_batch},
    ),
    of_padded_loss(
        name="padding counted in the loss",
        seen="a mask that is ignored",
        around={"loss": no_mask},
    ),
    of_padded_loss(
        name="loss divided by the padded size",
        seen="mean over the whole batch",
        around={"loss": by_batch_size},
    ),
    *(
        of_padded_loss(
            name=f"mean of {count} devices' means",
            seen="pmean of unequal shares",
            around={"loss": mean_of_means(count)},
        )
        for count in (2, 4, 8)
    ),
    of_loss(
        name="loss of the wrong sign",
        seen="log-likelihood for loss",
        around={"loss": lambda m, c, *a: tuple(-x for x in m(*a))},
    ),
    of_loss(
        name="z-loss added",
        seen="PaLM's and T5X's 1e-4 · logsumexp²",
        around={"loss": with_z_loss},
    ),
    of_loss(
        name="logarithm of softmax and epsilon",
        seen="log(softmax + 1e-7), after Keras's epsilon",
        around={"loss": log_of_softmax},
    ),
    of_loss(
        name="probabilities clipped",
        place="loss, smoothing 0, logits far apart, float64",
        seen="Keras's categorical_crossentropy of probabilities, which it keeps within 1e-7 of 0 and of 1",
        around={"loss": clipped_probabilities},
    ),
    Fault(
        name="loss in the logits' half precision",
        rung="loss bfloat16",
        place="loss, smoothing 0, image by image",
        seen="cross-entropy of bfloat16 logits as they are",
        around={"loss": narrow},
    ),
)

METRIC = (
    of_padded_metric(
        name="padding counted in the accuracy",
        seen="a mask that is ignored",
        around={"accuracy": no_mask},
    ),
    *(
        of_padded_metric(
            name=f"accuracy a mean of {count} means",
            seen="averaged by batch",
            around={"accuracy": mean_of_means(count)},
        )
        for count in (2, 4, 8)
    ),
    of_metric(
        name="accuracy off by a class",
        seen="labels that start at one",
        around={"accuracy": lambda m, c, z, y, k: m(z, (y + 1) % z.shape[-1], k)},
    ),
    of_metric(
        name="a tie is right",
        place="accuracy, every class alike",
        seen="logits[label] >= logits.max(), as in in_top_k",
        around={"accuracy": ties_are_right},
    ),
    of_metric(
        name="likeliest class of rounded probabilities",
        place="accuracy, every class nearly alike",
        seen="argmax after the softmax",
        around={"accuracy": lambda m, c, z, y, k: m(special.softmax(z, axis=-1), y, k)},
    ),
    of_metric(
        name="likeliest class of sigmoids",
        place="accuracy, every class nearly alike",
        seen="a head for many labels: sigmoids of large logits are all one",
        around={"accuracy": lambda m, c, z, y, k: m(special.expit(z), y, k)},
    ),
)
