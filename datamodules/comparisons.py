"""Rows of shard sets as a map-style dataset of encoded comparisons, and the loader that counts what it drops."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from datamodules.encoding import Encoded, TooLong, chosen_answer, encode, merge
from datamodules.sampling import MixtureBatches, SequentialBatches, split_fraction
from datamodules.shards import ShardSet
from lit_ixc.batch import ComparisonBatch, ConversationProcessor, EncodedComparison, EncodedMedia, Ending, collate
from lit_ixc.records import Modality, UserError

log = logging.getLogger(__name__)

# For bucketing only: pixels that cost about as much as a character of text (IXC-2.5: 560 x 560 pixels are 400 tokens).
_PIXELS_PER_CHARACTER = 200
_MOST_REPLACEMENTS = 1000


class SetView:
    """The rows of a set that a stage uses, as items: one row each, or several SFT rows about the same media.

    Args:
        name: Name under which metrics count it.
        shards: The set.
        rows: Numbers of the rows in it.
        rows_per_image: Most rows in an item. More than one puts rows together whose media are the same and lead the
            conversation, in the order in which they stand.
    """

    def __init__(self, name: str, shards: ShardSet, rows: Sequence[int], rows_per_image: int = 1) -> None:
        self.name, self.shards = name, shards
        groups: list[list[int]] = []
        open_groups: dict[tuple[str, ...], list[int]] = {}
        costs = []
        for number in rows:
            _, row = shards.row(number)
            cost = row.characters + row.pixels // _PIXELS_PER_CHARACTER
            key = tuple(digest for _, _, digest, _ in row.media)
            group = open_groups.get(key) if rows_per_image > 1 and row.leading else None
            if group is not None and len(group) < rows_per_image:
                group.append(number)
                continue
            group = [number]
            groups.append(group)
            costs.append(cost)
            if row.leading:
                open_groups[key] = group
        self.rows = np.array([number for group in groups for number in group], np.int64)
        self.starts = np.cumsum([0, *map(len, groups)])
        self.costs = np.array(costs, np.int64)

    def __len__(self) -> int:
        return len(self.costs)

    def item(self, number: int) -> list[int]:
        """Numbers of the rows of an item."""
        return self.rows[self.starts[number] : self.starts[number + 1]].tolist()


class RowChoice(NamedTuple):
    """Which rows of a set a stage uses.

    Args:
        ending: ``reward`` takes rows of K >= 2 responses, ``sft`` rows of one.
        sft_from_pairs: ``sft`` also takes the best response of rows of K >= 2.
        modality: Only rows of this modality; None: all.
        validation_fraction: Share of the rows that are held out.
        by_media: Hold out by media, so that no image is on both sides; rows without media always go by id.
        held_out: True: the held-out rows. False: the others. None: all.
    """

    ending: Ending
    sft_from_pairs: bool = False
    modality: Modality | None = None
    validation_fraction: float = 0.0
    by_media: bool = False
    held_out: bool | None = None

    def rows(self, shards: ShardSet) -> tuple[list[int], list[float]]:
        """Numbers of the rows, and the place in [0, 1) that each one's hash gives it."""
        numbers, places = [], []
        for number in range(len(shards)):
            _, row = shards.row(number)
            pair = row.responses > 1
            if (pair != (self.ending == "reward") and not (pair and self.sft_from_pairs)) or (
                self.modality is not None and row.modality != self.modality
            ):
                continue
            by_media = self.by_media and row.media
            place = split_fraction(
                "\0".join([digest for _, _, digest, _ in row.media] if by_media else [row.source, row.id])
            )
            if self.held_out is None or self.held_out == (place < self.validation_fraction):
                numbers.append(number)
                places.append(place)
        return numbers, places


class Loaded(NamedTuple):
    """An item as it comes from the dataset: its comparison, if any was left, and what befell its rows."""

    comparison: EncodedComparison | None
    events: Counter[tuple[str, str]]


class ComparisonDataset(Dataset[Loaded]):
    """Items of several sets, encoded when asked for.

    Args:
        views: The sets; items are numbered through them.
        processor: Template, tokenizer and image path.
        ending: What closes each sequence; ``sft`` takes the best response of a comparison.
        max_length, too_long, min_answer_share: See :func:`datamodules.encoding.encode`.
        replace_dropped: Put the next item of the set in the place of one that was dropped, so that training batches keep
            their size; evaluation leaves the place empty.
        cache_mb: Keep encoded comparisons and media in memory, up to about this many MiB in each process that loads.
    """

    def __init__(
        self,
        views: Sequence[SetView],
        processor: ConversationProcessor,
        ending: Ending,
        max_length: int,
        too_long: TooLong = "drop",
        min_answer_share: float = 0.5,
        replace_dropped: bool = False,
        cache_mb: int = 0,
    ) -> None:
        self.views, self.processor, self.ending, self.max_length = views, processor, ending, max_length
        self.too_long, self.min_answer_share, self.replace_dropped = too_long, min_answer_share, replace_dropped
        self.offsets = np.cumsum([0, *map(len, views)])
        self._room = cache_mb * 2**20
        self._rows: dict[tuple[int, int], Encoded] = {}
        self._media: dict[tuple[str, ...], EncodedMedia] = {}

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def costs(self) -> NDArray[np.int64]:
        """Estimated length of each item, for bucketing."""
        return np.concatenate([view.costs for view in self.views])

    def __getitem__(self, item: int) -> Loaded:
        number = int(np.searchsorted(self.offsets, item, side="right")) - 1
        view, first = self.views[number], item - int(self.offsets[number])
        events: Counter[tuple[str, str]] = Counter()
        for step in range(min(len(view), _MOST_REPLACEMENTS) if self.replace_dropped else 1):
            rows = [self._encode(number, row) for row in view.item((first + step) % len(view))]
            events.update((view.name, row.event or "kept") for row in rows)
            kept = [row.comparison for row in rows if row.comparison is not None]
            if kept:
                return Loaded(merge(kept), events)
        if self.replace_dropped:
            reasons = ", ".join(f"{reason}: {count}" for (_, reason), count in events.items())
            raise UserError(
                f"set {view.name}: {events.total()} rows in a row were dropped ({reasons}); raise max_length or leave it out"
            )
        return Loaded(None, events)

    def _encode(self, number: int, row: int) -> Encoded:
        cached = self._rows.get((number, row))
        if cached is not None:
            return cached
        view = self.views[number]
        comparison = view.shards.read_comparison(row)
        if self.ending == "sft":
            comparison = chosen_answer(comparison)
        digests = tuple(digest for _, _, digest, _ in view.shards.row(row)[1].media) if self._room > 0 else ()
        media = self._media.get(digests) if digests else None
        encoded = encode(
            comparison,
            self.processor,
            self.ending,
            self.max_length,
            self.too_long,
            self.min_answer_share,
            view.name,
            media,
        )
        if self._room > 0 and encoded.comparison is not None:
            if digests and media is None:
                self._media[digests] = encoded.comparison.media
                self._room -= sum(t.numel() * t.element_size() for t in encoded.comparison.media.tensors.values())
            self._rows[number, row] = encoded
            # A token is an entry in three lists, and an int object of its own.
            self._room -= sum(56 * len(sequence.ids) for sequence in encoded.comparison.sequences) + 1000
        return encoded


class Collate:
    """Loaded items to a batch (None if all were dropped) and the sum of their events."""

    def __init__(self, pad_token_id: int, pad_to_multiple_of: int = 1) -> None:
        self.pad_token_id, self.pad_to_multiple_of = pad_token_id, pad_to_multiple_of

    def __call__(self, items: Sequence[Loaded]) -> tuple[ComparisonBatch | None, Counter[tuple[str, str]]]:
        comparisons = [item.comparison for item in items if item.comparison is not None]
        events: Counter[tuple[str, str]] = Counter()
        for item in items:
            events.update(item.events)
        if not comparisons:
            return None, events
        return collate(comparisons, self.pad_token_id, pad_to_multiple_of=self.pad_to_multiple_of), events


class ComparisonLoader:
    """Batches of a dataset. Counts, for each set, what became of the rows it loaded.

    It is no ``DataLoader`` itself, so that the Trainer leaves its batches alone: they are shared out over the processes
    already, whatever ``use_distributed_sampler`` says.

    Attributes:
        counts: (set, outcome) -> rows, of the running or the last epoch. Outcomes are ``kept``, ``truncated_answer``,
            ``truncated_prompt`` (these three reach a batch), and the reasons of dropped rows.

    Args:
        stage: Name in the log.
        dataset: What to load.
        sampler: Which items make which batch; a Trainer calls its ``set_epoch``.
        collate_fn: Items to batch.
        num_workers: Processes that load; 0 loads in this one.
        pin_memory: Copy batches to page-locked memory, for GPUs.
    """

    def __init__(
        self,
        stage: str,
        dataset: ComparisonDataset,
        sampler: MixtureBatches | SequentialBatches,
        collate_fn: Collate,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.stage, self.dataset, self.sampler = stage, dataset, sampler
        self.counts: Counter[tuple[str, str]] = Counter()
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=sampler,  # type: ignore[arg-type]
            collate_fn=collate_fn,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
        )

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[ComparisonBatch]:
        self.counts = Counter()
        try:
            for batch, events in self._loader:
                self.counts.update(events)
                if batch is not None:
                    yield batch
        finally:
            log.info("%s: %s", self.stage, self.report())

    @property
    def kept(self) -> int:
        """Rows that reached a batch."""
        return sum(count for (_, outcome), count in self.counts.items() if outcome in KEPT)

    @property
    def dropped(self) -> int:
        """Rows that did not."""
        return self.counts.total() - self.kept

    def report(self) -> str:
        """The counts in a line: rows = kept + dropped, with reasons by set."""
        others = sorted((name, outcome, count) for (name, outcome), count in self.counts.items() if outcome != "kept")
        reasons = "".join(f"; {name} {outcome} {count}" for name, outcome, count in others)
        policy = f"too long: {self.dataset.too_long} at {self.dataset.max_length} tokens"
        return f"{self.counts.total()} rows = {self.kept} kept + {self.dropped} dropped ({policy}){reasons}"


KEPT = frozenset({"kept", "truncated_answer", "truncated_prompt"})
