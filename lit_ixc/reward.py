"""The multimodal Bradley-Terry reward model of IXC-2.5-Reward (arXiv 2501.12368)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_ixc.backbone import BackboneSource
from lit_ixc.batch import ComparisonBatch
from lit_ixc.head_files import save_head
from lit_ixc.heads import LastToken, LinearHead, RewardHead
from lit_ixc.losses import BradleyTerry, PreferenceLoss, comparison_nll
from lit_ixc.module import TrainOutput
from lit_ixc.preference import PreferenceModule
from lit_ixc.step_log import log_training


def default_head(hidden_size: int) -> RewardHead:
    """A linear head on the last token: the evident reading of the released weights."""
    return LinearHead(hidden_size, LastToken())


class RewardModule(PreferenceModule):
    """``r(x, y) = head(hidden states of (x, y))``, trained on comparisons of one prompt's K responses.

    Args:
        backbone: Where the weights come from: the SFT model's export, the released files, or a miniature.
        head: Reward head by class path; ``hidden_size`` is filled in.
        loss: Preference loss by class path; Bradley-Terry if None.
        kwargs: As in ``BackboneModule``.
    """

    def __init__(
        self,
        backbone: BackboneSource,
        head: Callable[[int], RewardHead] = default_head,
        loss: PreferenceLoss | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.head_factory = head
        self.loss = loss or BradleyTerry()

    def build(self) -> None:
        super().build()
        self.head = self.head_factory(self.model.get_input_embeddings().weight.shape[1])

    def forward(self, batch: ComparisonBatch) -> Tensor:
        """Scores (C, K) in fp32, 0 where a comparison has no k-th response."""
        return self.head(self.hidden_states(batch), batch)

    def training_step(self, batch: ComparisonBatch, batch_idx: int) -> TrainOutput:
        scores = self(batch)
        loss = self.loss(scores, batch.ranks, batch.scores)
        log_training(self, batch_idx, loss=loss)
        self.count(self.train_metric, scores, batch)
        return TrainOutput(loss=loss, losses=comparison_nll(scores.detach(), batch.ranks))

    def export(self, folder: Path) -> None:
        """The backbone, and the head beside it: ``reward_head.safetensors``, and which one it is as JSON."""
        super().export(folder)
        save_head(self.head, folder)
