"""Policy and value losses per token, their weights, and what is logged beside them: all pure.

Shapes: ``R`` answers, ``L`` tokens, ``mask`` (R, L) True at sampled tokens. Losses are (R, L), 0 outside the mask, and
what lies there has no influence, not even NaN. ``(loss * token_weights(...)).sum()`` makes a scalar of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_ixc.advantages import AllReduce, masked_moments
from lit_ixc.records import UserError

LossMean = Literal["token", "sequence", "fixed"]
#: Bound of the log-ratio of new and old policy before exp; beyond it a token has no gradient.
LOG_RATIO_LIMIT = 20.0


class PolicyTerms(NamedTuple):
    """What a policy loss gives for each token (R, L); 0 and False outside the mask.

    Attributes:
        loss: To be weighted and summed.
        ratio: Probability under the policy that trains over that under the policy that sampled; without gradient.
        clipped: Whether the token has no gradient because of a clip.
    """

    loss: Tensor
    ratio: Tensor
    clipped: Tensor


class PolicyLoss(ABC):
    """A loss of the log-probabilities of sampled tokens."""

    @abstractmethod
    def __call__(self, logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> PolicyTerms:
        """The loss of each token.

        Args:
            logprobs: (R, L) under the policy that trains, with gradient.
            old: (R, L) under the policy that sampled.
            advantages: (R, L).
            mask: (R, L) sampled tokens.
        """


class PPOClip(PolicyLoss):
    """Clipped surrogate of PPO (arXiv 1707.06347, eq. 7): ``-min(ratio A, clip(ratio, 1 - low, 1 + high) A)``.

    The ratio is taken against the policy that sampled. Unequal bounds are DAPO's "clip higher" (arXiv 2503.14476).

    Args:
        clip_low: How far the ratio of a bad token may fall below 1.
        clip_high: How far the ratio of a good token may rise above 1.
        dual_clip: Bound c > 1 of the ratio of bad tokens, ``max(min(...), c A)`` for A < 0 (arXiv 1912.09729, eq. 5):
            without it a token that became much likelier though it was bad has an unbounded gradient. None for no bound.
    """

    def __init__(self, clip_low: float = 0.2, clip_high: float = 0.2, dual_clip: float | None = None) -> None:
        if not 0 < clip_low < 1:
            raise UserError(f"clip_low = {clip_low}: choose a value between 0 and 1")
        if clip_high <= 0:
            raise UserError(f"clip_high = {clip_high}: choose a value above 0")
        if dual_clip is not None and dual_clip <= 1:
            raise UserError(f"dual_clip = {dual_clip}: choose a value above 1, e.g. 3, or null")
        self.clip_low, self.clip_high, self.dual_clip = clip_low, clip_high, dual_clip

    def __call__(self, logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> PolicyTerms:
        log_ratio = self.log_ratio((logprobs - old).masked_fill(~mask, 0.0), mask)
        advantages = advantages.masked_fill(~mask, 0.0)
        ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
        free, bounded = -advantages * ratio, -advantages * ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        loss, clipped = torch.maximum(free, bounded), (bounded > free) | (log_ratio.abs() > LOG_RATIO_LIMIT)
        if self.dual_clip is not None:
            ceiling = torch.where(advantages < 0, -advantages * self.dual_clip, torch.inf)
            loss, clipped = torch.minimum(loss, ceiling), clipped | (loss > ceiling)
        return PolicyTerms(loss, ratio.detach().masked_fill(~mask, 0.0), clipped & mask)

    def log_ratio(self, gap: Tensor, mask: Tensor) -> Tensor:
        """Log of each token's ratio from ``logprobs - old`` (R, L), which is 0 outside the mask."""
        return gap


class SequencePPOClip(PPOClip):
    """PPO's surrogate with the length-normalised ratio of the whole answer (GSPO, arXiv 2507.18071, eq. 5-7).

    Every token has the ratio ``exp(mean over the answer's tokens of logprobs - old)``, but its own gradient and its own
    advantage (GSPO-token, eq. 13-14; the same as GSPO where the advantage is constant over the answer). Use it with the
    "sequence" weights.

    Args:
        clip_low: How far the ratio of a bad answer may fall below 1 (a mean of logs moves little: the paper's bounds).
        clip_high: How far the ratio of a good answer may rise above 1.
        dual_clip: As in :class:`PPOClip`.
    """

    def __init__(self, clip_low: float = 3e-4, clip_high: float = 4e-4, dual_clip: float | None = None) -> None:
        super().__init__(clip_low, clip_high, dual_clip)

    def log_ratio(self, gap: Tensor, mask: Tensor) -> Tensor:
        """The answer's mean log-ratio as value, the token's own as gradient."""
        mean = gap.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return mean.detach() + (gap - gap.detach())


class Reinforce(PolicyLoss):
    """``-A log p``: the policy gradient without a ratio (arXiv 2402.14740, eq. 4).

    It is right for samples of the current policy: take one pass over each rollout. With weights of 1 and 0 from
    :class:`~lit_ixc.advantages.BestOfN` the same formula is the likelihood loss of best-of-N distillation, which stays
    right for any number of passes: there is no other class for it.
    """

    def __call__(self, logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> PolicyTerms:
        inside = logprobs.masked_fill(~mask, 0.0)
        gap = (logprobs - old).detach().clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        loss = -advantages.masked_fill(~mask, 0.0) * inside
        return PolicyTerms(loss, gap.exp().masked_fill(~mask, 0.0), torch.zeros_like(mask))


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None, mask: Tensor | None = None
) -> Tensor:
    """(R, L) half the squared error of the critic, with PPO's value clip (as in the authors' code of arXiv 1707.06347).

    ``0.5 max((V - G)^2, (V_old + clip(V - V_old, -c, c) - G)^2)``: a value that moved further than c towards its return
    has no gradient.

    Args:
        values: (R, L) of the critic that trains.
        old_values: (R, L) of the critic at the time of the rollout.
        returns: (R, L) targets.
        clip: c, or None for the plain squared error.
        mask: (R, L) sampled tokens; None if all count.
    """
    if mask is not None:
        values, old_values, returns = (x.masked_fill(~mask, 0.0) for x in (values, old_values, returns))
    error = (values - returns).square()
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (near - returns).square())
    return error / 2


def token_weights(mask: Tensor, how: LossMean = "token", length: int | None = None) -> Tensor:
    """(R, L) weights that make a scalar of a per-token loss, ``(loss * weights).sum()``; an empty mask gives zeros.

    Args:
        mask: (R, L) sampled tokens of the minibatch.
        how: ``token``: the mean over all tokens, long answers weigh more (DAPO, arXiv 2503.14476, eq. 8).
            ``sequence``: the mean over answers of each answer's mean (GRPO, arXiv 2402.03300, eq. 3); answers without
            a token do not count. ``fixed``: the sum over tokens divided by R * ``length``, so that neither the length
            of an answer nor that of its neighbours matters (Dr. GRPO, arXiv 2503.20783).
        length: Largest number of new tokens, for ``fixed``.
    """
    weights = mask.float()
    if how == "token":
        return weights / weights.sum().clamp(min=1)
    if how == "sequence":
        return weights / weights.sum(dim=1, keepdim=True).clamp(min=1) / mask.any(dim=1).sum().clamp(min=1)
    if length is None or length < 1:
        raise UserError(f"length = {length}: fixed token weights need the largest number of new tokens")
    return weights / (mask.shape[0] * length)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor, all_reduce: AllReduce = None) -> Tensor:
    """``1 - Var(G - V) / Var(G)``: 1 for a perfect critic, 0 for a constant one; NaN where no two returns differ."""
    unexplained = masked_moments(returns - values, mask, all_reduce)[1]
    variance = masked_moments(returns, mask, all_reduce)[1]
    return torch.where(variance > 0, 1 - unexplained / variance, torch.nan)
