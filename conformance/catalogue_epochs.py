"""Faults of the order of examples: around `epoch_rows(seed, epoch, examples, batch_size)`."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from conformance.faults import Around, Fault

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


def one_cycle(method: Callable[..., Rows], seed: int, epoch: int, examples: int, size: int) -> Rows:
    rng, order = np.random.default_rng([seed, epoch]), np.arange(examples)
    for last in range(examples - 1, 0, -1):
        other = int(rng.integers(last))
        order[last], order[other] = order[other], order[last]
    return batches(order, size)


def swapped_with_any(method: Callable[..., Rows], seed: int, epoch: int, examples: int, size: int) -> Rows:
    rng, order = np.random.default_rng([seed, epoch]), np.arange(examples)
    for one in range(examples):
        other = int(rng.integers(examples))
        order[one], order[other] = order[other], order[one]
    return batches(order, size)


def batches_made_once(method: Callable[..., Rows], seed: int, epoch: int, examples: int, size: int) -> Rows:
    made = list(method(seed, 0, examples, size))
    return [made[number] for number in np.random.default_rng([seed, epoch]).permutation(len(made))]


def of_two_shards(method: Callable[..., Rows], seed: int, epoch: int, examples: int, size: int) -> Rows:
    """Every second example is one reader's; each shuffles its own, and gives half of each batch."""
    rng = np.random.default_rng([seed, epoch])
    halves = [batches(rng.permutation(np.arange(first, examples, 2)), size // 2) for first in (0, 1)]
    return [np.concatenate(pair) for pair in zip(*halves, strict=False)]


of_epochs = partial(Fault, rung="epochs")

EPOCHS = (
    of_epochs(name="the last batch kept", place="incomplete batches", seen="drop_last=False", around=rows(last_kept)),
    of_epochs(
        name="examples drawn with replacement",
        place="examples more than once in an epoch",
        seen="random.choices for a permutation",
        around=rows(with_replacement),
    ),
    of_epochs(
        name="the same examples always left out",
        place="examples never seen",
        seen="cut to whole batches before shuffling",
        around=rows(same_left_out),
    ),
    of_epochs(
        name="one order for all epochs",
        place="epochs in an order had before",
        seen="DistributedSampler without set_epoch",
        around=rows(lambda m, seed, epoch, n, size: m(seed, 0, n, size)),
    ),
    of_epochs(
        name="one order for all seeds",
        place="epochs that another seed changes",
        seen="a generator of a fixed seed",
        around=rows(lambda m, seed, epoch, n, size: m(0, epoch, n, size)),
    ),
    of_epochs(
        name="orders by seed plus epoch",
        place="orders had under another seed",
        seen="default_rng(seed + epoch), as in torch's DistributedSampler",
        around=rows(lambda m, seed, epoch, n, size: m(0, seed + epoch, n, size)),
    ),
    of_epochs(
        name="shuffled within a buffer",
        place="examples moved forward by up to a quarter",
        seen="tf.data's shuffle(32)",
        around=rows(within_a_buffer),
    ),
    of_epochs(
        name="batches shuffled, not examples",
        place="neighbours, mean distance",
        seen="batch before shuffle",
        around=rows(whole_batches_shuffled),
    ),
    of_epochs(
        name="no example stays in its place",
        place="examples at their own place",
        seen="Sattolo's cycle for Fisher and Yates's shuffle: j below i, not up to it",
        around=rows(one_cycle),
    ),
    of_epochs(
        name="batches made once",
        place="examples never seen",
        seen="batch, cache and then shuffle, in tf.data",
        around=rows(batches_made_once),
    ),
    of_epochs(
        name="swapped with any place",
        place="examples moved forward by up to a quarter",
        seen="the naive shuffle: j of all places, not of those that are left",
        around=rows(swapped_with_any),
    ),
    of_epochs(
        name="two shards, each shuffled by itself",
        place="even numbers in a batch",
        seen="files that are dealt out to readers once, as by tf.data's shard",
        around=rows(of_two_shards),
    ),
)
