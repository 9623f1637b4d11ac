"""Loaders that count what they drop, and go on where a checkpoint left them."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader

from datamodules.comparisons import Loaded, RowDataset
from datamodules.encoding import Row
from datamodules.sampling import MixtureBatches, SequentialBatches
from lit_ixc.batch import ComparisonBatch, EncodedComparison
from lit_ixc.layout import collate
from lit_ixc.records import Comparison, UserError

log = logging.getLogger(__name__)

KEPT = frozenset({"kept", "truncated_answer", "truncated_prompt"})

Batch = TypeVar("Batch")
Events = dict[tuple[str, str], int]


class Collate:
    """Loaded items to a batch (None if all were dropped) and the sum of their events.

    Args:
        pad_token_id, pad_to_multiple_of, row_tokens: See :func:`lit_ixc.layout.collate`.
    """

    def __init__(self, pad_token_id: int, pad_to_multiple_of: int = 1, row_tokens: int | None = None) -> None:
        self.pad_token_id, self.pad_to_multiple_of, self.row_tokens = pad_token_id, pad_to_multiple_of, row_tokens

    def __call__(self, items: Sequence[Loaded[EncodedComparison]]) -> tuple[ComparisonBatch | None, Events]:
        comparisons = [item.comparison for item in items if item.comparison is not None]
        batch = None
        if comparisons:
            batch = collate(comparisons, self.pad_token_id, "right", self.pad_to_multiple_of, self.row_tokens)
        return batch, sum_events(items)


def sum_events(items: Iterable[Loaded[Row]]) -> Events:
    """What befell the rows of all items."""
    events: Counter[tuple[str, str]] = Counter()
    for item in items:
        events.update(item.events)
    return dict(events)  # pinning memory calls update() on mappings, which doubles a Counter


class RowLoader(Generic[Row, Batch]):
    """Batches of a dataset. Counts, for each set, what became of the rows it loaded.

    It is no ``DataLoader`` itself, so that the Trainer leaves its batches alone: they are shared out over the processes
    already, whatever ``use_distributed_sampler`` says.

    Its state counts the batches that it has handed out, however many its workers have fetched ahead: after a restart
    the same batches follow as if nothing had happened.

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
        dataset: RowDataset[Row],
        sampler: MixtureBatches | SequentialBatches,
        collate_fn: Callable[[Sequence[Loaded[Row]]], tuple[Batch | None, Events]],
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.stage, self.dataset, self.sampler, self._collate = stage, dataset, sampler, collate_fn
        self.batch_sampler = None  # the Trainer looks for one where it finds a sampler
        self.counts: Counter[tuple[str, str]] = Counter()
        self._rest = _Rest(sampler)
        self._epoch, self._handed_out = 0, 0
        self._restored: dict[str, Any] | None = None
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=self._rest,
            collate_fn=collate_fn,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),  # or it would draw from the numbers that dropout uses
        )

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        restored, self._restored = self._restored, None
        self._epoch, self._handed_out, self.counts = self.sampler.epoch, 0, Counter()
        if restored is not None and restored["epoch"] == self._epoch:
            self._handed_out = restored["batches"]
            self.counts.update({(name, outcome): count for name, outcome, count in restored["counts"]})
        self._rest.start = self._handed_out
        try:
            for batch, events in self._loader:
                self.counts.update(events)
                self._handed_out += 1
                if batch is not None:
                    yield batch
        finally:
            log.info("%s: %s", self.stage, self.report())

    @property
    def epoch(self) -> int:
        """The running or the last epoch."""
        return self._epoch

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands; the Trainer keeps it in its checkpoints."""
        counts = [[name, outcome, count] for (name, outcome), count in self.counts.items()]
        position = {"epoch": self._epoch, "batches": self._handed_out, "length": len(self), "counts": counts}
        return position | {"plan": self.sampler.plan, "rounds": [[first, list(c)] for first, c in self.sampler.rounds]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`: with the next batch of its epoch, or with the next epoch if that was over.

        Raises:
            UserError: The state is from the middle of an epoch of other data, batches or processes, whose rest this
                loader cannot give.
        """
        own, different = self.sampler.plan, self.differences(state)
        if different and 0 < state["batches"] < state.get("length", len(self)):  # its own epoch's length
            now = ", ".join(f"{name} {state['plan'].get(name)} -> {own.get(name)}"[:120] for name in different)
            raise UserError(
                f"the checkpoint is from the middle of epoch {state['epoch']} (batch {state['batches']}) of other data "
                f"or settings ({now}): resume with the old ones, or from a checkpoint at the end of an epoch"
            )
        if not different:
            self.sampler.rounds = _rounds(state)
        self._restored = state
        self._epoch, self._handed_out = state["epoch"], state["batches"]

    def differences(self, state: dict[str, Any]) -> list[str]:
        """What the order of batches follows from, and is not as it was where the state comes from."""
        different = [name for name, value in self.sampler.plan.items() if state["plan"].get(name) != value]
        return different or ["sets"] * (_rounds(state)[:1] != self.sampler.rounds[:1])

    def samples(self, number: int) -> list[tuple[Comparison, Batch]]:
        """Items that hold one row each, as record and batch of one, for a look at the data: the sets take turns."""
        turns: Counter[str] = Counter()
        queue: list[tuple[int, int]] = []
        for item in itertools.chain.from_iterable(self.sampler):
            name = self.dataset.locate(item)[0].name
            queue.append((turns[name], item))
            turns[name] += 1
        found: list[tuple[Comparison, Batch]] = []
        for _, item in sorted(queue, key=lambda entry: entry[0]):
            view, rows = self.dataset.locate(item)
            batch, _ = self._collate([self.dataset[item]])
            if len(rows) == 1 and batch is not None:
                found.append((view.shards.read_comparison(rows[0]), batch))
            if len(found) == number:
                break
        return found

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


class ComparisonLoader(RowLoader[EncodedComparison, ComparisonBatch]):
    """Batches of comparisons."""


def _rounds(state: dict[str, Any]) -> list[tuple[int, list[int]]]:
    return [(first, list(counts)) for first, counts in state["rounds"]]


class _Rest:
    """The batches of a sampler from number ``start`` on."""

    def __init__(self, sampler: MixtureBatches | SequentialBatches) -> None:
        self.sampler, self.start = sampler, 0

    def __len__(self) -> int:
        return len(self.sampler) - self.start

    def __iter__(self) -> Iterator[list[int]]:
        return itertools.islice(iter(self.sampler), self.start, None)
