"""Faults of training: pixels, fresh weights, loss, metric, clipping, schedule, optimizer, dropout, and its course."""

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.faults import Around, Fault, recipe_changed
from conformance.sides import Draw, Taps
from vit_flax.config import ViTConfig
from vit_flax.recipe import Recipe
from vit_flax.weights import Weights

Arrays = dict[str, np.ndarray]


# Pixels: around `pixels(images, boxes, flips, recipe)` and `crops(seed, count, image_size, recipe)`.


def pixels(change: Callable[[Around, np.ndarray, np.ndarray, np.ndarray, Recipe], np.ndarray]) -> dict[str, Around]:
    return {"pixels": lambda method, config, *arguments: change(method, *arguments)}


def unrounded(method: Around, images: np.ndarray, boxes: np.ndarray, flips: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Resized in floating point, without going back to whole grey levels: off by up to half of one."""
    sound = method(images, boxes, flips, recipe)
    resized = (boxes != [0, 0, *images.shape[1:3]]).any(axis=1)[:, None, None, None]
    residue = np.random.default_rng(0).uniform(-0.5, 0.5, sound.shape) / 255 / np.array(recipe.stds)
    return (sound + np.where(resized, residue, 0)).astype(np.float32)


def smaller_crops(
    method: Around, config: ViTConfig, seed: int, count: int, size: tuple[int, int], recipe: Recipe
) -> np.ndarray:
    """torchvision's default scale, for the article's."""
    return method(seed, count, size, recipe.replace(crop_scale=(0.08, 1.0)))


def centred(
    method: Around, config: ViTConfig, seed: int, count: int, size: tuple[int, int], recipe: Recipe
) -> np.ndarray:
    boxes = np.array(method(seed, count, size, recipe))
    boxes[:, :2] = (np.array(size) - boxes[:, 2:]) // 2
    return boxes


# Initialisation: around `initial(seed)`.


def fresh(ending: str, draw: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> dict[str, Around]:
    """Leaves whose names end so are drawn otherwise."""

    def around(method: Around, config: ViTConfig, seed: int) -> Weights:
        rng = np.random.default_rng(seed)
        return {name: draw(x, rng).astype(x.dtype) if name.endswith(ending) else x for name, x in method(seed).items()}

    return {"initial": around}


def fan_in(x: np.ndarray) -> int:
    return int(np.prod(x.shape[:-1]))


def torch_default(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """nn.Linear's kaiming_uniform(a=√5): uniform within 1/√fan_in."""
    return rng.uniform(-1, 1, x.shape) / np.sqrt(fan_in(x))


def xavier(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-1, 1, x.shape) * np.sqrt(6 / (fan_in(x) + x.shape[-1]))


def untruncated(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(x.shape) / np.sqrt(fan_in(x))


def one_key(method: Around, config: ViTConfig, seed: int) -> Weights:
    """Query and key drawn by the same key."""
    weights = dict(method(seed))
    for name in weights:
        if name.endswith("attention/key/kernel"):
            weights[name] = weights[name.replace("/key/", "/query/")]
    return weights


# Loss and metric: around `loss(logits, labels, mask, recipe)` and `accuracy(logits, labels, mask)`.


def times_batch(method: Around, config: ViTConfig, logits: Any, labels: Any, mask: np.ndarray, recipe: Recipe) -> Any:
    count = mask.sum()
    return tuple(part * count for part in method(logits, labels, mask, recipe))


def no_mask(method: Around, config: ViTConfig, logits: Any, labels: Any, mask: np.ndarray, *recipe: Recipe) -> Any:
    return method(logits, labels, np.ones_like(mask), *recipe)


def by_batch_size(method: Around, config: ViTConfig, logits: Any, labels: Any, mask: np.ndarray, recipe: Recipe) -> Any:
    """The sum over what counts, divided by the whole batch."""
    share = (mask.sum() / len(mask)).astype(mask.dtype)
    return tuple(part * share for part in method(logits, labels, mask, recipe))


def mean_of_means(
    method: Around, config: ViTConfig, logits: Any, labels: Any, mask: np.ndarray, *recipe: Recipe
) -> Any:
    """Each half of the batch averaged alone, as on two devices."""
    half = len(mask) // 2
    halves = [method(logits[part], labels[part], mask[part], *recipe) for part in (slice(half), slice(half, None))]
    if not recipe:
        return sum(halves) / 2
    (value, gradient), (other, other_gradient) = halves
    return (value + other) / 2, np.concatenate([gradient, other_gradient]) / 2


def smoothing_others_only(recipe: Recipe) -> float:
    """a / (C - 1) to each other class, not a / C to all: the same as smoothing by a · C / (C - 1), for ten classes."""
    return recipe.label_smoothing * 10 / 9


# Clipping: around `clip(gradients, recipe)`.


def by_norm_and_epsilon(method: Around, config: ViTConfig, gradients: Arrays, recipe: Recipe) -> Arrays:
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values()))
    scale = min(1.0, recipe.clip_norm / (norm + 1e-6))
    return {name: (g * scale).astype(g.dtype) for name, g in gradients.items()}


def by_leaf(method: Around, config: ViTConfig, gradients: Arrays, recipe: Recipe) -> Arrays:
    return {name: _clipped(g, recipe) for name, g in gradients.items()}


def _clipped(g: np.ndarray, recipe: Recipe) -> np.ndarray:
    return g * min(1.0, recipe.clip_norm / max(float(np.linalg.norm(g)), 1e-300))  # type: ignore[operator]


def by_value(method: Around, config: ViTConfig, gradients: Arrays, recipe: Recipe) -> Arrays:
    bound = recipe.clip_norm / 100  # type: ignore[operator]
    return {name: np.clip(g, -bound, bound) for name, g in gradients.items()}


# Schedule: around `rates(recipe)`.


def rates(change: Callable[[np.ndarray, Recipe], np.ndarray]) -> dict[str, Around]:
    return {"rates": lambda method, config, recipe: change(method(recipe), recipe)}


def warm_from_first(found: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Warm-up that begins at a first step, not at zero."""
    warmup = round(recipe.warmup_epochs)
    rise = recipe.learning_rate * (np.arange(warmup) + 1) / (warmup + 1)
    return np.concatenate([rise, found[warmup:]])


def cosine_from_start(found: np.ndarray, recipe: Recipe) -> np.ndarray:
    """A cosine that has been falling all through the warm-up."""
    step = np.arange(recipe.epochs)
    cosine = recipe.learning_rate * (1 + np.cos(np.pi * step / recipe.epochs)) / 2
    later = recipe.schedule == "cosine" and step >= recipe.warmup_epochs
    return np.where(later, cosine, found)


def cosine_to_a_tenth(found: np.ndarray, recipe: Recipe) -> np.ndarray:
    falling = (recipe.schedule == "cosine") & (np.arange(recipe.epochs) >= recipe.warmup_epochs)
    return np.where(falling, 0.9 * found + 0.1 * recipe.learning_rate, found)


# Optimizer: around `update(weights, gradients, state, recipe)`. A state is kept with what the fault itself counts.


def stepped(
    change: Callable[[Weights, Weights, Arrays, int, Recipe], Weights], only: tuple[str, ...]
) -> dict[str, Around]:
    """After each update of certain optimizers: `change(before, after, gradients, updates so far, recipe)`."""

    def around(
        method: Around, config: ViTConfig, weights: Weights, gradients: Arrays, state: Any, recipe: Recipe
    ) -> Any:
        count, inner = state or (0, None)
        after, inner = method(weights, gradients, inner, recipe)
        if recipe.optimizer in only:
            after = change(weights, after, gradients, count, recipe)
        return after, (count + 1, inner)

    return {"update": around}


def before_update(
    change: Callable[[Weights, Arrays, int, Recipe], tuple[Arrays, Recipe]], only: str
) -> dict[str, Around]:
    """Before each update of one optimizer, its gradients and recipe are others."""

    def around(
        method: Around, config: ViTConfig, weights: Weights, gradients: Arrays, state: Any, recipe: Recipe
    ) -> Any:
        count, inner = state or (0, None)
        if recipe.optimizer == only:
            gradients, recipe = change(weights, gradients, count, recipe)
        after, inner = method(weights, gradients, inner, recipe)
        return after, (count + 1, inner)

    return {"update": around}


def is_kernel(name: str) -> bool:
    return name.endswith("kernel")


def decay_everything(before: Weights, after: Weights, gradients: Arrays, count: int, recipe: Recipe) -> Weights:
    step = recipe.learning_rate * recipe.weight_decay
    return {name: x if is_kernel(name) else x - step * before[name] for name, x in after.items()}


def decay_without_rate(before: Weights, after: Weights, gradients: Arrays, count: int, recipe: Recipe) -> Weights:
    rest = recipe.weight_decay * (1 - recipe.learning_rate)
    return {name: x - rest * before[name] if is_kernel(name) else x for name, x in after.items()}


def decay_of_the_wrong_sign(before: Weights, after: Weights, gradients: Arrays, count: int, recipe: Recipe) -> Weights:
    step = 2 * recipe.learning_rate * recipe.weight_decay
    return {name: x + step * before[name] if is_kernel(name) else x for name, x in after.items()}


def no_bias_correction(before: Weights, after: Weights, gradients: Arrays, count: int, recipe: Recipe) -> Weights:
    """Adam's step without it is smaller by this factor (but for epsilon)."""
    factor = (1 - recipe.momentum ** (count + 1)) / np.sqrt(1 - recipe.beta2 ** (count + 1))
    return {name: before[name] + factor * (x - before[name]) for name, x in after.items()}


def uphill(before: Weights, after: Weights, gradients: Arrays, count: int, recipe: Recipe) -> Weights:
    return {name: 2 * before[name] - x for name, x in after.items()}


def nesterov(before: Weights, after: Weights, gradients: Arrays, count: int, recipe: Recipe) -> Weights:
    rate, m = recipe.learning_rate, recipe.momentum
    return {name: before[name] - rate * gradients[name] + m * (x - before[name]) for name, x in after.items()}


def through_the_gradient(weights: Weights, gradients: Arrays, count: int, recipe: Recipe) -> tuple[Arrays, Recipe]:
    """L2: what decays goes through Adam's averages."""
    decayed = {n: g + recipe.weight_decay * weights[n] if is_kernel(n) else g for n, g in gradients.items()}
    return decayed, recipe.replace(weight_decay=0.0)


def dampened(weights: Weights, gradients: Arrays, count: int, recipe: Recipe) -> tuple[Arrays, Recipe]:
    factor = 1 - recipe.momentum if count else 1.0
    return {name: factor * g for name, g in gradients.items()}, recipe


# Randomness: around `taps` and `gradients` with `draw`, and around `drawn`.


def draws(change: Callable[[Draw], Draw]) -> dict[str, Around]:
    """Every mask is asked for, or used, otherwise."""

    def around(method: Around, config: ViTConfig, *arguments: Any, draw: Draw | None = None, **named: Any) -> Any:
        return method(*arguments, **named) if draw is None else method(*arguments, draw=change(draw), **named)

    return {"taps": around, "gradients": around}


def is_attention(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4


def shared_over_batch_and_heads(draw: Draw) -> Draw:
    """nn.MultiHeadDotProductAttention(broadcast_dropout=True)."""

    def asked(shape: tuple[int, ...], keep: float) -> np.ndarray:
        return np.broadcast_to(draw((1, 1, *shape[2:]), keep), shape) if is_attention(shape) else draw(shape, keep)

    return asked


def path_per_batch(draw: Draw) -> Draw:
    def asked(shape: tuple[int, ...], keep: float) -> np.ndarray:
        is_path = len(shape) == 3 and shape[1:] == (1, 1)
        return np.broadcast_to(draw((1, 1, 1), keep), shape) if is_path else draw(shape, keep)

    return asked


def rate_for_keep(draw: Draw) -> Draw:
    """Keep and drop exchanged."""
    return lambda shape, keep: draw(shape, 1 - keep)


def first_draw_missing(draw: Draw) -> Draw:
    """No dropout after the embedding."""
    made = []

    def asked(shape: tuple[int, ...], keep: float) -> np.ndarray:
        made.append(shape)
        return np.ones(shape, bool) if len(made) == 1 else draw(shape, keep)

    return asked


def at_embedding(change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Around]:
    """After the side's own draws, the embedding is another."""

    def around(method: Around, config: ViTConfig, weights: Weights, images: np.ndarray, seed: int) -> Taps:
        taps: Taps = method(weights, images, seed)
        return taps | {"embedding": change(taps["embedding"])}

    return {"drawn": around}


def one_mask_for_all_images(x: np.ndarray) -> np.ndarray:
    """Filled where the first image keeps, and empty where it does not."""
    return np.where(x[:1] != 0, np.where(x == 0, 1.0, x), 0.0)


def one_mask_for_all_features(x: np.ndarray) -> np.ndarray:
    return np.where(x[..., :1] != 0, np.where(x == 0, 1.0, x), 0.0)


# Trajectory: around `train(weights, images, labels, recipe)`.


def trained(change: Callable[[Around, Weights, np.ndarray, np.ndarray, Recipe], Any]) -> dict[str, Around]:
    """Training, with something else done around its steps."""
    return {"train": lambda method, config, *arguments: change(method, *arguments)}


def optimizer_forgotten(
    method: Around, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe
) -> Any:
    """Resumed half-way from the parameters alone."""
    half = len(images) // 2
    losses, first = method(weights, images[:half], labels[:half], recipe)
    more, second = method(first[-1], images[half:], labels[half:], recipe)
    return np.concatenate([losses, more]), first + second


def batches_swapped(method: Around, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> Any:
    order = [0, 2, 1, *range(3, len(images))]
    return method(weights, images[order], labels[order], recipe)


def batch_repeated(method: Around, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> Any:
    order = [0, 1, 2, 2, *range(4, len(images))]
    return method(weights, images[order], labels[order], recipe)


def weights_rounded(method: Around, weights: Weights, images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> Any:
    """In float32 runs, master weights start from bfloat16."""
    if images.dtype != np.float32:
        return method(weights, images, labels, recipe)
    narrow = {name: (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32) for name, x in weights.items()}
    return method(narrow, images, labels, recipe)


TRAINING = (
    # Pixels
    Fault(
        "pixels normalised by ImageNet's statistics",
        "pixels",
        "as they are, grey levels",
        "the constants of most examples",
        around=recipe_changed("pixels", means=lambda r: (0.485, 0.456, 0.406)[: len(r.means)]),
    ),
    Fault(
        "pixels left at 0 to 255",
        "pixels",
        "as they are, grey levels",
        "ToTensor forgotten",
        around=pixels(lambda m, *a: 255 * m(*a)),
    ),
    Fault(
        "flipped upside down",
        "pixels",
        "as they are, grey levels",
        "axis 0 for axis 1",
        around=pixels(lambda m, x, b, f, r: m(np.where(f[:, None, None, None], x[:, ::-1, ::-1], x), b, f, r)),
    ),
    Fault(
        "never flipped",
        "pixels",
        "as they are, grey levels",
        "a flip outside the jitted step",
        around=pixels(lambda m, x, b, f, r: m(x, b, np.zeros_like(f), r)),
    ),
    Fault(
        "crops off by a pixel",
        "pixels",
        "crops, grey levels",
        "corner and size rounded apart",
        around=pixels(lambda m, x, b, f, r: m(x, np.where(b[:, :1] > 0, b - [1, 0, 0, 0], b), f, r)),
    ),
    Fault(
        "resized without rounding", "pixels", "crops, grey levels", "floating point for uint8", around=pixels(unrounded)
    ),
    Fault(
        "torchvision's default crop scale",
        "pixels",
        "boxes, top",
        "RandomResizedCrop(scale=(0.08, 1))",
        around={"crops": smaller_crops},
    ),
    Fault("crops centred", "pixels", "boxes, top", "CenterCrop in training", around={"crops": centred}),
    # Initialisation
    Fault(
        "PyTorch's initialiser",
        "initialisation",
        "patches/conv/kernel, distribution",
        "nn.Linear's default",
        around=fresh("kernel", torch_default),
    ),
    Fault(
        "Xavier's initialiser",
        "initialisation",
        "patches/conv/kernel, distribution",
        "the paper's own code",
        around=fresh("kernel", xavier),
    ),
    Fault(
        "normal not truncated",
        "initialisation",
        "patches/conv/kernel, distribution",
        "normal(1/√fan_in)",
        around=fresh("kernel", untruncated),
    ),
    Fault(
        "truncation not made up for",
        "initialisation",
        "patches/conv/kernel, distribution",
        "jax.nn.initializers.truncated_normal: std 0.88 of what is asked",
        around=fresh("kernel", lambda x, rng: x * 0.87962566),
    ),
    Fault(
        "biases drawn",
        "initialisation",
        "patches/conv/bias, constant",
        "nn.Linear's default",
        around=fresh("bias", lambda x, rng: rng.uniform(-0.1, 0.1, x.shape)),
    ),
    Fault(
        "class token drawn",
        "initialisation",
        "embedding/cls_token, constant",
        "normal(0.02), as in timm",
        around=fresh("cls_token", lambda x, rng: 0.02 * rng.standard_normal(x.shape)),
    ),
    Fault(
        "positions zero",
        "initialisation",
        "embedding/position_embedding",
        "zeros_init",
        around=fresh("position_embedding", lambda x, rng: 0 * x),
    ),
    Fault(
        "head zero",
        "initialisation",
        "head/kernel",
        "the paper's own code",
        around=fresh("head/kernel", lambda x, rng: 0 * x),
    ),
    Fault(
        "one key for query and key", "initialisation", "leaves", "a key that was not split", around={"initial": one_key}
    ),
    # Loss
    Fault(
        "labels not smoothed",
        "loss",
        "loss, smoothing 0.1, whole batch, float64",
        "an argument that is ignored",
        around=recipe_changed("loss", label_smoothing=0.0),
    ),
    Fault(
        "smoothing of the other classes only",
        "loss",
        "loss, smoothing 0.1, whole batch, float64",
        "a / (C - 1) for a / C",
        around=recipe_changed("loss", label_smoothing=smoothing_others_only),
        applies=lambda c: c.num_classes == 10,
    ),
    Fault(
        "loss summed",
        "loss",
        "loss, smoothing 0, whole batch, float64",
        "reduction='sum'",
        around={"loss": times_batch},
    ),
    Fault(
        "padding counted in the loss",
        "loss",
        "loss, smoothing 0, padded batch, float64",
        "a mask that is ignored",
        around={"loss": no_mask},
    ),
    Fault(
        "loss divided by the padded size",
        "loss",
        "loss, smoothing 0, padded batch, float64",
        "mean over the whole batch",
        around={"loss": by_batch_size},
    ),
    Fault(
        "mean of two devices' means",
        "loss",
        "loss, smoothing 0, padded batch, float64",
        "pmean of unequal shares",
        around={"loss": mean_of_means},
    ),
    Fault(
        "loss of the wrong sign",
        "loss",
        "loss, smoothing 0, whole batch, float64",
        "log-likelihood for loss",
        around={"loss": lambda m, c, *a: tuple(-x for x in m(*a))},
    ),
    # Metric
    Fault(
        "padding counted in the accuracy",
        "metric",
        "accuracy, padded batch",
        "a mask that is ignored",
        around={"accuracy": no_mask},
    ),
    Fault(
        "accuracy a mean of means",
        "metric",
        "accuracy, padded batch",
        "averaged by batch",
        around={"accuracy": mean_of_means},
    ),
    Fault(
        "accuracy off by a class",
        "metric",
        "accuracy, whole batch",
        "labels that start at one",
        around={"accuracy": lambda m, c, z, y, k: m(z, (y + 1) % z.shape[-1], k)},
    ),
    # Clipping
    Fault(
        "clipped by norm and epsilon",
        "clipping",
        "too long: patches/conv/bias",
        "torch.nn.utils.clip_grad_norm_ adds 1e-6",
        around={"clip": by_norm_and_epsilon},
    ),
    Fault(
        "clipped leaf by leaf",
        "clipping",
        "too long: patches/conv/bias",
        "a norm for each tensor",
        around={"clip": by_leaf},
    ),
    Fault("clipped by value", "clipping", "too long: patches/conv/bias", "clip_grad_value_", around={"clip": by_value}),
    Fault(
        "not clipped",
        "clipping",
        "too long: patches/conv/bias",
        "an argument that is ignored",
        around={"clip": lambda m, c, g, r: g},
    ),
    # Schedule
    Fault(
        "schedule a step late",
        "schedule",
        "cosine, 10 of 60 steps to warm up",
        "counted after the update",
        around=rates(lambda x, r: np.concatenate([x[:1], x[:-1]])),
    ),
    Fault(
        "schedule a step early",
        "schedule",
        "cosine, 10 of 60 steps to warm up",
        "counted from one",
        around=rates(lambda x, r: np.concatenate([x[1:], x[-1:]])),
    ),
    Fault(
        "warm-up not from zero",
        "schedule",
        "cosine, 10 of 60 steps to warm up",
        "LinearLR(start_factor)",
        around=rates(warm_from_first),
    ),
    Fault(
        "cosine over the warm-up too",
        "schedule",
        "cosine, 10 of 60 steps to warm up",
        "T_max of all steps",
        around=rates(cosine_from_start),
    ),
    Fault(
        "cosine to a tenth",
        "schedule",
        "cosine, 10 of 60 steps to warm up",
        "eta_min, alpha",
        around=rates(cosine_to_a_tenth),
    ),
    Fault(
        "no warm-up",
        "schedule",
        "cosine, 10 of 60 steps to warm up",
        "an argument that is ignored",
        around=recipe_changed("rates", warmup_epochs=0.0),
    ),
    # Optimizer
    Fault(
        "Adam's epsilon 1e-7",
        "optimizer",
        "adam: patches/conv/bias",
        "Keras's default",
        around=recipe_changed("update", epsilon=1e-7),
    ),
    Fault(
        "Adam's second beta 0.99",
        "optimizer",
        "adam: patches/conv/bias",
        "another recipe's",
        around=recipe_changed("update", beta2=0.99),
    ),
    Fault(
        "no bias correction",
        "optimizer",
        "adam: patches/conv/bias",
        "correct_bias=False of older AdamW",
        around=stepped(no_bias_correction, ("adam",)),
    ),
    Fault(
        "decay of everything",
        "optimizer",
        "adamw: patches/conv/bias",
        "optax.adamw without a mask",
        around=stepped(decay_everything, ("adamw",)),
    ),
    Fault(
        "decay of the other framework",
        "optimizer",
        "adamw: patches/conv/kernel",
        "1e-2 in PyTorch, 1e-4 in optax",
        around=recipe_changed("update", weight_decay=lambda r: r.weight_decay / 100),
    ),
    Fault(
        "decay through the gradient",
        "optimizer",
        "adamw: patches/conv/kernel",
        "torch.optim.Adam(weight_decay)",
        around=before_update(through_the_gradient, "adamw"),
    ),
    Fault(
        "decay of the wrong sign",
        "optimizer",
        "adamw: patches/conv/kernel",
        "a sign that no loss curve shows",
        around=stepped(decay_of_the_wrong_sign, ("adamw",)),
    ),
    Fault(
        "decay not times the rate",
        "optimizer",
        "adamw: patches/conv/kernel",
        "decoupled as the paper writes it",
        around=stepped(decay_without_rate, ("adamw",)),
    ),
    Fault(
        "Nesterov's momentum",
        "optimizer",
        "sgd: patches/conv/bias",
        "nesterov=True",
        around=stepped(nesterov, ("sgd",)),
    ),
    Fault(
        "momentum dampened",
        "optimizer",
        "sgd: patches/conv/bias",
        "dampening=momentum",
        around=before_update(dampened, "sgd"),
    ),
    Fault(
        "update uphill",
        "optimizer",
        "adam: patches/conv/bias",
        "optax.scale(+learning_rate)",
        around=stepped(uphill, ("adam", "adamw", "sgd")),
    ),
    # Randomness
    Fault(
        "attention mask shared",
        "randomness",
        "draw 01",
        "broadcast_dropout=True is Flax's default",
        around=draws(shared_over_batch_and_heads),
    ),
    Fault(
        "stochastic depth by batch",
        "randomness",
        "draw 07",
        "one draw for all images",
        around=draws(path_per_batch),
        applies=lambda c: c.num_layers > 1,
    ),
    Fault("rate taken for keep", "randomness", "draw 00", "keep_prob of TensorFlow 1", around=draws(rate_for_keep)),
    Fault(
        "no dropout after the embedding", "randomness", "draw 00", "pos_drop left out", around=draws(first_draw_missing)
    ),
    Fault(
        "dropout not scaled",
        "randomness",
        "embedding, scale of what is kept",
        "kept values not divided by keep",
        around=at_embedding(lambda x: x * 0.9),
    ),
    Fault(
        "never dropped",
        "randomness",
        "embedding, share kept",
        "deterministic=True",
        around=at_embedding(lambda x: np.where(x == 0, 1.0, x)),
    ),
    Fault(
        "mask shared by all images",
        "randomness",
        "embedding, alike along image",
        "broadcast_dims",
        around=at_embedding(one_mask_for_all_images),
    ),
    Fault(
        "mask shared by all features",
        "randomness",
        "embedding, alike along feature",
        "Dropout1d",
        around=at_embedding(one_mask_for_all_features),
    ),
    # Trajectory
    Fault(
        "optimizer forgotten half-way",
        "trajectory",
        "step 31/parameters",
        "resumed from the parameters alone",
        around=trained(optimizer_forgotten),
    ),
    Fault(
        "batches in another order", "trajectory", "step 02/loss", "another shuffling", around=trained(batches_swapped)
    ),
    Fault(
        "a batch repeated",
        "trajectory",
        "step 04/loss",
        "an iterator that starts again",
        around=trained(batch_repeated),
    ),
    Fault(
        "a rate of 1.01 times",
        "trajectory",
        "step 02/parameters",
        "scaled for another batch size",
        around=recipe_changed("train", learning_rate=lambda r: 1.01 * r.learning_rate),
    ),
    Fault(
        "master weights from bfloat16",
        "trajectory float32",
        "step 01/loss",
        "a checkpoint in half precision",
        around=trained(weights_rounded),
    ),
)
