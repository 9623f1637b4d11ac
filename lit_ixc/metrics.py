"""Metrics as torchmetrics classes, right under several ranks.

Group names (a source, a domain, a modality) are only known from the data, and ranks may see different ones. They travel
as rows of bytes beside the values, so that every rank can name every group after synchronisation.

``update`` makes the host wait for no device: what it is given is kept as it is, and sorted when someone asks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional import pearson_corrcoef
from torchmetrics.functional.classification import binary_calibration_error
from torchmetrics.utilities import dim_zero_cat

from lit_ixc.losses import pair_masks

NAME_BYTES = 64
ECE_BINS = 15


def pack_names(names: Sequence[str], device: torch.device) -> Tensor:
    """Strings as (N, 64) uint8, zero-padded; longer names are cut to 64 bytes."""
    packed = np.array([name.encode() for name in names], f"S{NAME_BYTES}")
    return torch.from_numpy(packed.view(np.uint8).reshape(len(names), NAME_BYTES)).to(device)


def unpack_names(packed: Tensor) -> list[str]:
    """Inverse of :func:`pack_names`."""
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in packed.cpu().tolist()]


def joined(state: list[Tensor] | Tensor) -> Tensor:
    """All values of a state: a list, but one tensor where ranks have shared it; (0,) when nothing was added."""
    return dim_zero_cat(state) if len(state) else torch.zeros(0)


Kept = TypeVar("Kept")


class DeferredMetric(Metric, ABC, Generic[Kept]):
    """A metric whose states hold as many values as the data say, e.g. one for each preference pair.

    To count them is to wait for the device. ``update`` only calls :meth:`keep`; the states are made of what was kept
    when the metric is computed or shared between processes.
    """

    full_state_update = False

    def __init__(self, *states: str) -> None:
        super().__init__()
        for name in states:
            self.add_state(name, [], dist_reduce_fx="cat")
        self._kept: list[Kept] = []

    def keep(self, values: Kept) -> None:
        """Remember what one ``update`` was given."""
        self._kept.append(values)

    def settle(self) -> None:
        """Turn what was kept into states."""
        kept, self._kept = self._kept, []
        for values in kept:
            self.store(values)

    @abstractmethod
    def store(self, values: Kept) -> None:
        """Append what one ``update`` was given to the states."""

    @abstractmethod
    def nothing(self) -> Kept:
        """What an ``update`` without a value would be given."""

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """See torchmetrics; ``compute`` begins with it."""
        self.keep(self.nothing())  # a process without values must share states of the same form as the others
        self.settle()
        super().sync(*args, **kwargs)

    def reset(self) -> None:
        self._kept = []
        super().reset()


class KeptValues(NamedTuple):
    """What ``GroupMean.update`` was given."""

    values: Tensor
    names: tuple[str, ...]
    weights: Tensor | None


class GroupMean(DeferredMetric[KeptValues]):
    """Weighted mean of values in named groups and over all (key ``all``)."""

    values: list[Tensor]
    weights: list[Tensor]
    names: list[Tensor]

    def __init__(self) -> None:
        super().__init__("values", "weights", "names")

    def update(self, values: Tensor, names: Sequence[str], weights: Tensor | None = None) -> None:
        """Add N values (N,), each in the group of its name; one of weight 0 does not count."""
        self.keep(KeptValues(values.detach(), tuple(names), None if weights is None else weights.detach()))

    def store(self, values: KeptValues) -> None:
        self.values.append(values.values.float())
        weights = values.weights
        self.weights.append(torch.ones_like(self.values[-1]) if weights is None else weights.float())
        self.names.append(pack_names(values.names, values.values.device))

    def nothing(self) -> KeptValues:
        return KeptValues(torch.zeros(0, device=self.device), (), None)

    def compute(self) -> dict[str, Tensor]:
        """Mean of each group that has a weight; empty when nothing was added."""
        values, weights, names = joined(self.values), joined(self.weights), joined(self.names)
        counts = weights > 0
        values, weights, names = values[counts], weights[counts], names[counts]
        if not len(values):
            return {}
        unique, index = names.unique(dim=0, return_inverse=True)
        total = torch.zeros(len(unique), device=values.device)
        mass = total.index_add(0, index, weights)
        means = total.index_add(0, index, weights * values) / mass
        overall = (weights * values).sum() / weights.sum()
        return {"all": overall, **dict(zip(unpack_names(unique), means, strict=True))}


class PairTable(NamedTuple):
    """Results over the pairs of one group.

    Args:
        pairs: Number of strict preference pairs.
        accuracy: Share with the better response scored strictly higher (a tie of scores is wrong).
        margin: Mean of score(better) - score(worse).
        longer: Accuracy of "the longer answer wins" on the same pairs (equal lengths are wrong).
    """

    pairs: int
    accuracy: float
    margin: float
    longer: float


class KeptScores(NamedTuple):
    """What ``PreferenceMetric.update`` was given."""

    scores: Tensor
    ranks: Tensor
    lengths: Tensor
    groups: tuple[Sequence[str], Sequence[str], Sequence[str]]


class PreferenceMetric(DeferredMetric[KeptScores]):
    """Pair accuracy, margins and length statistics, per source, domain and modality, and overall.

    K > 2 counts every strict pair of a comparison.
    """

    margins: list[Tensor]
    gaps: list[Tensor]
    groups: list[Tensor]
    scores: list[Tensor]
    lengths: list[Tensor]

    def __init__(self) -> None:
        super().__init__("margins", "gaps", "groups", "scores", "lengths")

    def update(
        self,
        scores: Tensor,
        ranks: Tensor,
        lengths: Tensor,
        sources: Sequence[str],
        domains: Sequence[str],
        modalities: Sequence[str],
    ) -> None:
        """Add C comparisons: scores, ranks and lengths (C, K), and their groups."""
        self.keep(KeptScores(scores.detach(), ranks, lengths, (sources, domains, modalities)))

    def store(self, values: KeptScores) -> None:
        scores, ranks, lengths = values.scores.float(), values.ranks, values.lengths
        better, _ = pair_masks(ranks)
        rows = better.nonzero()[:, 0]
        self.margins.append((scores[:, :, None] - scores[:, None, :])[better])
        self.gaps.append((lengths[:, :, None] - lengths[:, None, :])[better])
        packed = torch.stack([pack_names(names, scores.device) for names in values.groups], dim=1)
        self.groups.append(packed[rows])  # (pairs, 3, 64)
        exists = ranks >= 0
        self.scores.append(scores[exists])
        self.lengths.append(lengths[exists].float())

    def nothing(self) -> KeptScores:
        missing = torch.full((1, 2), -1, device=self.device)  # a comparison of two responses that do not exist
        return KeptScores(missing, missing, missing, (("",), ("",), ("",)))

    def compute(self) -> dict[str, Tensor]:
        """Scalars ``accuracy/all``, ``accuracy/domain/math``, ...; likewise margin, longer; length_correlation; ece."""
        out: dict[str, Tensor] = {}
        for kind, table in self.tables().items():
            for name, row in table.items():
                label = f"{kind}/{name}" if kind != "all" else "all"
                out[f"accuracy/{label}"] = torch.tensor(row.accuracy)
                out[f"margin/{label}"] = torch.tensor(row.margin)
                out[f"longer/{label}"] = torch.tensor(row.longer)
        if out:
            scores, lengths = joined(self.scores), joined(self.lengths)
            out["ece"] = expected_calibration_error(joined(self.margins))
            if scores.std() > 0 and lengths.std() > 0:
                out["length_correlation"] = pearson_corrcoef(scores, lengths)
        return out

    def all_margins(self) -> Tensor:
        """(N,) margins of all pairs so far (of this rank, unless inside a synchronised context)."""
        self.settle()
        return joined(self.margins)

    def tables(self) -> dict[str, dict[str, PairTable]]:
        """``{"all": {"all": ...}, "source": {...}, "domain": {...}, "modality": {...}}``; empty without pairs."""
        self.settle()
        margins, gaps, groups = joined(self.margins), joined(self.gaps), joined(self.groups)
        if not len(margins):
            return {}
        tables = {"all": {"all": _pair_table(margins, gaps)}}
        for column, kind in enumerate(("source", "domain", "modality")):
            unique, index = groups[:, column].unique(dim=0, return_inverse=True)
            tables[kind] = {
                name: _pair_table(margins[index == number], gaps[index == number])
                for number, name in enumerate(unpack_names(unique))
            }
        return tables


def preference_table(tables: dict[str, dict[str, PairTable]]) -> str:
    """The result table of a test run: one line per source, then per domain, modality and over all.

    Columns: name, pairs, accuracy, accuracy of "the longer answer wins", mean margin.
    """
    lines = [f"{'':28}{'pairs':>8}{'accuracy':>10}{'longer':>8}{'margin':>9}"]
    for kind in ("source", "domain", "modality", "all"):
        for name, row in sorted(tables.get(kind, {}).items()):
            label = name if kind in ("source", "all") else f"{kind} {name}"
            lines.append(f"{label:28}{row.pairs:8d}{row.accuracy:10.3f}{row.longer:8.3f}{row.margin:9.3f}")
    return "\n".join(lines)


def expected_calibration_error(margins: Tensor) -> Tensor:
    """ECE of the predicted winner: confidence ``sigmoid(|margin|)``, right when the margin is positive; 15 bins."""
    return binary_calibration_error(margins.abs().sigmoid(), (margins > 0).int(), n_bins=ECE_BINS, norm="l1")


def _pair_table(margins: Tensor, gaps: Tensor) -> PairTable:
    return PairTable(
        pairs=len(margins),
        accuracy=(margins > 0).float().mean().item(),
        margin=margins.mean().item(),
        longer=(gaps > 0).float().mean().item(),
    )
