"""Metrics as torchmetrics classes, right under several ranks.

Group names (a source, a domain, a modality) are only known from the data, and ranks may see different ones. They travel
as rows of bytes beside the values, so that every rank can name every group after synchronisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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
    packed = torch.zeros(len(names), NAME_BYTES, dtype=torch.uint8)
    for row, name in enumerate(names):
        data = name.encode()[:NAME_BYTES]
        packed[row, : len(data)] = torch.tensor(list(data), dtype=torch.uint8)
    return packed.to(device)


def unpack_names(packed: Tensor) -> list[str]:
    """Inverse of :func:`pack_names`."""
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in packed.cpu().tolist()]


class GroupMean(Metric):
    """Weighted mean of values in named groups and over all (key ``all``)."""

    full_state_update = False
    values: list[Tensor]
    weights: list[Tensor]
    names: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("values", "weights", "names"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, values: Tensor, names: Sequence[str], weights: Tensor | None = None) -> None:
        """Add N values (N,), each in the group of its name."""
        self.values.append(values.detach().float())
        self.weights.append(torch.ones_like(self.values[-1]) if weights is None else weights.detach().float())
        self.names.append(pack_names(names, values.device))

    def compute(self) -> dict[str, Tensor]:
        """Mean of each group; empty when nothing was added."""
        if not self.values or not len(dim_zero_cat(self.values)):
            return {}
        values, weights = dim_zero_cat(self.values), dim_zero_cat(self.weights)
        unique, index = dim_zero_cat(self.names).unique(dim=0, return_inverse=True)
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


class PreferenceMetric(Metric):
    """Pair accuracy, margins and length statistics, per source, domain and modality, and overall.

    K > 2 counts every strict pair of a comparison.
    """

    full_state_update = False
    margins: list[Tensor]
    gaps: list[Tensor]
    groups: list[Tensor]
    scores: list[Tensor]
    lengths: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("margins", "gaps", "groups", "scores", "lengths"):
            self.add_state(name, [], dist_reduce_fx="cat")

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
        better, _ = pair_masks(ranks)
        scores = scores.detach().float()
        rows = better.nonzero()[:, 0]
        self.margins.append((scores[:, :, None] - scores[:, None, :])[better])
        self.gaps.append((lengths[:, :, None] - lengths[:, None, :])[better])
        packed = torch.stack([pack_names(names, scores.device) for names in (sources, domains, modalities)], dim=1)
        self.groups.append(packed[rows])  # (pairs, 3, 64)
        exists = ranks >= 0
        self.scores.append(scores[exists])
        self.lengths.append(lengths[exists].float())

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
            margins = dim_zero_cat(self.margins)
            scores, lengths = dim_zero_cat(self.scores), dim_zero_cat(self.lengths)
            out["ece"] = expected_calibration_error(margins)
            if scores.std() > 0 and lengths.std() > 0:
                out["length_correlation"] = pearson_corrcoef(scores, lengths)
        return out

    def all_margins(self) -> Tensor:
        """(N,) margins of all pairs so far (of this rank, unless inside a synchronised context)."""
        return dim_zero_cat(self.margins) if self.margins else torch.zeros(0)

    def tables(self) -> dict[str, dict[str, PairTable]]:
        """``{"all": {"all": ...}, "source": {...}, "domain": {...}, "modality": {...}}``; empty without pairs."""
        if not self.margins or not len(dim_zero_cat(self.margins)):
            return {}
        margins, gaps, groups = dim_zero_cat(self.margins), dim_zero_cat(self.gaps), dim_zero_cat(self.groups)
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
