"""The sets of a data root, each opened once, the rows of them that a stage uses, and their mixture."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datamodules.choice import RowChoice
from datamodules.comparisons import SetView
from datamodules.conversion import Options
from datamodules.corpus import open_sets, short_names
from datamodules.mixing import share_out
from datamodules.sampling import MixtureBatches
from datamodules.shards import OnDamage, ShardSet
from lit_ixc.records import UserError

log = logging.getLogger(__name__)


class DataRoot:
    """A data root; for its arguments see :func:`datamodules.corpus.open_sets` and the options of a conversion."""

    def __init__(
        self,
        data_root: str | Path,
        cache_dir: str | Path | None,
        max_pixels: int,
        verify: bool,
        on_damage: OnDamage,
        remote_cache_gb: float | None,
    ) -> None:
        self.data_root, self.options = data_root, Options(max_pixels=max_pixels)
        self.cache_dir = Path(cache_dir) if cache_dir else None
        self.verify, self.on_damage, self.remote_cache_gb = verify, on_damage, remote_cache_gb
        self._opened: dict[tuple[str, ...] | None, dict[str, ShardSet]] = {}

    def sets(self, patterns: Sequence[str] | None) -> dict[str, ShardSet]:
        """The sets that the patterns choose, by name, opened at the first call."""
        key = None if patterns is None else tuple(patterns)
        if key not in self._opened:
            self._opened[key] = open_sets(
                self.data_root,
                patterns,
                self.cache_dir,
                self.options,
                self.verify,
                self.on_damage,
                self.remote_cache_gb,
            )
        return self._opened[key]

    def views(self, patterns: Sequence[str] | None, choice: RowChoice, rows_per_image: int = 1) -> list[SetView]:
        """Views of the sets that have rows of the choice.

        Raises:
            UserError: No set has.
        """
        return list(self._views(patterns, choice, rows_per_image).values())

    def mixture(
        self, weights: Mapping[str, float] | None, choice: RowChoice, rows_per_image: int
    ) -> tuple[list[SetView], list[float]]:
        """The sets of a mixture, and their weights, whose sum is the default number of samples.

        Args:
            weights: Weight of each set, by name or pattern; None: of all sets, the number of samples that a list gave
                each, or else its size.
            choice: Which rows of them.
            rows_per_image: See :class:`~datamodules.comparisons.SetView`.
        """
        patterns = None if weights is None else list(weights)
        views = self._views(patterns, choice, rows_per_image)
        if weights is None:
            return list(views.values()), [float(v.shards.manifest["samples"] or len(v)) for v in views.values()]
        sizes = {name: len(view) for name, view in views.items()}
        shares, total = share_out(weights, self.sets(patterns), sizes), sum(sizes.values())
        return list(views.values()), [shares[name] * total for name in sizes]

    def _views(self, patterns: Sequence[str] | None, choice: RowChoice, rows_per_image: int) -> dict[str, SetView]:
        """Views by the full names of their sets."""
        opened = self.sets(patterns)
        names, known = short_names(list(opened)), set[tuple[str, ...]]()
        views = {name: SetView(names[name], shards, choice, rows_per_image, known) for name, shards in opened.items()}
        side = " held out" if choice.held_out else ""
        for view in views.values():
            for reason, count in sorted(view.left_out.items()):
                log.info("%s: %d %s%s left out: %s", view.name, count, choice.wanted, side, reason)
        empty = [view.name for view in views.values() if not len(view)]
        if len(empty) == len(views):
            remedy = "raise validation_fraction, or set it to 0" if choice.held_out else "choose other sets"
            raise UserError(f"{self.data_root}: no {choice.wanted}{side} in {', '.join(opened)}; {remedy}")
        if empty:
            log.info("no %s%s: %s left out", choice.wanted, side, ", ".join(empty))
        return {name: view for name, view in views.items() if len(view)}


def mixture_batches(
    views: Sequence[SetView],
    shares: Mapping[str, float],
    samples: int,
    batch_size: int,
    seed: int,
    rank: tuple[int, int],
    bucket: int,
    shuffle_shards: int,
) -> MixtureBatches:
    """Batches of a mixture of views, whose ``shares`` are by name; ``rank`` is (rank, world size)."""
    return MixtureBatches(
        list(shares),
        [len(view) for view in views],
        list(shares.values()),
        samples,
        batch_size,
        seed,
        *rank,
        np.concatenate([view.costs for view in views]),
        bucket,
        np.concatenate([view.item_shards for view in views]) if shuffle_shards else None,
        shuffle_shards,
    )
