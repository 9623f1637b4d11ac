"""Rows of shard sets as a map-style dataset of encoded comparisons."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset, get_worker_info

from datamodules.encoding import Encoded, TooLong, chosen_answer, encode, merge
from datamodules.sampling import split_fraction
from datamodules.shard_index import IndexRow
from datamodules.shards import DamagedRow, ShardSet
from lit_ixc.batch import ConversationProcessor, EncodedComparison, EncodedMedia, Ending
from lit_ixc.records import Modality, UserError

log = logging.getLogger(__name__)

# For bucketing only: pixels that cost about as much as a character of text (IXC-2.5: 560 x 560 pixels are 400 tokens).
_PIXELS_PER_CHARACTER = 200
_MOST_REPLACEMENTS = 1000


class RowChoice(NamedTuple):
    """Which rows of a set a stage uses.

    Args:
        ending: ``reward`` takes rows of K >= 2 responses, ``sft`` rows of one.
        sft_from_pairs: ``sft`` also takes rows of K >= 2, for their best response.
        modality: Only rows of this modality; None: all.
        validation_fraction: Share of the rows that are held out.
        by_media: Hold out by media, so that no image is on both sides; rows without media go by source and id.
        held_out: True: the held-out rows. False: the others. None: all.
    """

    ending: Ending
    sft_from_pairs: bool = False
    modality: Modality | None = None
    validation_fraction: float = 0.0
    by_media: bool = False
    held_out: bool | None = None

    def place(self, row: IndexRow) -> float:
        """Where a row lies in [0, 1): below ``validation_fraction`` it is held out."""
        digests = [digest for _, _, digest, _ in row.media] if self.by_media else []
        return split_fraction("\0".join(digests or [row.source, row.id]))

    def takes(self, row: IndexRow, place: float) -> bool:
        """Whether the stage uses the row."""
        pair = row.responses > 1
        kind = pair if self.ending == "reward" else not pair or self.sft_from_pairs
        side = self.held_out is None or self.held_out == (place < self.validation_fraction)
        return kind and side and self.modality in (None, row.modality)


class SetView:
    """The rows of a set that a stage uses, as items: one row each, or several SFT rows about the same media.

    Attributes:
        costs: Estimated length of each item, for bucketing.
        places: Hash place of the first row of each item, see :meth:`RowChoice.place`.
        item_shards: Number of the shard that holds the first row of each item.

    Args:
        name: Name under which metrics count it.
        shards: The set.
        choice: Which rows of it.
        rows_per_image: Most rows in an item. More than one puts rows together whose media are the same and lead the
            conversation, in the order in which they stand.
    """

    def __init__(self, name: str, shards: ShardSet, choice: RowChoice, rows_per_image: int = 1) -> None:
        self.name, self.shards = name, shards
        items: list[list[int]] = []
        open_items: dict[tuple[str, ...], list[int]] = {}
        costs, places, item_shards = [], [], []
        for number in range(len(shards)):
            shard, row = shards.row(number)
            place = choice.place(row)
            if not choice.takes(row, place):
                continue
            media = tuple(digest for _, _, digest, _ in row.media) if row.leading and rows_per_image > 1 else ()
            item = open_items.get(media, [])
            if 0 < len(item) < rows_per_image:
                item.append(number)
                continue
            items.append([number])
            costs.append(row.characters + row.pixels // _PIXELS_PER_CHARACTER)
            places.append(place)
            item_shards.append(shard)
            if media:
                open_items[media] = items[-1]
        self.rows = np.array([number for item in items for number in item], np.int64)
        self.starts = np.cumsum([0, *map(len, items)])
        self.costs = np.array(costs, np.int64)
        self.places = np.array(places, np.float64)
        self.item_shards = np.array(item_shards, np.int64)

    def __len__(self) -> int:
        return len(self.costs)

    def item(self, number: int) -> list[int]:
        """Numbers of the rows of an item."""
        rows: list[int] = self.rows[self.starts[number] : self.starts[number + 1]].tolist()
        return rows


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
        replace_dropped: Put the next item of the set in the place of one that was dropped, so that training batches
            keep their size; evaluation leaves the place empty.
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
        self._media: dict[tuple[tuple[str, str], ...], EncodedMedia] = {}

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def locate(self, item: int) -> tuple[SetView, list[int]]:
        """The set of an item, and the numbers of its rows there."""
        number, place = self._place(item)
        return self.views[number], self.views[number].item(place)

    def __getitem__(self, item: int) -> Loaded:
        number, first = self._place(item)
        view = self.views[number]
        events: Counter[tuple[str, str]] = Counter()
        for step in range(min(len(view), _MOST_REPLACEMENTS) if self.replace_dropped else 1):
            rows = [self._encode(number, row) for row in view.item((first + step) % len(view))]
            events.update((view.name, row.event or "kept") for row in rows)
            kept = [row.comparison for row in rows if row.comparison is not None]
            if kept:
                return Loaded(merge(kept), events)
        if self.replace_dropped:
            reasons = ", ".join(f"{reason}: {count}" for (_, reason), count in events.items())
            longer = "raise max_length, choose too_long: truncate, or " if "too_long" in reasons else ""
            raise UserError(
                f"set {view.name}: {events.total()} rows were dropped one after another ({reasons}) and none is left "
                f"for the batch; {longer}leave the set out"
            )
        return Loaded(None, events)

    def _place(self, item: int) -> tuple[int, int]:
        """Number of an item's set, and of the item in it."""
        number = int(np.searchsorted(self.offsets, item, side="right")) - 1
        return number, item - int(self.offsets[number])

    def _encode(self, number: int, row: int) -> Encoded:
        """Encode a row of a set, or find it in the cache."""
        cached = self._rows.get((number, row))
        if cached is not None:
            return _to_send(cached)
        view = self.views[number]
        try:
            comparison = view.shards.read_comparison(row)
        except DamagedRow as error:
            if view.shards.on_damage == "error":
                raise
            return Encoded(None, error.reason, str(error))
        if self.ending == "sft":
            comparison = chosen_answer(comparison)
        media = view.shards.row(row)[1].media if self._room > 0 else ()
        key = tuple((digest, suffix) for _, _, digest, suffix in media)
        encoded = encode(
            comparison,
            self.processor,
            self.ending,
            self.max_length,
            self.too_long,
            self.min_answer_share,
            view.name,
            self._media.get(key),
        )
        if self._room > 0 and encoded.comparison is not None and not encoded.comparison.media.awaited:
            if key and key not in self._media:
                self._media[key] = encoded.comparison.media
                self._room -= encoded.comparison.media.nbytes
            self._rows[number, row] = encoded
            # A token is an entry in three lists, and an int object of its own.
            self._room -= sum(56 * len(sequence.ids) for sequence in encoded.comparison.sequences) + 1000
            return _to_send(encoded)
        return encoded


def _to_send(kept: Encoded) -> Encoded:
    """What a worker may send of what it keeps: a tensor that is sent and kept would hold a file open in the worker."""
    if kept.comparison is None or get_worker_info() is None:
        return kept
    return kept._replace(comparison=kept.comparison._replace(media=kept.comparison.media.copy()))
