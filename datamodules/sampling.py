"""Which items make which batch: pure functions of (seed, epoch, rank, world size)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lit_ixc.records import UserError

Indices = NDArray[np.int64]


def apportion(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers that sum to ``total``, in proportion to the weights (largest remainders, earlier ones on ties).

    ``apportion([1, 1, 2], 10)``: 2.5, 2.5, 5 -> 3, 2, 5.
    """
    shares = [total * weight / math.fsum(weights) for weight in weights]
    counts = [math.floor(share) for share in shares]
    order = sorted(range(len(weights)), key=lambda i: (counts[i] - shares[i], i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts


def set_stream(size: int, name: str, seed: int, start: int, count: int) -> Indices:
    """Places ``start`` to ``start + count`` of a set's endless stream: shuffled passes over the whole set, one by one.

    No item comes again before all others of its set have come.
    """
    pieces = []
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())
    for number in range(start // size, -(-(start + count) // size)):
        order = np.random.default_rng([seed, key, number]).permutation(size)
        pieces.append(order[max(0, start - number * size) : start + count - number * size])
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def split_evenly(order: Indices, batch_size: int, world_size: int) -> list[Indices]:
    """The fewest global batches of at most ``batch_size * world_size`` items, equal in size to within one.

    Each has an item for every process if there are that many items at all: otherwise some process would run out of
    batches, and the others would wait for it. For ``batch_size`` 1 this may put two items into a process's batch.
    """
    return np.array_split(order, batch_count(len(order), batch_size, world_size))


def batch_count(items: int, batch_size: int, world_size: int) -> int:
    """Number of global batches of :func:`split_evenly`."""
    return max(1, min(math.ceil(items / (batch_size * world_size)), items // world_size))


class MixtureBatches:
    """Batches of a weighted mixture of sets, for one rank.

    An epoch draws ``samples`` items, shared out by weight. Each set goes through shuffled passes that carry on from
    epoch to epoch. All ranks have the same number of batches, and batch sizes differ by at most one: the last one is
    not a small rest. Nothing is drawn twice for padding and nothing is left over.

    Args:
        names: Name of each set; it seeds the set's order, so that adding a set does not change the order in the others.
        sizes: Number of items of each set. An item's number counts through the sets in this order.
        weights: Weight of each set.
        samples: Items of an epoch, over all ranks; with ``batch_size`` 1 rounded down to a multiple of ``world_size``
            (what is left opens the next epoch).
        batch_size: Largest number of items in a rank's batch.
        seed: Seed of the order.
        rank, world_size: This process, and how many there are.
        costs: Length of each item, for bucketing.
        bucket: Number of global batches in which items are sorted by length class before they are cut into batches;
            the batches are then shuffled. A class is a power of two: an exact sort would fill a batch with one kind of
            question, which trains badly. 0 is no bucketing.
    """

    def __init__(
        self,
        names: Sequence[str],
        sizes: Sequence[int],
        weights: Sequence[float],
        samples: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        costs: NDArray[np.int64] | None = None,
        bucket: int = 0,
    ) -> None:
        if samples < world_size:
            raise UserError(f"samples_per_epoch = {samples}: {world_size} processes need at least one sample each")
        if batch_size == 1:
            samples -= samples % world_size
        self.names, self.sizes, self.counts = names, sizes, apportion(weights, samples)
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.costs, self.bucket, self.epoch = costs, bucket, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws; the Trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return batch_count(sum(self.counts), self.batch_size, self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        offsets = np.cumsum([0, *self.sizes])
        streams = [
            offset + set_stream(size, name, self.seed, self.epoch * count, count)
            for name, size, count, offset in zip(self.names, self.sizes, self.counts, offsets, strict=False)
            if count
        ]
        order = rng.permutation(np.concatenate(streams))
        batches = split_evenly(order, self.batch_size, self.world_size)
        if self.bucket and self.costs is not None:
            batches = self._by_length(batches, self.costs, rng)
        for batch in batches:
            yield batch[self.rank :: self.world_size].tolist()

    def _by_length(self, batches: list[Indices], costs: NDArray[np.int64], rng: np.random.Generator) -> list[Indices]:
        sorted_batches = []
        for start in range(0, len(batches), self.bucket):
            window = batches[start : start + self.bucket]
            items = np.concatenate(window)
            items = items[np.argsort(np.log2(costs[items] + 1).astype(np.int64), kind="stable")]
            sorted_batches.extend(np.split(items, np.cumsum([len(batch) for batch in window])[:-1]))
        return [sorted_batches[i] for i in rng.permutation(len(sorted_batches))]


class SequentialBatches:
    """Every item exactly once over all ranks, in a fixed order, for evaluation.

    Ranks have the same number of batches, so that collective operations match; nothing is repeated to fill them, see
    :func:`split_evenly`. Only with fewer items than ranks are some ranks' batches empty, and those are left out.

    Args:
        order: Items in their order.
        batch_size, rank, world_size: As in MixtureBatches.
    """

    def __init__(self, order: Indices, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        cut = split_evenly(order, batch_size, world_size) if len(order) else []
        self.batches = [batch[rank::world_size].tolist() for batch in cut if len(batch) > rank]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def normalised_weights(weights: dict[str, float]) -> dict[str, float]:
    """The weights divided by their sum, zero ones left out.

    Raises:
        UserError: A weight is negative, infinite or not a number, or there is no positive one.
    """
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise UserError(f"sets.{name} = {weight}: a weight is a finite number of at least 0")
    total = math.fsum(weights.values())
    if not total:
        raise UserError(f"sets = {weights}: an empty mix; give at least one set a positive weight")
    return {name: weight / total for name, weight in weights.items() if weight}


def split_fraction(key: str) -> float:
    """A number in [0, 1) that depends on the text alone, not on order or platform."""
    return (int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) >> 11) / 2**53
