"""Rows of shard sets as a map-style dataset of what is encoded of them: comparisons, or prompts."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar, Generic, NamedTuple, cast

import numpy as np
from torch.utils.data import Dataset, get_worker_info

from datamodules.choice import RowChoice
from datamodules.encoding import Encoded, Row, SftAnswers, TooLong, encode, merge, supervised
from datamodules.shard_index import IndexRow
from datamodules.shards import DamagedRow, ShardSet
from lit_ixc.batch import ConversationProcessor, EncodedComparison, EncodedMedia, EncodedSequence, Ending
from lit_ixc.records import Comparison, UserError

# For bucketing only: pixels that cost about as much as a character of text (IXC-2.5: 560 x 560 pixels are 400 tokens).
_PIXELS_PER_CHARACTER = 200
_MOST_REPLACEMENTS = 1000


class SetView:
    """The rows of a set that a stage uses, as items: one row each, or several SFT rows about the same media.

    Attributes:
        costs: Estimated length of each item, for bucketing.
        places: Hash place of the first row of each item, see :meth:`RowChoice.place`.
        item_shards: Number of the shard that holds the first row of each item.
        left_out: Rows of the right kind, modality and side that are not used, by reason: ``no_truth``, ``repeated``.

    Args:
        name: Name under which metrics count it.
        shards: The set.
        choice: Which rows of it.
        rows_per_image: Most rows in an item. More than one puts rows together whose media are the same and lead the
            conversation, in the order in which they stand.
        known: Prompts that earlier sets had, where the choice is of unique ones; this set's are added.
    """

    def __init__(
        self,
        name: str,
        shards: ShardSet,
        choice: RowChoice,
        rows_per_image: int = 1,
        known: set[tuple[str, ...]] | None = None,
    ) -> None:
        self.name, self.shards = name, shards
        self.left_out: Counter[str] = Counter()
        items: list[list[int]] = []
        open_items: dict[tuple[str, ...], list[int]] = {}
        costs, places, item_shards = [], [], []
        for number, shard, row, place in self._chosen(choice, set() if known is None else known):
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

    def texts(self) -> Iterator[str]:
        """Every text of its rows: prompts and all responses."""
        for row in self.rows.tolist():
            comparison = self.shards.read_comparison(row)
            for message in itertools.chain(comparison.prompt.messages, *comparison.responses):
                yield message.text

    def _chosen(self, choice: RowChoice, known: set[tuple[str, ...]]) -> Iterator[tuple[int, int, IndexRow, float]]:
        """Number, shard, index row and place of each row that the stage uses; the others are counted."""
        for number in range(len(self.shards)):
            shard, row = self.shards.row(number)
            if choice.reads(row):
                row = _described(self.shards, number, row)
            if not choice.fits(row):
                continue
            place = choice.place(row)
            reason = "no_truth" if choice.with_truth and row.truth is False else None
            if reason is None and choice.unique and row.prompt is not None:
                key = (row.prompt, *(digest for _, _, digest, _ in row.media))
                reason = "repeated" if key in known else None
                known.add(key)
            if not choice.on_its_side(place):
                continue
            if reason is None:
                yield number, shard, row, place
            else:
                self.left_out[reason] += 1


def _described(shards: ShardSet, number: int, row: IndexRow) -> IndexRow:
    """The index row with all it can say, for indexes of earlier days; a row that cannot be read stays as it is."""
    if row.prompt is not None:
        return row
    try:
        return row.described(shards.read_comparison(number))
    except DamagedRow:
        if shards.on_damage == "error":
            raise
        return row


class Loaded(NamedTuple, Generic[Row]):
    """An item as it comes from a dataset: what was encoded, if any of it was left, and what befell its rows."""

    comparison: Row | None
    events: Counter[tuple[str, str]]


class RowDataset(Dataset[Loaded[Row]], ABC, Generic[Row]):
    """Items of several sets, encoded when asked for.

    Attributes:
        truncates: Whether a row that is too long can be cut.

    Args:
        views: The sets; items are numbered through them.
        processor: Template, tokenizer and image path.
        max_length: Largest number of tokens.
        too_long: What becomes of longer rows.
        replace_dropped: Put the next item of the set in the place of one that was dropped, so that training batches
            keep their size; evaluation leaves the place empty.
        cache_mb: Keep what was encoded, and media, in memory, up to about this many MiB in each process that loads.
    """

    truncates: ClassVar[bool] = True

    def __init__(
        self,
        views: Sequence[SetView],
        processor: ConversationProcessor,
        max_length: int,
        too_long: TooLong,
        replace_dropped: bool,
        cache_mb: int,
    ) -> None:
        self.views, self.processor, self.max_length, self.too_long = views, processor, max_length, too_long
        self.replace_dropped = replace_dropped
        self.offsets = np.cumsum([0, *map(len, views)])
        self._room = cache_mb * 2**20
        self._rows: dict[tuple[int, int], Encoded[Row]] = {}
        self._media: dict[tuple[tuple[str, str], ...], EncodedMedia] = {}

    @abstractmethod
    def encode(self, record: Comparison, source: str, media: EncodedMedia | None) -> Encoded[Row]:
        """Encode a record; ``source`` is the name of its set, ``media`` its encoded media where they are known."""

    @abstractmethod
    def join(self, rows: Sequence[Row]) -> Row:
        """The rows of an item as one."""

    @abstractmethod
    def nbytes(self, row: Row) -> int:
        """About the bytes that a row takes in memory, the tensors of its media aside."""

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def locate(self, item: int) -> tuple[SetView, list[int]]:
        """The set of an item, and the numbers of its rows there."""
        number, place = self._place(item)
        return self.views[number], self.views[number].item(place)

    def __getitem__(self, item: int) -> Loaded[Row]:
        number, first = self._place(item)
        view = self.views[number]
        events: Counter[tuple[str, str]] = Counter()
        for step in range(min(len(view), _MOST_REPLACEMENTS) if self.replace_dropped else 1):
            rows = [self._encoded(number, row) for row in view.item((first + step) % len(view))]
            events.update((view.name, row.event or "kept") for row in rows)
            kept = [row.comparison for row in rows if row.comparison is not None]
            if kept:
                return Loaded(self.join(kept), events)
        if self.replace_dropped:
            reasons = ", ".join(f"{reason}: {count}" for (_, reason), count in events.items())
            cut = "choose too_long: truncate, " if self.truncates else ""
            longer = f"raise max_length, {cut}or " if "too_long" in reasons else ""
            raise UserError(
                f"set {view.name}: {events.total()} rows were dropped one after another ({reasons}) and none is left "
                f"for the batch; {longer}leave the set out"
            )
        return Loaded(None, events)

    def _place(self, item: int) -> tuple[int, int]:
        """Number of an item's set, and of the item in it."""
        number = int(np.searchsorted(self.offsets, item, side="right")) - 1
        return number, item - int(self.offsets[number])

    def _encoded(self, number: int, row: int) -> Encoded[Row]:
        """Encode a row of a set, or find it in the cache."""
        cached = self._rows.get((number, row))
        if cached is not None:
            return _to_send(cached)
        view = self.views[number]
        try:
            record = view.shards.read_comparison(row)
        except DamagedRow as error:
            if view.shards.on_damage == "error":
                raise
            return Encoded(None, error.reason, str(error))
        media = view.shards.row(row)[1].media if self._room > 0 else ()
        key = tuple((digest, suffix) for _, _, digest, suffix in media)
        encoded = self.encode(record, view.name, self._media.get(key))
        if self._room > 0 and encoded.comparison is not None and not encoded.comparison.media.awaited:
            if key and key not in self._media:
                self._media[key] = encoded.comparison.media
                self._room -= encoded.comparison.media.nbytes
            self._rows[number, row] = encoded
            self._room -= self.nbytes(encoded.comparison)
            return _to_send(encoded)
        return encoded


class ComparisonDataset(RowDataset[EncodedComparison]):
    """Comparisons, or SFT rows, as token sequences.

    Args:
        views, processor, max_length, too_long, replace_dropped, cache_mb: As in RowDataset.
        ending: What closes each sequence.
        min_answer_share: See :func:`datamodules.encoding.encode`.
        sft_answers: With ``sft``, which responses of a comparison are imitated, see
            :func:`datamodules.encoding.supervised`.
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
        sft_answers: SftAnswers = "best",
    ) -> None:
        super().__init__(views, processor, max_length, too_long, replace_dropped, cache_mb)
        self.ending, self.min_answer_share, self.sft_answers = ending, min_answer_share, sft_answers

    def encode(self, record: Comparison, source: str, media: EncodedMedia | None) -> Encoded[EncodedComparison]:
        if self.ending == "sft":
            record = supervised(record, self.sft_answers)
        share = self.min_answer_share
        return encode(record, self.processor, self.ending, self.max_length, self.too_long, share, source, media)

    def join(self, rows: Sequence[EncodedComparison]) -> EncodedComparison:
        return merge(rows)

    def nbytes(self, row: EncodedComparison) -> int:
        return sum(map(sequence_bytes, row.sequences)) + 1000


def sequence_bytes(sequence: EncodedSequence) -> int:
    """About the bytes of a token sequence: a token is an entry in three lists, and an int object of its own."""
    return 56 * len(sequence.ids)


def _to_send(kept: Encoded[Row]) -> Encoded[Row]:
    """What a worker may send of what it keeps: a tensor that is sent and kept would hold a file open in the worker."""
    if kept.comparison is None or get_worker_info() is None:
        return kept
    own = kept.comparison._replace(media=kept.comparison.media.copy())
    return kept._replace(comparison=cast(Row, own))
