"""What surrounds the training step: epochs, draws from step to step, evaluation, running average.

Two sound sides need not shuffle or drop alike. So properties are compared: in how many epochs an example comes twice,
in how many steps a loss comes again. Counts must be equal, statistics as nearly as their draws are.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from conformance import power, tolerances
from conformance.compare import Diff, differ
from conformance.precision import rounded
from conformance.sides import TrainableSide
from conformance.training import FALLING, PLAIN, training_batches
from vit_flax.config import ViTConfig
from vit_flax.recipe import Recipe, recipe
from vit_flax.weights import Weights

EXAMPLES, EPOCH_BATCH, EPOCHS = 203, 16, 6  # eleven are left over each time
PLACES = EXAMPLES - EXAMPLES % EPOCH_BATCH  # of an epoch
ORDERS = 128  # epochs whose statistics are taken
BATCHES = ORDERS * (EXAMPLES // EPOCH_BATCH)
LEVEL = tolerances.FALSE_ALARMS / 6  # six of an epoch's checks are statistical
# No weight moves: only the draws tell its steps apart.
SETTLED = PLAIN.replace(learning_rate=1e-30, dropout=0.1, drop_path=0.1)
NOISY_STEPS = 6
AVERAGED_STEPS = 10
# A decay that the average's short start reaches in its ninth step: both are seen. It is above a half, at which the
# start of Mean Teacher's average begins.
AVERAGING = FALLING.replace(ema_decay=0.52)
EVALUATED, EVALUATION_BATCH = 29, 8  # five in the last batch
CLASSIFIED = 256  # of which the closest calls are evaluated


def counted(name: str, ours: float, theirs: float) -> Diff:
    """Two counts, which must be equal."""
    return Diff(name, "alone", abs(ours - theirs), None, 0.0)


def spread(name: str, ours: np.ndarray, theirs: np.ndarray, level: float) -> Diff:
    """Whether counts vary as much: the larger variance in units of the smaller, by Fisher's distribution."""
    if min(len(ours), len(theirs)) < 2:
        return Diff(name, "alone", 0.0, None, np.inf)
    large, small = sorted((ours, theirs), key=np.var, reverse=True)
    a, b = float(large.var(ddof=1)), float(small.var(ddof=1))
    ratio = 1.0 if a == b else a / b if b else np.inf
    return Diff(name, "alone", ratio, None, float(stats.f.isf(level / 2, len(large) - 1, len(small) - 1)))


def compare_epochs(candidate: TrainableSide, reference: TrainableSide) -> tuple[Diff, ...]:
    """Batches of image numbers: what an epoch holds, what changes from one to the next, and how well it is shuffled."""
    epochs, their_epochs = _epochs(candidate, seed=0), _epochs(reference, seed=0)
    if not all(epochs):
        return (Diff("epochs", "alone", np.inf, None, 0.0, "an epoch without a batch"),)
    diffs = []
    for name, count in EPOCH_COUNTS.items():
        diffs.append(counted(name, count(epochs), count(their_epochs)))
    for name, unlike in (
        ("epochs that differ when asked for again", lambda side: _unlike(_epochs(side, 0), _epochs(side, 0))),
        ("epochs that another seed changes", lambda side: _unlike(_epochs(side, 0), _epochs(side, 1))),
    ):
        diffs.append(counted(name, unlike(candidate), unlike(reference)))
    had = _in_an_order_had_before(epochs + _epochs(candidate, 1))
    they_had = _in_an_order_had_before(their_epochs + _epochs(reference, 1))
    diffs.append(counted("orders had under another seed", had, they_had))
    orders, their_orders = _epochs(candidate, 0, ORDERS), _epochs(reference, 0, ORDERS)
    if not all(orders):
        return (*diffs, Diff("epochs", "alone", np.inf, None, 0.0, "an epoch without a batch"))
    orders, their_orders = _distinct(orders), _distinct(their_orders)
    for name, statistic in EPOCH_STATISTICS.items():
        diffs.append(_means(name, statistic(orders), statistic(their_orders)))
    diffs.append(spread("even numbers in a batch", _even_numbers(orders), _even_numbers(their_orders), LEVEL))
    return tuple(diffs)


Epoch = Sequence[np.ndarray]  # its batches


def _epochs(side: TrainableSide, seed: int, epochs: int = EPOCHS) -> list[Epoch]:
    return [list(side.epoch_rows(seed, epoch, EXAMPLES, EPOCH_BATCH)) for epoch in range(epochs)]


def _incomplete(epochs: Sequence[Epoch]) -> int:
    return sum(len(batch) != EPOCH_BATCH for epoch in epochs for batch in epoch)


def _more_than_once(epochs: Sequence[Epoch]) -> int:
    return sum(len(np.concatenate(epoch)) - len(np.unique(np.concatenate(epoch))) for epoch in epochs)


def _no_examples(epochs: Sequence[Epoch]) -> int:
    return sum(int(((batch < 0) | (batch >= EXAMPLES)).sum()) for epoch in epochs for batch in epoch)


def _left_out(epochs: Sequence[Epoch]) -> int:
    return sum(EXAMPLES - len(np.unique(np.concatenate(epoch))) for epoch in epochs)


def _never_seen(epochs: Sequence[Epoch]) -> int:
    return EXAMPLES - len(np.unique(np.concatenate([np.concatenate(epoch) for epoch in epochs])))


def _in_an_order_had_before(epochs: Sequence[Epoch]) -> int:
    return len(epochs) - len(_distinct(epochs))


EPOCH_COUNTS: dict[str, Callable[[Sequence[Epoch]], int]] = {
    "incomplete batches": _incomplete,
    "examples more than once in an epoch": _more_than_once,
    "numbers that are no example's": _no_examples,
    "examples left out of an epoch": _left_out,
    "epochs in an order had before": _in_an_order_had_before,
    "examples never seen": _never_seen,
}


def _unlike(epochs: Sequence[Epoch], others: Sequence[Epoch]) -> int:
    pairs = zip(epochs, others, strict=True)
    return sum(not np.array_equal(np.concatenate(a), np.concatenate(b)) for a, b in pairs)


def _distinct(epochs: Sequence[Epoch]) -> list[Epoch]:
    """One that comes again counts once: its statistics are no further draw."""
    return list({tuple(np.concatenate(epoch).tolist()): epoch for epoch in epochs}.values())


def _means(name: str, ours: np.ndarray, theirs: np.ndarray) -> Diff:
    """The mean of what is counted in each epoch, or batch; how far it may stray is known from how it varies among them.

    A reference with a fault in it, that moves whole batches, varies more than a sound one.
    """
    n = min(len(ours), len(theirs))
    if n < 2:
        return Diff(name, "alone", 0.0, None, np.inf)
    deviation = math.sqrt(ours.var(ddof=1) / len(ours) + theirs.var(ddof=1) / len(theirs))
    return Diff(name, "alone", abs(ours.mean() - theirs.mean()), None, power.quantile(LEVEL, n) * deviation)


def _rank_correlation(epochs: Sequence[Epoch]) -> np.ndarray:
    """Of an example's number and its place in the epoch."""
    orders = [np.concatenate(epoch) for epoch in epochs]
    return np.array([np.corrcoef(order, np.arange(len(order)))[0, 1] for order in orders])


def _neighbours_apart(epochs: Sequence[Epoch]) -> np.ndarray:
    """Of each batch, the mean distance of the numbers side by side, as a share of all."""
    return np.array([np.abs(np.diff(batch)).mean() / EXAMPLES for batch in _distinct_batches(epochs)])


def _meeting_again(epochs: Sequence[Epoch]) -> np.ndarray:
    """Pairs that are in one batch, and in one batch of the next epoch too."""
    together = []
    for epoch in epochs:
        batch_of = np.full(EXAMPLES, -1)
        for number, batch in enumerate(epoch):
            batch_of[batch % EXAMPLES] = number
        together.append(np.triu((batch_of[:, None] == batch_of) & (batch_of >= 0), k=1))
    return np.array([int((now & then).sum()) for now, then in itertools.pairwise(together)])


def _in_place(epochs: Sequence[Epoch]) -> np.ndarray:
    """Examples whose place is their number."""
    orders = [np.concatenate(epoch) for epoch in epochs]
    return np.array([int((order == np.arange(len(order))).sum()) for order in orders])


def _moved_forward(epochs: Sequence[Epoch]) -> np.ndarray:
    """Examples that come earlier than their number, by up to a quarter of all."""
    orders = [np.concatenate(epoch) for epoch in epochs]
    moves = [order - np.arange(len(order)) for order in orders]
    return np.array([int(((by > 0) & (by <= EXAMPLES / 4)).sum()) for by in moves])


EPOCH_STATISTICS: dict[str, Callable[[Sequence[Epoch]], np.ndarray]] = {
    "examples moved forward by up to a quarter": _moved_forward,
    "place by number, correlation": _rank_correlation,
    "neighbours, mean distance": _neighbours_apart,
    "pairs in one batch that meet again": _meeting_again,
    "examples at their own place": _in_place,
}


def _even_numbers(epochs: Sequence[Epoch]) -> np.ndarray:
    """How many each batch has."""
    return np.array([int((batch % 2 == 0).sum()) for batch in _distinct_batches(epochs)])


def _distinct_batches(epochs: Sequence[Epoch]) -> list[np.ndarray]:
    """One that comes again counts once."""
    return list({tuple(batch.tolist()): batch for epoch in epochs for batch in epoch}.values())


def compare_noise(
    candidate: TrainableSide, reference: TrainableSide, config: ViTConfig, weights: Weights, images: np.ndarray
) -> tuple[Diff, ...]:
    """The loss of one batch in several training steps that move no weight: dropout alone changes it, at each step."""
    weights, (batches, labels) = rounded(weights, "float64"), training_batches(images, config, 1)
    batches, labels = np.repeat(batches, NOISY_STEPS, axis=0), np.repeat(labels, NOISY_STEPS, axis=0)

    def counts(side: TrainableSide) -> dict[str, int]:
        losses, again, other = (side.noisy_losses(weights, batches, labels, seed, SETTLED) for seed in (0, 0, 1))
        logits = side.taps(weights, batches[0])["logits"]
        still, _ = side.loss(logits, labels[0], np.ones(len(labels[0])), SETTLED)
        undrawn = np.abs(losses / still - 1) <= tolerances.FLOAT64
        return {
            "steps without a draw": int(undrawn.sum()),
            "steps with a draw had before": NOISY_STEPS - len(np.unique(losses)),
            "steps that differ when run again": int((losses != again).sum()),
            "steps that another seed changes": int((losses != other).sum()),
        }

    ours, theirs = counts(candidate), counts(reference)
    return tuple(counted(name, ours[name], theirs[name]) for name in theirs)


def compare_averages(
    candidate: TrainableSide, reference: TrainableSide, config: ViTConfig, weights: Weights, images: np.ndarray
) -> tuple[Diff, ...]:
    """What would be evaluated after each of some training steps: every leaf of the running average."""
    weights, (batches, labels) = rounded(weights, "float64"), training_batches(images, config, AVERAGED_STEPS)
    ours, theirs = (side.averages(weights, batches, labels, AVERAGING) for side in (candidate, reference))
    diffs = []
    for step in range(AVERAGED_STEPS):
        name, average, expected = f"average after step {step + 1}", ours[step], theirs[step]
        if set(average) != set(expected):
            leaf = min(set(average) ^ set(expected))
            diffs.append(Diff(name, "free", np.inf, None, 0.0, f"{leaf!r} is in one of the two only"))
            continue
        leaves = [differ(name, "free", average[leaf], value) for leaf, value in expected.items()]
        diffs.append(max(leaves, key=lambda diff: diff.severity))
    return tuple(diffs)


def compare_evaluation(
    candidate: TrainableSide, reference: TrainableSide, config: ViTConfig, weights: Weights, images: np.ndarray
) -> tuple[Diff, ...]:
    """Accuracy on a set that is no multiple of the batch size: of labels that are right, of some that are not, and of
    other weights, whose classes stand in another order.

    The images are the closest calls among many, with a head whose classes are on average equal, so that little need be
    wrong with an evaluation to change one: with any images, other statistics of pixels changed none on one small model.
    """
    plan = evaluation_plan(config)
    pixels = _pixels(images)
    scaled = (pixels / 255 - np.array(plan.means)) / np.array(plan.stds)
    logits = reference.taps(rounded(weights, "float32"), scaled.astype(np.float32))["logits"]
    lead_needed = tolerances.CLEAR_LEAD * np.abs(logits).max()
    mean = logits.mean(axis=0)
    weights = {**weights, "head/bias": weights["head/bias"] - mean}
    ranked, values = (logits - mean).argsort(axis=-1), np.sort(logits - mean, axis=-1)
    lead = values[:, -1] - values[:, -2] if config.num_classes > 1 else np.full(CLASSIFIED, np.inf)
    clear = lead > lead_needed
    closest = np.sort(np.argsort(np.where(clear, lead, np.inf))[:EVALUATED])
    pixels, ranked, clear = pixels[closest], ranked[closest], clear[closest]
    right = np.where(clear, ranked[:, -1], ranked[:, 0])  # a near tie may go either way: its label is neither
    last = np.arange(EVALUATED) >= EVALUATED - EVALUATED % EVALUATION_BATCH
    limit = tolerances.ROUNDING_FACTOR * tolerances.summation_error(EVALUATED)
    wrong_at_last = np.where(last, ranked[:, 0], right)
    diffs = []
    rolled = {f"head/{kind}": np.roll(weights[f"head/{kind}"], 1, axis=-1) for kind in ("kernel", "bias")}
    for name, held, labels in (
        ("every label right", weights, right),
        ("the last batch's labels wrong", weights, wrong_at_last),
        ("of other weights", weights | rolled, (right + 1) % config.num_classes),
    ):
        ours, theirs = (side.evaluate(held, pixels, labels, plan) for side in (candidate, reference))
        error = abs(ours - theirs) / (theirs or 1.0)  # a reference with a fault in it may have none right
        diffs.append(Diff(f"accuracy, {name}", "free", error, None, limit))
    return tuple(diffs)


def evaluation_plan(config: ViTConfig) -> Recipe:
    article = recipe("article")
    channels = config.channels
    return article.replace(
        batch_size=EVALUATION_BATCH, means=article.means[:channels], stds=article.stds[:channels], ema_decay=None
    )


def _pixels(images: np.ndarray) -> np.ndarray:
    """The photographs in grey levels, again and again under other noise."""
    noise = np.random.default_rng(0).normal(0, 0.5, (CLASSIFIED, *images.shape[1:]))
    some = images[np.arange(CLASSIFIED) % len(images)] + noise
    return np.round(np.clip(some * 0.5 + 0.5, 0, 1) * 255).astype(np.uint8)
