"""Callbacks: exporting a trained model, and what TensorBoard shows of a reward model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import lightning as L
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lit_ixc.batch import ComparisonBatch
from lit_ixc.module import BackboneModule
from lit_ixc.pages import board, page, shortened
from lit_ixc.records import Comparison
from lit_ixc.reward import RewardModule

log = logging.getLogger(__name__)

_READ_EVERY = 100  # batches whose losses stay on the device until they are read together
# Tags are regular expressions of TensorBoard's custom scalar plugin.
LAYOUT = {
    "reward model": {
        "loss": ["Multiline", ["train/loss"]],
        "accuracy": ["Multiline", ["train/accuracy/all", "val/accuracy/all", "val/longer/all"]],
        "accuracy by modality": ["Multiline", ["val/accuracy/modality/.*"]],
        "accuracy by domain": ["Multiline", ["val/accuracy/domain/.*"]],
        "accuracy by source": ["Multiline", ["val/accuracy/source/.*"]],
        "margin": ["Multiline", ["train/margin/all", "val/margin/all"]],
        "length and calibration": ["Multiline", ["val/length_correlation", "val/ece"]],
    }
}


class ProcessorOwner(Protocol):
    """What the callbacks need of a data module."""

    def save_processor(self, folder: Path) -> None:
        """Write the processor beside a model."""

    def validation_samples(self, number: int) -> Sequence[tuple[Comparison, ComparisonBatch]]:
        """The first comparisons of the validation split, each with its batch of one."""


class MixtureOwner(Protocol):
    """What ``ReportSetLosses`` needs of a data module."""

    def update_mixture(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Take the sets' mean losses of an epoch; returns their shares of the next one."""


class Export(L.Callback):
    """Writes model and processor at the end of training, in the form that ``Pretrained`` reads.

    Args:
        folder: Where to write.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        module = cast(BackboneModule, pl_module)
        with module.whole():  # all processes enter: gathering weights waits for all
            if not trainer.is_global_zero:
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            module.export(self.folder)
            cast(ProcessorOwner, trainer.datamodule).save_processor(self.folder)  # type: ignore[attr-defined]
        log.info("exported model and processor to %s", self.folder)


class ReportSetLosses(L.Callback):
    """Tells the data module each set's mean training loss at the end of an epoch, for a mixture that follows it.

    Logs the losses as ``mix/loss/<set>`` and the shares that follow as ``mix/share/<set>``. Its sums are part of a
    checkpoint: those of rank 0, so that a restart in the middle of an epoch is exact with one process.
    """

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, int]] = {}
        self._unread: list[tuple[Sequence[str], Tensor]] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: ComparisonBatch, batch_idx: int
    ) -> None:
        self._unread.append((batch.sources, outputs["losses"]))
        if len(self._unread) == _READ_EVERY:
            self._read()

    def _read(self) -> None:
        """Add up the losses of the batches since the last time; reading them waits for the device."""
        names = [name for sources, _ in self._unread for name in sources]
        losses = torch.cat([losses for _, losses in self._unread]).tolist() if self._unread else []
        self._unread = []
        for name, loss in zip(names, losses, strict=True):
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + loss, count + 1)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._read()
        sums = [self.sums]
        if trainer.world_size > 1:
            sums = [{}] * trainer.world_size
            torch.distributed.all_gather_object(sums, self.sums)
        names = sorted({name for part in sums for name in part})
        totals = {
            name: [sum(values) for values in zip(*(part.get(name, (0, 0)) for part in sums), strict=True)]
            for name in names
        }
        losses = {name: total / count for name, (total, count) in totals.items()}
        shares = cast(MixtureOwner, trainer.datamodule).update_mixture(losses)  # type: ignore[attr-defined]
        self.sums = {}
        pl_module.log_dict({f"mix/loss/{name}": value for name, value in losses.items()}, rank_zero_only=True)
        pl_module.log_dict({f"mix/share/{name}": value for name, value in shares.items()}, rank_zero_only=True)

    def state_dict(self) -> dict[str, Any]:
        self._read()
        return {"sums": {name: list(values) for name, values in self.sums.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._unread = []
        self.sums = {name: (total, count) for name, (total, count) in state_dict["sums"].items()}


class RewardDashboard(L.Callback):
    """TensorBoard of a reward model: one chart per question, a histogram of margins, and a page of scored samples.

    Args:
        samples: Number of validation comparisons on the page.
    """

    def __init__(self, samples: int = 8) -> None:
        self.samples = samples

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if (writer := board(trainer)) is not None:
            writer.add_custom_scalars(LAYOUT)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        writer, module = board(trainer), cast(RewardModule, pl_module)
        if writer is None or trainer.sanity_checking:
            return
        margins = module.metric.all_margins()
        margins = margins[margins.isfinite()]  # none, where half precision has overflown
        if len(margins):
            writer.add_histogram("val/margins", margins, trainer.global_step)
        owner = cast(ProcessorOwner, trainer.datamodule)  # type: ignore[attr-defined]
        # On this process alone: sharded weights are whole during validation (lit_ixc.sharding.WholeForEvaluation).
        rows = [
            (record, module(batch.to(module.device))[0]) for record, batch in owner.validation_samples(self.samples)
        ]
        if rows:
            writer.add_figure("val/samples", sample_page(rows), trainer.global_step)


def sample_page(rows: Sequence[tuple[Comparison, Tensor]]) -> Figure:
    """Prompts with their image and the K answers with their scores, the preferred answer marked.

    Args:
        rows: Records with their scores (K,).
    """
    pages = []
    for record, scores in rows:
        lines, best = [], int(scores[: len(record.ranks)].argmax())
        for k, (rank, score) in enumerate(zip(record.ranks, scores.tolist(), strict=False)):
            mark = ("chosen  " if rank == 0 else "rejected") + (" <" if k == best else "  ")
            lines.append(f"{score:+7.2f}  {mark}  {shortened(record.response_text(k))}")
        pages.append((record, lines))
    return page(pages)
