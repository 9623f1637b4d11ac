"""Supervised fine-tuning: the policy's and the reward model's start."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lit_ixc.backbone import BackboneSource, family_of
from lit_ixc.batch import ComparisonBatch
from lit_ixc.losses import sft_loss
from lit_ixc.metrics import GroupMean
from lit_ixc.module import BackboneModule, TrainOutput
from lit_ixc.records import UserError
from lit_ixc.step_log import log_training


class Targets(NamedTuple):
    """Predictions of the supervised tokens of a batch, N of them.

    Args:
        logprobs: (N,) log-probability of each target, fp32.
        correct: (N,) whether the target is the most probable token.
        weights: (N,) number of sequences the target belongs to.
        comparison: (N,) its comparison.
        segment: (N,) its segment; 0 where several sequences share it.
        response: (N,) whether it belongs to the last answer (earlier turns of a dialogue are supervised too).
    """

    logprobs: Tensor
    correct: Tensor
    weights: Tensor
    comparison: Tensor
    segment: Tensor
    response: Tensor

    def mean_nll(self, size: int, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean negative log-probability of each comparison's targets, for whoever watches.

        Args:
            size: C.
            weights: (N,) whole numbers; 1 without them.

        Returns:
            (C,) means, detached, 0 where a comparison has no target, and (C,) the weights' sums.
        """
        nll, zeros = -self.logprobs.detach(), self.logprobs.new_zeros(size)
        each = torch.ones_like(nll) if weights is None else weights.float()
        mass = zeros.index_add(0, self.comparison, each)
        return zeros.index_add(0, self.comparison, nll * each) / mass.clamp(min=1), mass


def predict_targets(hidden: Tensor, head: nn.Module, batch: ComparisonBatch) -> Targets:
    """Predict every supervised token from the hidden state of the token before it in its own sequence.

    Args:
        hidden: (B, T, H) hidden states of the batch.
        head: The language-model head.
        batch: What is predicted.
    """
    at = batch.target_rows  # (N,), flat
    row = at // hidden.shape[1]
    logits = head(hidden[row, batch.parent.flatten()[at]]).float()  # (N, V)
    ids, comparison, segment, response = (
        field.flatten()[at] for field in (batch.input_ids, batch.comparison, batch.segment, batch.response)
    )
    logprobs = logits.log_softmax(dim=-1).gather(1, ids[:, None]).squeeze(1)
    weights = torch.where(segment == 0, batch.exists.sum(dim=1)[comparison], 1)
    return Targets(logprobs, logits.argmax(-1) == ids, weights, comparison, segment, response)


class SFTModule(BackboneModule):
    """Next-token loss on assistant tokens, over one or more answers of each prompt.

    Metrics: loss per token, and exact match of short answers. A greedy decode reproduces an answer if and only if every
    token of it is the most probable one given the answer so far, so the match is read from the same forward pass.

    Args:
        backbone: Where the weights come from.
        short_answer_tokens: Answers of at most this many tokens (end of turn included) count for the exact match.
        image_words_weight: Weight of a second loss that starts a vision tower from random weights: the mean visual
            feature of an image must predict the words of the answers about it (bag of words, arXiv 1511.02251). The
            tower gets a direct gradient while the language model does not read it yet.
        kwargs: As in ``BackboneModule``.
    """

    needs_lm_head = True

    def __init__(
        self, backbone: BackboneSource, short_answer_tokens: int = 16, image_words_weight: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(backbone, **kwargs)
        if short_answer_tokens < 1:
            raise UserError(f"short_answer_tokens = {short_answer_tokens}: choose at least 1")
        if image_words_weight < 0:
            raise UserError(f"image_words_weight = {image_words_weight}: choose 0 or a positive weight")
        self.short_answer_tokens, self.image_words_weight = short_answer_tokens, image_words_weight
        self.token_loss = GroupMean()
        self.exact_match = GroupMean()

    def targets(self, batch: ComparisonBatch, features: Tensor | None = None) -> Targets:
        """Predict every supervised token of a batch."""
        return predict_targets(self.hidden_states(batch, features), self.model.get_output_embeddings(), batch)

    def training_step(self, batch: ComparisonBatch, batch_idx: int) -> TrainOutput:
        features = self.image_features(batch) if self.image_words_weight else None
        targets = self.targets(batch, features)
        loss = sft_loss(targets.logprobs, targets.weights)
        shown = {"loss": loss}
        if features is not None:
            shown["image_words"] = words = self.image_words_loss(features, batch)
            loss = loss + self.image_words_weight * words
        log_training(self, batch_idx, **shown)
        return TrainOutput(loss=loss, losses=targets.mean_nll(batch.size)[0])

    def image_words_loss(self, features: Tensor, batch: ComparisonBatch) -> Tensor:
        """Mean negative log-probability of the answers' words given the mean visual feature of their images."""
        norm = getattr(family_of(self.model).parts(self.model).decoder, "norm", None)
        if not isinstance(norm, nn.Module):
            name = type(self.model).__name__
            raise UserError(f"image_words_weight = {self.image_words_weight}: {name} has no final norm; set it to 0")
        embedding = self.model.get_input_embeddings().weight
        features = features[:, : embedding.shape[1]]  # what deeper layers get stands behind
        owner = batch.comparison.flatten()[batch.visual_rows]  # (N,) comparison of each visual token
        count = torch.zeros(batch.size, dtype=torch.float32, device=owner.device).index_add(
            0, owner, torch.ones_like(owner).float()
        )  # (C,)
        total = features.new_zeros(batch.size, features.shape[-1]).index_add(0, owner, features)
        mean = total / count.clamp(min=1)[:, None]  # (C, H)
        logprobs = self.model.get_output_embeddings()(norm(mean)).float().log_softmax(dim=-1)
        word, its = batch.input_ids.flatten()[batch.target_rows], batch.comparison.flatten()[batch.target_rows]
        about_image = (count > 0)[its]  # (M,)
        return -(logprobs[its, word] * about_image).sum() / about_image.sum()

    def validation_step(self, batch: ComparisonBatch, batch_idx: int) -> None:
        targets = self.targets(batch)
        nll, tokens = targets.mean_nll(batch.size, targets.weights)
        self.token_loss.update(nll, batch.sources, tokens)
        match, row = exact_match(targets, batch, self.short_answer_tokens)
        self.exact_match.update(match, [batch.sources[c] for c in row.tolist()])

    def on_validation_epoch_end(self) -> None:
        for name, metric in (("loss", self.token_loss), ("exact_match", self.exact_match)):
            self.log_dict(
                {f"val/{name}/{group}": value for group, value in metric.compute().items()}, rank_zero_only=True
            )
            metric.reset()

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end()

    def export(self, folder: Path) -> None:
        """The policy with its language-model head, ready for ``generate``."""
        super().export(folder)


def exact_match(targets: Targets, batch: ComparisonBatch, short_answer_tokens: int) -> tuple[Tensor, Tensor]:
    """Which short answers a greedy decode would reproduce.

    Returns:
        (M,) 1.0 or 0.0 for each answer of at most ``short_answer_tokens`` tokens, and (M,) its comparison.
    """
    width = batch.ranks.shape[1] + 1
    group = targets.comparison * width + targets.segment
    zeros = torch.zeros(batch.size * width, dtype=torch.long, device=group.device)
    count = zeros.index_add(0, group, targets.response.long()).view(-1, width)
    wrong = zeros.index_add(0, group, (targets.response & ~targets.correct).long()).view(-1, width)
    length, errors = count[:, :1] + count[:, 1:], wrong[:, :1] + wrong[:, 1:]  # (C, K): shared tokens and own ones
    comparison, response = (batch.exists & (length > 0) & (length <= short_answer_tokens)).nonzero(as_tuple=True)
    return (errors[comparison, response] == 0).float(), comparison
