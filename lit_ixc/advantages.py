"""From rewards to advantages: masked statistics, KL estimates, shaped rewards and advantage estimators, all pure.

Shapes: ``R`` answers, ``samples`` of each prompt side by side; ``L`` tokens of the longest answer. Per-token tensors
are (R, L) fp32 with ``mask`` (R, L), True at sampled tokens. What lies outside the mask has no influence, not even NaN,
and results are 0 there. An answer without a token (a dropped one) counts in no mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from lit_ixc.records import UserError

#: Sums a tensor over the ranks; None on a single process.
AllReduce = Callable[[Tensor], Tensor] | None


def masked_moments(values: Tensor, mask: Tensor, all_reduce: AllReduce = None) -> tuple[Tensor, Tensor]:
    """Mean and variance (of the population: divided by n) of the values under the mask, over all ranks.

    The variance takes a second pass over the values: the mean of squares less the squared mean cancels in fp32.
    """
    reduce = all_reduce or (lambda tensor: tensor)
    total = torch.stack([values.masked_fill(~mask, 0.0).sum(), mask.sum().to(values.dtype)])
    total, count = reduce(total).unbind()
    count = count.clamp(min=1)
    mean = total / count
    squares = (values - mean).masked_fill(~mask, 0.0).square().sum()
    return mean, reduce(squares) / count


def whiten(values: Tensor, mask: Tensor, shift_mean: bool = True, all_reduce: AllReduce = None) -> Tensor:
    """Scales the values under the mask to variance 1 and, with ``shift_mean``, to mean 0; else the mean is kept.

    Equal values give 0 (their mean without the shift): 1e-8 is added to the variance.
    """
    mean, variance = masked_moments(values, mask, all_reduce)
    whitened = (values - mean) * (variance + 1e-8).rsqrt()
    return (whitened if shift_mean else whitened + mean).masked_fill(~mask, 0.0)


def kl_estimate(
    logprobs: Tensor, reference: Tensor, kind: Literal["k1", "k2", "k3"] = "k1", clamp: float = 20.0
) -> Tensor:
    """KL(policy || reference) from one sampled token each (Schulman, "Approximating KL Divergence", 2020).

    With ``d = logprobs - reference``: k1 = d (no bias, may be negative), k2 = d^2 / 2 (biased, low variance),
    k3 = exp(-d) - 1 + d (no bias, never negative). The tokens are drawn from the policy of the first argument; how far
    an update went from the policy that sampled is thus ``kl_estimate(old, logprobs, "k3")``.

    Args:
        clamp: Bound of ``abs(d)``; no gradient flows beyond it.
    """
    gap = (logprobs - reference).clamp(-clamp, clamp)
    if kind == "k1":
        return gap
    return gap.square() / 2 if kind == "k2" else (-gap).expm1() + gap


def last_token(mask: Tensor) -> Tensor:
    """(R,) column of the last sampled token of each answer; -1 where it has none."""
    columns = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, columns, -1).amax(dim=1)


def at_end(scores: Tensor, mask: Tensor) -> Tensor:
    """(R, L) with the score (R,) of each answer on its last sampled token and 0 elsewhere."""
    columns = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(columns == last_token(mask)[:, None], scores[:, None], 0.0)


def shaped_rewards(
    scores: Tensor, kl: Tensor, coefficient: Tensor | float, mask: Tensor, dense: Tensor | None = None
) -> Tensor:
    """Token rewards of PPO with a KL penalty (InstructGPT, arXiv 2203.02155, eq. 2; Ziegler et al., 1909.08593, eq. 2).

    ``r_t = -coefficient * kl_t + dense_t``, and the score of the answer is added on its last token.

    Args:
        scores: (R,) score of each whole answer.
        kl: (R, L) KL estimate of each token.
        coefficient: Weight of the KL penalty; 0 where it is part of the loss instead.
        mask: (R, L) sampled tokens.
        dense: (R, L) rewards of single tokens or, on the last token of each, of steps.
    """
    rewards = at_end(scores, mask) - coefficient * kl.masked_fill(~mask, 0.0)
    return rewards if dense is None else rewards + dense.masked_fill(~mask, 0.0)


def clip_steps(steps: Tensor, eta: float, mask: Tensor) -> Tensor:
    """The Clip mechanism of arXiv 2410.15115: ``min(r - eta, 0)``, so that further steps can never add reward.

    Args:
        steps: (R, S) process rewards.
        eta: Threshold above which a step is good enough.
        mask: (R, S) True where a step ends; holes between steps are allowed.
    """
    return (steps - eta).clamp(max=0.0).masked_fill(~mask, 0.0)


def delta_steps(steps: Tensor, mask: Tensor) -> Tensor:
    """The Delta mechanism of arXiv 2410.15115: differences of successive process rewards.

    For steps 1..K: ``r_k - r_(k+1)`` for k < K-1, ``r_(K-1)`` at K-1, and 0 at K: the reward of the last step is left
    out, because the success reward stands there. The return from step k < K is then r_k alone, however many steps
    follow. (Both mechanisms together, as in the paper: ``delta_steps(clip_steps(steps, eta, mask), mask)``.)

    Args:
        steps: (R, S) process rewards.
        mask: (R, S) True where a step ends; holes between steps are allowed.
    """
    width = steps.shape[1]
    columns = torch.where(mask, torch.arange(width, device=mask.device), width)
    following = columns.flip(1).cummin(dim=1).values.flip(1)  # column of the first step at or after each column
    following = torch.nn.functional.pad(following[:, 1:], (0, 1), value=width)  # ... strictly after it
    kept = steps.masked_fill(~mask | (following == width), 0.0)  # the last step counts 0, as its successor does
    return (kept - kept.gather(1, following.clamp(max=width - 1))).masked_fill(~mask, 0.0)


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float, bootstrap: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438, eq. 11 and 16).

    ``delta_t = r_t + gamma V_(t+1) - V_t`` and ``A_t = delta_t + gamma lam A_(t+1)``; holes in the mask are skipped.

    Args:
        rewards: (R, L).
        values: (R, L) value of the state before each token.
        mask: (R, L) sampled tokens.
        gamma: Discount of a token.
        lam: 0 gives the error of one step, 1 the discounted return less the value.
        bootstrap: (R,) value of the state after the last token, for answers that the length limit cut; 0 if None.

    Returns:
        Advantages (R, L), and the returns (R, L) that the critic should predict: advantages + values.
    """
    values = values.masked_fill(~mask, 0.0)
    following = torch.zeros_like(values[:, 0]) if bootstrap is None else bootstrap.to(values.dtype)  # (R,)
    running, columns = torch.zeros_like(following), []
    for reward, value, counts in zip(*(x.flip(1).unbind(1) for x in (rewards, values, mask)), strict=True):
        delta = reward + gamma * following - value
        running = torch.where(counts, delta + gamma * lam * running, running)
        following = torch.where(counts, value, following)
        columns.append(running)
    advantages = torch.stack(columns, dim=1).flip(1).masked_fill(~mask, 0.0)
    return advantages, advantages + values


class Advantages(NamedTuple):
    """What an estimator gives.

    Attributes:
        advantages: (R, L), not whitened.
        returns: (R, L) targets of the critic; None where there is no critic.
    """

    advantages: Tensor
    returns: Tensor | None


class AdvantageEstimator(ABC):
    """How good each token was, from the rewards of the tokens.

    Attributes:
        needs_critic: Whether ``values`` must be given.
        least_samples: Answers of each prompt below which the estimator says nothing.
        whitens: Whether the advantages of a rollout are whitened over all its tokens before they are used.
    """

    needs_critic: ClassVar[bool] = False
    least_samples: ClassVar[int] = 1
    whitens: bool = False

    @abstractmethod
    def __call__(self, rewards: Tensor, values: Tensor | None, mask: Tensor, samples: int) -> Advantages:
        """The advantages of R = prompts * samples answers.

        Args:
            rewards: (R, L) token rewards.
            values: (R, L) of the critic; None without one.
            mask: (R, L) sampled tokens.
            samples: Answers of each prompt, side by side in the rows.
        """


class GAE(AdvantageEstimator):
    """Generalised advantage estimation with a critic (arXiv 1506.02438); the defaults are IXC-2.5-Reward's.

    Args:
        gamma: Discount of a token.
        lam: Weight of later errors: 0 trusts the critic, 1 the rewards.
        whiten: Bring the advantages of a rollout to mean 0 and deviation 1.
    """

    needs_critic = True

    def __init__(self, gamma: float = 0.99, lam: float = 0.95, whiten: bool = True) -> None:
        _check_unit("gamma", gamma)
        _check_unit("lam", lam)
        self.gamma, self.lam, self.whitens = gamma, lam, whiten

    def __call__(self, rewards: Tensor, values: Tensor | None, mask: Tensor, samples: int) -> Advantages:
        if values is None:
            raise UserError(
                "values = None: GAE needs a critic; configure one, or choose RLOO, GRPO or ReinforcePlusPlus"
            )
        return Advantages(*gae(rewards, values, mask, self.gamma, self.lam))


class ReinforcePlusPlus(AdvantageEstimator):
    """REINFORCE++ (arXiv 2501.03262): the discounted sum of the rewards from each token on, without a critic.

    The baseline of the paper is the mean over the whole batch: the caller whitens the advantages over all tokens and
    ranks (``whitens``). The KL penalty belongs into the token rewards.

    Args:
        gamma: Discount of a token.
    """

    whitens = True

    def __init__(self, gamma: float = 1.0) -> None:
        _check_unit("gamma", gamma)
        self.gamma = gamma

    def __call__(self, rewards: Tensor, values: Tensor | None, mask: Tensor, samples: int) -> Advantages:
        return Advantages(gae(rewards, torch.zeros_like(rewards), mask, self.gamma, 1.0)[0], None)


class GroupEstimator(AdvantageEstimator):
    """Compares the answers of a prompt by the sum of their token rewards; every token of an answer gets the same."""

    least_samples = 2

    def __call__(self, rewards: Tensor, values: Tensor | None, mask: Tensor, samples: int) -> Advantages:
        # fp64: the mean of equal fp32 numbers is then exactly that number, and a group without a difference gives 0
        totals = rewards.masked_fill(~mask, 0.0).double().sum(dim=1).view(-1, samples)
        merit = self.compare(totals, mask.any(dim=1).view(-1, samples))
        return Advantages(merit.flatten()[:, None].to(rewards.dtype).masked_fill(~mask, 0.0), None)

    @abstractmethod
    def compare(self, totals: Tensor, counted: Tensor) -> Tensor:
        """(P, n) totals, of which the ``counted`` ones exist -> (P, n) advantages; unspecified for the others."""


class RLOO(GroupEstimator):
    """REINFORCE leave-one-out (arXiv 2402.14740, eq. 7): the total less the mean total of the prompt's other answers.

    A prompt with fewer than two counted answers has no baseline and gives 0.
    """

    def compare(self, totals: Tensor, counted: Tensor) -> Tensor:
        gap, number = _deviations(totals, counted)
        return gap * number / (number - 1).clamp(min=1)  # r - (S - r) / (n - 1) = (r - S / n) * n / (n - 1)


class GRPO(GroupEstimator):
    """Group relative policy optimisation (arXiv 2402.03300, section 4.1.2): totals standardised in each prompt's group.

    A prompt with fewer than two counted answers gives 0. The papers put the KL penalty into the loss.

    Args:
        scale: Whether to divide by the group's standard deviation (of the sample: n - 1). False is Dr. GRPO
            (arXiv 2503.20783), which does not favour prompts whose answers hardly differ.
        eps: Added to the standard deviation.
    """

    def __init__(self, scale: bool = True, eps: float = 1e-4) -> None:
        if eps <= 0:
            raise UserError(f"eps = {eps}: choose a value above 0")
        self.scale, self.eps = scale, eps

    def compare(self, totals: Tensor, counted: Tensor) -> Tensor:
        gap, number = _deviations(totals, counted)
        if not self.scale:
            return gap
        deviation = (gap.square().sum(dim=1, keepdim=True) / (number - 1).clamp(min=1)).sqrt()
        return gap / (deviation + self.eps)


class BestOfN(GroupEstimator):
    """Rejection sampling: 1 for the best answer of a prompt (the first of equals) and 0 for the others.

    With the :class:`~lit_ixc.policy_losses.Reinforce` loss this is best-of-N distillation (RAFT, arXiv 2304.06767): the
    weights choose what the likelihood is raised of. They are no baseline-corrected advantages: do not whiten them.
    """

    def compare(self, totals: Tensor, counted: Tensor) -> Tensor:
        best = totals.masked_fill(~counted, -torch.inf).argmax(dim=1, keepdim=True)
        return torch.zeros_like(totals).scatter(1, best, 1.0)


def _deviations(totals: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Totals (P, n) less their group's mean, 0 where not counted, and the number counted (P, 1)."""
    number = counted.sum(dim=1, keepdim=True)
    mean = totals.masked_fill(~counted, 0.0).sum(dim=1, keepdim=True) / number.clamp(min=1)
    return (totals - mean).masked_fill(~counted, 0.0), number


def _check_unit(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"{name} = {value}: choose a value in [0, 1]")
