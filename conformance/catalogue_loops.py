"""Faults of what surrounds the training step, and of the gradient inside it: epochs, augmentation, draws, average,
evaluation."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from conformance.faults import Around, Edit, Fault, edited, recipe_changed
from conformance.retrain import Trained, retrained
from vit_flax.config import ViTConfig
from vit_flax.recipe import Recipe
from vit_flax.weights import Weights

# The gradient: around `train(weights, images, labels, recipe)`.


def gradient_times(factor: float) -> dict[str, Around]:
    """The same as a bound for its norm, and Adam's epsilon, that are so many times smaller, and SGD's rate larger."""
    return recipe_changed(
        "train",
        clip_norm=lambda r: None if r.clip_norm is None else r.clip_norm / factor,
        epsilon=lambda r: r.epsilon / factor,
        learning_rate=lambda r: r.learning_rate * (factor if r.optimizer == "sgd" else 1.0),
    )


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Rounded to eight significant bits; the dtype stays."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 2**8) / 2**8, exponent).astype(x.dtype)


def all_to_bfloat16(gradients: Weights) -> Weights:
    return {leaf: to_bfloat16(g) for leaf, g in gradients.items()}


def narrow_gradients(only: type) -> dict[str, Around]:
    """In training in that dtype, gradients are kept in bfloat16."""

    def around(
        method: Around, config: ViTConfig, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe
    ) -> Trained:
        if images.dtype != only or recipe.optimizer != "adamw":
            return method(weights, images, labels, recipe)
        return retrained(all_to_bfloat16, method, weights, images, labels, recipe)

    return {"train": around}


# Epochs: around `epoch_rows(seed, epoch, examples, batch_size)`.

Rows = Sequence[np.ndarray]


def rows(change: Callable[[Callable[..., Rows], int, int, int, int], Rows]) -> dict[str, Around]:
    return {"epoch_rows": lambda method, config, *arguments: change(method, *arguments)}


def batches(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[start : start + size] for start in range(0, len(order) - size + 1, size)]


def last_kept(method: Callable[..., Rows], seed: int, epoch: int, examples: int, size: int) -> Rows:
    found = list(method(seed, epoch, examples, size))
    return [*found, np.setdiff1d(np.arange(examples), np.concatenate(found))]


def with_replacement(method: Callable[..., Rows], seed: int, epoch: int, examples: int, size: int) -> Rows:
    rng = np.random.default_rng([seed, epoch])
    return [rng.integers(0, examples, size) for _ in method(seed, epoch, examples, size)]


def same_left_out(method: Callable[..., Rows], seed: int, epoch: int, examples: int, size: int) -> Rows:
    """The last are cut off before the shuffling, not after it."""
    return method(seed, epoch, examples - examples % size, size)


def whole_batches_shuffled(method: Callable[..., Rows], seed: int, epoch: int, examples: int, size: int) -> Rows:
    """Read in the order of the data from a random place on, and then batch by batch."""
    rng = np.random.default_rng([seed, epoch])
    read = batches((np.arange(examples) + rng.integers(examples)) % examples, size)
    return [read[number] for number in rng.permutation(len(read))]


def within_a_buffer(method: Callable[..., Rows], seed: int, epoch: int, examples: int, size: int) -> Rows:
    """Each is drawn from the 32 that were read ahead."""
    rng = np.random.default_rng([seed, epoch])
    buffer, order = list(range(32)), []
    for number in range(32, examples):
        place = rng.integers(len(buffer))
        order.append(buffer[place])
        buffer[place] = number
    return batches(np.array([*order, *rng.permutation(buffer)]), size)


# Augmentation: around `augment(images, labels, seed, step, recipe)`.

Inputs = tuple[np.ndarray, np.ndarray]


def augmented(change: Callable[[Around, np.ndarray, np.ndarray, int, int, Recipe], Inputs]) -> dict[str, Around]:
    return {"augment": lambda method, config, *arguments: change(method, *arguments)}


def flipped_by(drawn: Callable[[np.random.Generator, int], np.ndarray]) -> dict[str, Around]:
    """Flips that are drawn otherwise."""

    def change(method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe) -> Inputs:
        seen, targets = method(images, labels, seed, step, recipe.replace(flip=False))
        if not recipe.flip:
            return seen, targets
        flips = drawn(np.random.default_rng([seed, step]), len(seen))
        return np.where(flips[:, None, None, None], seen[:, :, ::-1], seen), targets

    return augmented(change)


def one_crop_a_batch(
    method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe
) -> Inputs:
    """Each image gets the draws of the first."""
    if recipe.crop_scale == (1.0, 1.0):
        return method(images, labels, seed, step, recipe)
    first = []
    for image in np.unique(images, axis=0):
        seen, _ = method(np.broadcast_to(image, images.shape).copy(), labels, seed, step, recipe)
        first.append((image, seen[0]))
    cropped = [next(seen for known, seen in first if np.array_equal(known, image)) for image in images]
    return np.stack(cropped), method(images, labels, seed, step, recipe)[1]


def targets_left(
    method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe
) -> Inputs:
    seen, _ = method(images, labels, seed, step, recipe)
    return seen, method(images, labels, seed, step, recipe.replace(mixup=0.0, cutmix=0.0))[1]


def shares_exchanged(
    method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe
) -> Inputs:
    """The other's share for the own, in the targets of mixup."""
    seen, targets = method(images, labels, seed, step, recipe)
    if not recipe.mixup or recipe.cutmix:
        return seen, targets
    return seen, np.where((targets > 0) & (targets < 1), 1 - targets, targets)


def share_as_drawn(
    method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe
) -> Inputs:
    """CutMix whose targets have the share that was drawn, also where the box ends with the image."""
    if not recipe.cutmix or recipe.mixup:
        return method(images, labels, seed, step, recipe)
    seen, targets = method(images, labels, seed, step, recipe.replace(cutmix=0.0))
    rng = np.random.default_rng([seed, step])
    share = rng.beta(recipe.cutmix, recipe.cutmix)
    inside = np.ones((1, 1, 1), bool)
    for size, axis in ((images.shape[1], 0), (images.shape[2], 1)):
        centre, half = rng.integers(size), int(size * np.sqrt(1 - share) / 2)
        side = (np.arange(size) >= centre - half) & (np.arange(size) < centre + half)
        inside = inside & np.expand_dims(side, (1 - axis, 2))
    mixed = share * targets + (1 - share) * np.roll(targets, 1, axis=0)
    return np.where(inside, np.roll(seen, 1, axis=0), seen), mixed.astype(targets.dtype)


def uniform_ratio(
    method: Around, config: ViTConfig, seed: int, count: int, size: tuple[int, int], recipe: Recipe
) -> np.ndarray:
    """Boxes whose width over height is uniform, not its logarithm."""
    rng = np.random.default_rng(seed)
    area = np.prod(size) * rng.uniform(*recipe.crop_scale, (count, 10))
    ratio = rng.uniform(*recipe.crop_ratio, (count, 10))
    sides = np.round(np.sqrt(np.stack([area / ratio, area * ratio], axis=-1))).astype(int)
    fits = (sides <= size).all(axis=-1)
    chosen = sides[np.arange(count), fits.argmax(axis=1)]
    boxes = np.concatenate([rng.integers(0, np.maximum(np.array(size) - chosen, 0) + 1), chosen], axis=1)
    return np.where(fits.any(axis=1)[:, None], boxes, [0, 0, *size])


# Draws from step to step: around `noisy_losses(weights, images, labels, seed, recipe)`.


def noise(change: Callable[..., np.ndarray]) -> dict[str, Around]:
    return {"noisy_losses": lambda method, config, *arguments: change(method, config, *arguments)}


def one_key_for_all_steps(method: Around, config: ViTConfig, *arguments: Any) -> np.ndarray:
    losses = method(*arguments)
    return np.full_like(losses, losses[0])


def one_key_for_all_runs(
    method: Around, config: ViTConfig, weights: Weights, images: Any, labels: Any, seed: int, recipe: Recipe
) -> np.ndarray:
    return method(weights, images, labels, 0, recipe)


# The running average: around `averages(weights, images, labels, recipe)`.


def averaging(
    decay: Callable[[int, float], float], start: Callable[[np.ndarray], np.ndarray] = np.copy, late: int = 0
) -> dict[str, Around]:
    """An average of its own: `decay(step, the recipe's)` for steps from 1; `late` steps behind the weights."""

    def around(method: Around, config: ViTConfig, weights: Weights, images: Any, labels: Any, recipe: Recipe) -> Any:
        after = method(weights, images, labels, recipe.replace(ema_decay=None))
        course = [weights] * late + after
        average = {leaf: start(value) for leaf, value in weights.items()}
        averages = []
        for step in range(1, len(after) + 1):
            assert recipe.ema_decay is not None
            d, now = decay(step, recipe.ema_decay), course[step - 1]
            average = {leaf: d * average[leaf] + (1 - d) * now[leaf] for leaf in now}
            averages.append(average)
        return averages

    return {"averages": around}


def growing(step: int, decay: float) -> float:
    return min(decay, (1 + step) / (10 + step))


# Evaluation: around `evaluate(weights, images, labels, recipe)`.


def evaluated(change: Callable[..., float]) -> dict[str, Around]:
    return {"evaluate": lambda method, config, *arguments: change(method, *arguments)}


def mean_of_batches(method: Around, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> float:
    size = recipe.batch_size
    starts = range(0, len(images), size)
    shares = [method(weights, images[i : i + size], labels[i : i + size], recipe) for i in starts]
    return float(np.mean(shares))


def last_forgotten(method: Around, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> float:
    whole = len(images) - len(images) % recipe.batch_size
    return method(weights, images[:whole], labels[:whole], recipe)


def padding_counted(method: Around, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> float:
    """The last batch filled up with the first images, which count again."""
    rows = np.arange(-(-len(images) // recipe.batch_size) * recipe.batch_size) % len(images)
    return method(weights, images[rows], labels[rows], recipe)


def drop_head_features(weights: Weights, config: ViTConfig) -> Weights:
    """What dropout before the head does to all images, under one mask."""
    kernel = weights["head/kernel"]
    kept = np.random.default_rng(0).random((len(kernel), 1)) < 1 - config.dropout
    return weights | {"head/kernel": (kernel * kept / (1 - config.dropout)).astype(kernel.dtype)}


def only(capability: str, edit: Edit) -> dict[str, Around]:
    return {capability: edited(edit)[capability]}


def drop_when_evaluated(method: Around, config: ViTConfig, *arguments: Any, draw: Any = None, **named: Any) -> Any:
    """Dropout after the embedding also without `draw`, where the config has any."""
    taps = method(*arguments, draw=draw, **named) if draw is not None else method(*arguments, **named)
    if draw is not None or not config.dropout:
        return taps
    kept = np.random.default_rng(0).random(taps["embedding"].shape) >= config.dropout
    return taps | {"embedding": np.where(kept, taps["embedding"] / (1 - config.dropout), 0.0)}


PARAMETERS, STEP_1 = "plain SGD, step 01/parameters", "average after step 1"

LOOPS = (
    # The gradient, inside the training step
    Fault(
        "gradients summed over micro-batches",
        "trajectory",
        PARAMETERS,
        "four backward passes, and no division",
        around=gradient_times(4.0),
    ),
    Fault(
        "loss scale never undone",
        "trajectory",
        PARAMETERS,
        "a GradScaler without unscale_",
        around=gradient_times(2.0**10),
    ),
    Fault("gradients doubled", "trajectory", PARAMETERS, "psum for pmean on two devices", around=gradient_times(2.0)),
    Fault(
        "gradients kept in bfloat16",
        "trajectory",
        "step 02/parameters",
        "gradients of a model cast as a whole",
        around=narrow_gradients(np.float64),
    ),
    Fault(
        "float32 training's gradients in bfloat16",
        "trajectory float32",
        "step 03/loss",
        "gradients of a model cast as a whole",
        around=narrow_gradients(np.float32),
    ),
    # Epochs
    Fault("the last batch kept", "epochs", "incomplete batches", "drop_last=False", around=rows(last_kept)),
    Fault(
        "examples drawn with replacement",
        "epochs",
        "examples more than once in an epoch",
        "random.choices for a permutation",
        around=rows(with_replacement),
    ),
    Fault(
        "the same examples always left out",
        "epochs",
        "examples never seen",
        "cut to whole batches before shuffling",
        around=rows(same_left_out),
    ),
    Fault(
        "one order for all epochs",
        "epochs",
        "epochs in an order had before",
        "DistributedSampler without set_epoch",
        around=rows(lambda m, seed, epoch, n, size: m(seed, 0, n, size)),
    ),
    Fault(
        "one order for all seeds",
        "epochs",
        "epochs that another seed changes",
        "a generator of a fixed seed",
        around=rows(lambda m, seed, epoch, n, size: m(0, epoch, n, size)),
    ),
    Fault(
        "shuffled within a buffer",
        "epochs",
        "place by number, correlation",
        "tf.data's shuffle(32)",
        around=rows(within_a_buffer),
    ),
    Fault(
        "batches shuffled, not examples",
        "epochs",
        "neighbours, mean distance",
        "batch before shuffle",
        around=rows(whole_batches_shuffled),
    ),
    # Augmentation
    Fault(
        "training labels not smoothed",
        "augmentation",
        "as they are, targets",
        "smoothing in the loss, which was exchanged",
        around=recipe_changed("augment", label_smoothing=0.0),
    ),
    Fault(
        "flips drawn by batch",
        "augmentation",
        "flips, alike from image to image",
        "one draw for a batch of tensors",
        around=flipped_by(lambda rng, count: np.full(count, rng.random() < 0.5)),
    ),
    Fault(
        "the same draws at every step",
        "augmentation",
        "flips, alike from step to step",
        "a key that was not folded with the step",
        around=augmented(lambda m, x, y, seed, step, r: m(x, y, seed, 0, r)),
    ),
    Fault(
        "a quarter of the images flipped",
        "augmentation",
        "flips, share",
        "two coins for one",
        around=flipped_by(lambda rng, count: rng.random(count) < 0.25),
    ),
    Fault(
        "the same draws for every seed",
        "augmentation",
        "flips, steps that another seed changes",
        "NumPy's state copied to each worker",
        around=augmented(lambda m, x, y, seed, step, r: m(x, y, 0, step, r)),
    ),
    Fault(
        "one crop for a batch",
        "augmentation",
        "crops, alike from image to image",
        "a transform of the stacked batch",
        around=augmented(one_crop_a_batch),
    ),
    Fault(
        "mixed images keep their targets",
        "augmentation",
        "mixup, targets that say what is seen",
        "mixup as a transform of images",
        around=augmented(targets_left),
    ),
    Fault(
        "mixup's shares exchanged",
        "augmentation",
        "mixup, targets that say what is seen",
        "lam for 1 - lam",
        around=augmented(shares_exchanged),
    ),
    Fault(
        "mixup of alpha 0.2",
        "augmentation",
        "mixup, own share",
        "ImageNet's recipe",
        around=recipe_changed("augment", mixup=lambda r: 0.2 if r.mixup else 0.0),
    ),
    Fault(
        "CutMix by the share that was drawn",
        "augmentation",
        "CutMix, targets that say what is seen",
        "lam not made anew after clipping the box",
        around=augmented(share_as_drawn),
    ),
    Fault(
        "mixup alone where CutMix is due too",
        "augmentation",
        "mixup or CutMix, share of mixup",
        "switch_prob=0",
        around=recipe_changed("augment", cutmix=lambda r: 0.0 if r.mixup else r.cutmix),
    ),
    # Draws from step to step
    Fault(
        "no dropout in the training step",
        "noise",
        "steps without a draw",
        "model.eval() left on",
        around=recipe_changed("noisy_losses", dropout=0.0, drop_path=0.0),
    ),
    Fault(
        "one dropout key for all steps",
        "noise",
        "steps with a draw had before",
        "a key that was not folded with the step",
        around=noise(one_key_for_all_steps),
    ),
    Fault(
        "one dropout key for all runs",
        "noise",
        "steps that another seed changes",
        "PRNGKey(0) in the step",
        around=noise(one_key_for_all_runs),
    ),
    # Running average
    Fault(
        "average never used",
        "average",
        STEP_1,
        "the raw weights evaluated",
        around=recipe_changed("averages", ema_decay=None),
    ),
    Fault(
        "average long from the start",
        "average",
        STEP_1,
        "a constant decay, as in timm's ModelEmaV2",
        around=averaging(lambda step, decay: decay),
    ),
    Fault(
        "average's steps counted from zero",
        "average",
        STEP_1,
        "counted before the update",
        around=averaging(lambda step, decay: growing(step - 1, decay)),
    ),
    Fault(
        "average a step behind",
        "average",
        STEP_1,
        "averaged before the update",
        around=averaging(growing, late=1),
    ),
    Fault(
        "average from zero",
        "average",
        STEP_1,
        "zeros_like, without bias correction",
        around=averaging(growing, start=np.zeros_like),
    ),
    Fault(
        "average's decay for its rest",
        "average",
        STEP_1,
        "decay for 1 - decay, as in a momentum",
        around=averaging(lambda step, decay: 1 - growing(step, decay)),
    ),
    # Evaluation
    Fault(
        "evaluation a mean of batches",
        "evaluation",
        "accuracy, the last batch's labels wrong",
        "a smaller last batch counted as a full one",
        around=evaluated(mean_of_batches),
    ),
    Fault(
        "the last batch not evaluated",
        "evaluation",
        "accuracy, the last batch's labels wrong",
        "drop_last=True for every loader",
        around=evaluated(last_forgotten),
    ),
    Fault(
        "padding counted in evaluation",
        "evaluation",
        "accuracy, the last batch's labels wrong",
        "a batch filled up, and no mask",
        around=evaluated(padding_counted),
    ),
    Fault(
        "dropout in evaluation",
        "evaluation",
        "accuracy, every label right",
        "model.eval() forgotten",
        around=only("evaluate", drop_head_features),
    ),
    Fault(
        "evaluated under ImageNet's statistics",
        "evaluation",
        "accuracy, every label right",
        "two transforms, one changed",
        around=recipe_changed("evaluate", means=lambda r: (0.485, 0.456, 0.406)[: len(r.means)]),
    ),
    # Crop boxes, and dropout where none is due
    Fault(
        "ratio of crops drawn uniformly",
        "pixels",
        "boxes, ratio",
        "uniform(3 / 4, 4 / 3) for its logarithm",
        around={"crops": uniform_ratio},
    ),
    Fault(
        "drops at evaluation",
        "randomness",
        "in evaluation, embedding",
        "F.dropout(x, p) without training=self.training",
        around={"taps": drop_when_evaluated},
    ),
)
