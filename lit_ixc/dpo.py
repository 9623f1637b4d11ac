"""Direct preference optimisation of the policy, on the comparisons of the reward model."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from lit_ixc.backbone import BackboneSource, hidden_states, refusal
from lit_ixc.batch import ComparisonBatch
from lit_ixc.dpo_losses import DPO, DPOLoss, chosen_nll, pair_means
from lit_ixc.logprobs import response_logprobs
from lit_ixc.losses import comparison_nll, pair_masks
from lit_ixc.metrics import GroupMean
from lit_ixc.module import TrainOutput
from lit_ixc.preference import PreferenceModule
from lit_ixc.records import UserError
from lit_ixc.reference import TABLE_FILE, Reference, ReferenceTable, evaluating, weights_digest
from lit_ixc.step_log import log_training

log = logging.getLogger(__name__)


@runtime_checkable
class EveryTrainingRow(Protocol):
    """What ``reference: precomputed`` needs of a data module."""

    def every_training_row(self) -> Iterable[ComparisonBatch]:
        """Each training row of this process once, cut to length as in training."""


class Scored(NamedTuple):
    """What the losses read of a batch.

    Args:
        policy: (C, K) log-probability of each response.
        reference: (C, K) the same under the reference; None without one.
        tokens: (C, K) tokens of each response.
    """

    policy: Tensor
    reference: Tensor | None
    tokens: Tensor


class DPOModule(PreferenceModule):
    """Trains a policy on comparisons, by a loss of its responses' log-probabilities (DPO, arXiv 2305.18290).

    Prompt and images of a comparison are computed once for all its responses. The policy's implicit rewards are counted
    as a reward model's scores are: pair accuracy and margin by source, domain and modality.

    Args:
        backbone: Where policy and reference come from: the SFT model's export.
        loss: Loss by class path; DPO if None.
        sft_weight: Weight of the better answers' negative log-likelihood per token, added to the loss (RPO, arXiv
            2404.19733, has 1).
        reference: ``copy`` keeps a second model; ``adapters_off`` runs the policy without its adapters; ``auto`` takes
            the latter where only adapters train, else the former; ``precomputed`` runs over all training and validation
            rows before the first step and keeps one number for each response.
        kwargs: As in ``BackboneModule``.
    """

    needs_lm_head = True

    def __init__(
        self,
        backbone: BackboneSource,
        loss: DPOLoss | None = None,
        sft_weight: float = 0.0,
        reference: Literal["auto", "copy", "adapters_off", "precomputed"] = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        if sft_weight < 0:
            raise UserError(f"sft_weight = {sft_weight}: choose 0 or a positive weight")
        self.loss, self.sft_weight = loss or DPO(), sft_weight
        self.precomputed = reference == "precomputed" and self.loss.needs_reference
        self.reference = Reference(backbone, "auto" if reference == "precomputed" else reference, self.lora is not None)
        self.reference_table: ReferenceTable | None = None
        self.summary = GroupMean()

    def forward(self, batch: ComparisonBatch) -> Tensor:
        """Implicit rewards (C, K), 0 where a comparison has no k-th response."""
        return self.loss.rewards(*self.scored(batch))

    def scored(self, batch: ComparisonBatch) -> Scored:
        """Log-probabilities of the responses under policy and reference."""
        features = self.image_features(batch) if refusal(self.model) is None else None
        head = self.model.get_output_embeddings()
        policy = response_logprobs(self.hidden_states(batch, features), head, batch)
        reference = self.reference_logprobs(batch, features) if self.loss.needs_reference else None
        return Scored(policy.sums, reference, policy.tokens)

    @torch.no_grad()
    def reference_logprobs(self, batch: ComparisonBatch, features: Tensor | None = None) -> Tensor:
        """(C, K) log-probability of each response under the reference.

        Args:
            batch: On its device.
            features: What the policy's vision encoder made of the images; of use where it is frozen.
        """
        if self.reference_table is not None:
            return self.reference_table.find(batch).to(batch.ranks.device)
        shared = features if self.freeze_vision and self.freeze_projector else None
        with self.reference.model(self.model) as model:
            hidden = hidden_states(model, batch, shared, self.attention)
            return response_logprobs(hidden, model.get_output_embeddings(), batch).sums

    def objective(self, scored: Scored, ranks: Tensor) -> Tensor:
        """The scalar loss."""
        loss = self.loss(*scored, ranks)
        if self.sft_weight:
            loss = loss + self.sft_weight * chosen_nll(scored.policy, scored.tokens, ranks)
        return loss

    def training_step(self, batch: ComparisonBatch, batch_idx: int) -> TrainOutput:
        scored = self.scored(batch)
        loss = self.objective(scored, batch.ranks)
        rewards = self.loss.rewards(*scored).detach()
        log_training(self, batch_idx, loss=loss, **statistics(scored, rewards, batch.ranks))
        self.count(self.train_metric, rewards, batch)
        return TrainOutput(loss=loss, losses=comparison_nll(rewards, batch.ranks))

    def validation_step(self, batch: ComparisonBatch, batch_idx: int) -> Tensor:
        scored = self.scored(batch)
        rewards = self.loss.rewards(*scored)
        self.count(self.metric, rewards, batch)
        shown = {"loss": self.objective(scored, batch.ranks), **statistics(scored, rewards, batch.ranks)}
        pairs = pair_masks(batch.ranks)[0].any(dim=(1, 2)).sum()  # comparisons that the means are of
        self.summary.update(torch.stack(list(shown.values())), list(shown), pairs.expand(len(shown)))
        return rewards

    def on_validation_epoch_end(self) -> None:
        self._log_summary("val")
        super().on_validation_epoch_end()

    def on_test_epoch_end(self) -> None:
        self._log_summary("test")
        super().on_test_epoch_end()

    def _log_summary(self, stage: str) -> None:
        values = {f"{stage}/{name}": value for name, value in self.summary.compute().items() if name != "all"}
        self.log_dict(values, rank_zero_only=True)
        self.summary.reset()

    def on_fit_start(self) -> None:
        """Have the reference log-probabilities of all rows, where they are to be computed beforehand."""
        if self.precomputed:
            self.reference_table = self._find_table() or self._make_table()

    def on_fit_end(self) -> None:
        self.reference_table = None  # it knows no other rows than those of training

    @property
    def _table_path(self) -> Path:
        return Path(self.trainer.default_root_dir) / TABLE_FILE

    def _settings(self) -> dict[str, str]:
        """What decides the reference log-probabilities beside the tokens: names and values."""
        plain = {name: value for name, value in vars(self.backbone_source).items() if is_plain(value)}
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return {
            "backbone": f"{type(self.backbone_source).__qualname__} {json.dumps(plain, sort_keys=True)}",
            "precision": str(self.trainer.precision),
            "data_root": str(getattr(data, "data_root", "")),
            "media": str(getattr(getattr(data, "processor", None), "media_settings", "")),
        }

    def _find_table(self) -> ReferenceTable | None:
        """The table of an earlier run of the same policy on the same data; a run that goes on needs one."""
        path, settings, resumes = self._table_path, self._settings(), self.trainer.ckpt_path is not None
        if not resumes:  # later the policy is no more what it was
            settings["weights"] = weights_digest(self.model)
        table = ReferenceTable.load(path) if self.trainer.is_global_zero and path.is_file() else None
        table = self.trainer.strategy.broadcast(table)
        if table is None and resumes:
            raise UserError(
                f"reference = precomputed: {path} is missing, and the policy has been trained since; use copy"
            )
        changed = [name for name, value in settings.items() if table is not None and table.settings.get(name) != value]
        if changed and resumes:
            raise UserError(
                f"reference = precomputed: {path} was computed with another {', '.join(changed)}; resume with the "
                "settings of its run, or use copy"
            )
        if changed:
            log.info("%s is made anew: it was computed with another %s", path, ", ".join(changed))
            return None
        return table

    def _make_table(self) -> ReferenceTable:
        """Run the policy, which is the reference still, over every row of training and validation."""
        table = ReferenceTable(self._settings() | {"weights": weights_digest(self.model)})
        with torch.no_grad(), evaluating(self.model), self.trainer.precision_plugin.forward_context():
            for batch in self._in_step(chain.from_iterable(self._every_row())):
                moved = self.trainer.strategy.batch_to_device(batch)
                hidden = self.hidden_states(moved)
                table.add(moved, response_logprobs(hidden, self.model.get_output_embeddings(), moved).sums)
        if self.trainer.world_size > 1:
            parts: list[dict[bytes, float]] = [{}] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, table.sums)
            table.sums = {digest: value for part in parts for digest, value in part.items()}
        if self.trainer.is_global_zero:
            table.save(self._table_path)
        log.info("%s: reference log-probabilities of %d responses", self._table_path, len(table.sums))
        return table

    def _every_row(self) -> Iterator[Iterable[ComparisonBatch]]:
        """Loaders that give all rows of training, and all of validation."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, EveryTrainingRow):
            raise UserError(
                f"reference = precomputed: {type(data).__name__} has no every_training_row, which it needs; use copy"
            )
        yield data.every_training_row()
        if self.trainer.enable_validation:
            loaders = cast(Any, data).val_dataloader()
            yield from loaders if isinstance(loaders, list) else [loaders]

    def _in_step(self, batches: Iterable[ComparisonBatch]) -> Iterator[ComparisonBatch]:
        """As many batches in every process, since sharded weights want all of them at once.

        A process that has no more goes through its last one again.
        """
        decide, last = self.trainer.strategy.reduce_boolean_decision, None
        source = iter(batches)
        while True:
            batch = next(source, None)
            if not decide(batch is not None, all=False):
                return
            if last is None and not decide(batch is not None, all=True):
                raise UserError("reference = precomputed: fewer batches than processes; lower devices or batch_size")
            last = batch or last
            yield cast(ComparisonBatch, last)


def statistics(scored: Scored, rewards: Tensor, ranks: Tensor) -> dict[str, Tensor]:
    """Means over pairs: log-probabilities and implicit rewards of both sides, and how far they are from the reference.

    ``log_ratio`` is the mean of ``log(pi / ref)`` over both responses, in nats for each. It is no divergence, since the
    policy has not sampled them; below 0, it gives the answers of this data less room than the reference does.
    """
    shown = dict(zip(("chosen_logprob", "rejected_logprob"), pair_means(scored.policy, ranks), strict=True))
    shown |= dict(zip(("chosen_reward", "rejected_reward"), pair_means(rewards, ranks), strict=True))
    if scored.reference is not None:
        shown["log_ratio"] = torch.stack(pair_means(scored.policy - scored.reference, ranks)).mean()
    return shown


def is_plain(value: Any) -> bool:
    """Whether a value is written the same each time."""
    return value is None or isinstance(value, (str, int, float, bool))
