"""What modules share that score the responses of a comparison: the reward model and the policy of DPO."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_ixc.backbone import BackboneSource
from lit_ixc.batch import ComparisonBatch
from lit_ixc.metrics import PreferenceMetric, preference_table
from lit_ixc.module import BackboneModule
from lit_ixc.records import UserError
from lit_ixc.step_log import completes_logged_step


class PreferenceModule(BackboneModule):
    """A module whose ``forward`` gives scores (C, K). It counts and logs their pair accuracy in every stage.

    Args:
        backbone: Where the weights come from.
        kwargs: As in ``BackboneModule``.
    """

    def __init__(self, backbone: BackboneSource, **kwargs: Any) -> None:
        super().__init__(backbone, **kwargs)
        self.metric = PreferenceMetric()
        self.train_metric = PreferenceMetric()

    def count(self, metric: PreferenceMetric, scores: Tensor, batch: ComparisonBatch) -> None:
        """Add the scores (C, K) of a batch."""
        metric.update(scores, batch.ranks, batch.lengths, batch.sources, batch.domains, batch.modalities)

    def setup(self, stage: str) -> None:
        """Refuse data without preferences.

        Raises:
            UserError: The data module loads single answers.
        """
        ending = getattr(self.trainer.datamodule, "ending", "reward")  # type: ignore[attr-defined]
        if ending != "reward":
            raise UserError(f"data.ending = {ending}: rows of one answer have no preference; set it to reward")

    def validation_step(self, batch: ComparisonBatch, batch_idx: int) -> Tensor:
        scores = self(batch)
        self.count(self.metric, scores, batch)
        return scores

    def on_train_batch_end(self, outputs: Any, batch: ComparisonBatch, batch_idx: int) -> None:
        if completes_logged_step(self.trainer, batch_idx, self.trainer.global_step):
            self._log(self.train_metric, "train")

    def on_train_epoch_end(self) -> None:
        self.train_metric.reset()

    def on_validation_epoch_end(self) -> None:
        self._log(self.metric, "val")

    def test_step(self, batch: ComparisonBatch, batch_idx: int) -> Tensor:
        return self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        with self.metric.sync_context():  # of all processes
            tables = self.metric.tables()
        self._log(self.metric, "test")
        if self.trainer.is_global_zero:
            print(preference_table(tables))

    def predict_step(self, batch: ComparisonBatch, batch_idx: int) -> Tensor:
        return self(batch)

    def _log(self, metric: PreferenceMetric, stage: str) -> None:
        # NaN where there was no pair, only ties: checkpoints that follow the accuracy need the key.
        values = metric.compute() or {"accuracy/all": torch.tensor(torch.nan)}
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, rank_zero_only=True)
        metric.reset()
