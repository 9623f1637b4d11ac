"""Reward heads: how the hidden states of a comparison become one score for each response.

A head is a pooling (which hidden states are read) and a projection to a scalar (linear or a small MLP). Poolings read
the tokens of response k's own sequence: the shared prefix (segment 0) and continuation k.

Shapes: ``B`` rows, ``T`` tokens, ``H`` hidden size, ``C`` comparisons, ``K`` responses; group = (comparison, segment).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from lit_ixc.batch import ComparisonBatch
from lit_ixc.records import UserError


class Pooling(nn.Module, ABC):
    """Reduces the hidden states of each response's sequence to one vector."""

    def prepare(self, hidden_size: int) -> None:  # noqa: B027 - most poolings have no parameters
        """Create the parameters that depend on the hidden size."""

    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor that make an equal one, as JSON values: an export keeps them."""
        return {}

    @abstractmethod
    def forward(self, hidden: Tensor, batch: ComparisonBatch) -> Tensor:
        """(B, T, H) hidden states -> (C, K, H); rows of missing responses are unspecified but finite."""


class LastToken(Pooling):
    """The last token of each sequence, whatever it is (for IXC-2.5's reward template: the reward token)."""

    def forward(self, hidden: Tensor, batch: ComparisonBatch) -> Tensor:
        return hidden.flatten(0, 1)[_last_column(batch, torch.ones_like(batch.visual))]


class RewardToken(Pooling):
    """The reward token that ends every sequence (golden reading of the released reward model, see docs/model.md).

    Args:
        token_id: Id of the reward token: 92527, ``[UNUSED_TOKEN_130]``, in the release.

    Raises:
        UserError: When a sequence has no reward token, e.g. because a template without it was used. On a GPU the
            process ends with the same message as a device-side assertion: an exception would have to wait for it.
    """

    def __init__(self, token_id: int = 92527) -> None:
        super().__init__()
        self.token_id = token_id

    def arguments(self) -> dict[str, Any]:
        return {"token_id": self.token_id}

    def forward(self, hidden: Tensor, batch: ComparisonBatch) -> Tensor:
        columns = _last_column(batch, (batch.input_ids == self.token_id) & (batch.segment > 0))
        found = ((columns >= 0) | ~batch.exists).all()
        message = f"RewardToken: a sequence has no token {self.token_id}; use the reward template or LastToken"
        if found.device.type != "cpu" or torch.compiler.is_compiling():
            torch._assert_async(found, message)
        elif not found:
            raise UserError(message)
        return hidden.flatten(0, 1)[columns.clamp(min=0)]


class MeanAllTokens(Pooling):
    """The mean over all tokens of the sequence, visual ones included (the text of arXiv 2501.12368)."""

    def forward(self, hidden: Tensor, batch: ComparisonBatch) -> Tensor:
        return tree_softmax(hidden, torch.zeros_like(batch.segment, dtype=torch.float32), batch)


class ResponseMean(Pooling):
    """The mean over the tokens of the answer."""

    def forward(self, hidden: Tensor, batch: ComparisonBatch) -> Tensor:
        outside = torch.full_like(batch.segment, -torch.inf, dtype=torch.float32)
        return tree_softmax(hidden, outside.masked_fill(batch.response, 0.0), batch)


class AttentionPooling(Pooling):
    """A learned softmax over the tokens of the sequence, ``softmax_t(q . h_t / sqrt(H))``; starts as the mean."""

    def prepare(self, hidden_size: int) -> None:
        self.query = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, hidden: Tensor, batch: ComparisonBatch) -> Tensor:
        return tree_softmax(hidden, (hidden @ self.query).float() * hidden.shape[-1] ** -0.5, batch)


class RewardHead(nn.Module, ABC):
    """A pooling followed by a projection to one score."""

    def __init__(self, hidden_size: int, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling
        self.pooling.prepare(hidden_size)

    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor besides hidden size and pooling, as JSON values: an export keeps them."""
        return {}

    @abstractmethod
    def project(self, pooled: Tensor) -> Tensor:
        """(C, K, H) -> (C, K)."""

    def forward(self, hidden: Tensor, batch: ComparisonBatch) -> Tensor:
        """Scores (C, K) in fp32; entries of missing responses are 0."""
        scores = self.project(self.pooling(hidden, batch)).float()
        return scores.masked_fill(~batch.exists, 0.0)


class LinearHead(RewardHead):
    """``score = v . h`` without bias, ``v ~ N(0, 1/(H+1))`` (as in OpenRLHF); ``v_head`` of InternLM2-Reward.

    Args:
        hidden_size: H, filled in from the backbone.
        pooling: Which hidden states are read.
    """

    def __init__(self, hidden_size: int, pooling: Pooling) -> None:
        super().__init__(hidden_size, pooling)
        self.v_head = nn.Linear(hidden_size, 1, bias=False)
        nn.init.normal_(self.v_head.weight, std=(hidden_size + 1) ** -0.5)

    def project(self, pooled: Tensor) -> Tensor:
        return self.v_head(pooled).squeeze(-1)


class MLPHead(RewardHead):
    """Two layers with SiLU between them (the best head of BaseReward's ablation, arXiv 2509.16127).

    Args:
        hidden_size: H, filled in from the backbone.
        pooling: Which hidden states are read.
        width: Width of the inner layer; H if None.
    """

    def __init__(self, hidden_size: int, pooling: Pooling, width: int | None = None) -> None:
        super().__init__(hidden_size, pooling)
        self.inner = nn.Linear(hidden_size, width or hidden_size)
        self.outer = nn.Linear(width or hidden_size, 1, bias=False)

    def arguments(self) -> dict[str, Any]:
        return {"width": self.inner.out_features}

    def project(self, pooled: Tensor) -> Tensor:
        return self.outer(nn.functional.silu(self.inner(pooled))).squeeze(-1)


def tree_softmax(hidden: Tensor, logits: Tensor, batch: ComparisonBatch) -> Tensor:
    """Softmax-weighted mean of hidden states over the sequence of each response.

    The prefix is reduced once and joined with each continuation by the log-sum-exp rule: nothing of size K*P appears.

    Args:
        hidden: (B, T, H).
        logits: (B, T) fp32; ``-inf`` leaves a token out, all-zero gives the plain mean.

    Returns:
        (C, K, H) in the dtype of ``hidden``.
    """
    comparisons, responses = batch.ranks.shape
    group, groups = _groups(batch), comparisons * (responses + 1)
    weight = logits.flatten()  # (B*T,)
    top = weight.new_full((groups,), -torch.inf).scatter_reduce(0, group, weight.detach(), "amax")  # (G,)
    weight = (weight - top.clamp(min=torch.finfo(weight.dtype).min)[group]).exp()
    weight = weight * (batch.comparison.flatten() >= 0)
    total = weight.new_zeros(groups).index_add(0, group, weight)
    summed = weight.new_zeros(groups, hidden.shape[-1]).index_add(
        0, group, weight[:, None] * hidden.flatten(0, 1).float()
    )
    top, total = top.view(comparisons, -1), total.view(comparisons, -1)
    summed = summed.view(comparisons, responses + 1, -1)
    joint = torch.maximum(top[:, :1], top[:, 1:]).clamp(min=torch.finfo(weight.dtype).min)  # (C, K)
    of_prefix, of_own = (top[:, :1] - joint).exp(), (top[:, 1:] - joint).exp()
    pooled = of_prefix[..., None] * summed[:, :1] + of_own[..., None] * summed[:, 1:]
    mass = of_prefix * total[:, :1] + of_own * total[:, 1:]
    return (pooled / mass.clamp(min=torch.finfo(weight.dtype).tiny)[..., None]).to(hidden.dtype)


def _groups(batch: ComparisonBatch) -> Tensor:
    """(B*T,) index of each token's (comparison, segment) group; padding falls into group 0 and must be weighted 0."""
    width = batch.ranks.shape[1] + 1
    return (batch.comparison * width + batch.segment).clamp(min=0).flatten()


def _last_column(batch: ComparisonBatch, eligible: Tensor) -> Tensor:
    """(C, K) flat index of the last eligible token (B, T) of each continuation; -1 where there is none."""
    comparisons, responses = batch.ranks.shape
    eligible = eligible.flatten() & (batch.comparison.flatten() >= 0)
    columns = torch.arange(eligible.numel(), device=eligible.device)
    last = columns.new_full((comparisons * (responses + 1),), -1)
    last = last.scatter_reduce(0, _groups(batch), columns.masked_fill(~eligible, -1), "amax")
    return last.view(comparisons, responses + 1)[:, 1:]
