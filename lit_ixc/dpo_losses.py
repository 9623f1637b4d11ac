"""Losses of direct preference optimisation: functions of the log-probabilities of whole responses, all pure.

Each has an implicit reward ``r`` of a response, and is a function of the gap ``d = r_i - r_j`` between two responses
with i ranked above j. A comparison of K responses gives all its ordered pairs.

Shapes: ``policy`` and ``reference`` (C, K) sums of log-probabilities, fp32; ``tokens`` (C, K) how many each sums;
``ranks`` (C, K) with 0 = best and -1 where a response is missing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from lit_ixc.losses import mean_over_pairs, pair_masks
from lit_ixc.records import UserError


class DPOLoss(ABC):
    """A loss of a policy's log-probabilities against the ranks of its responses."""

    needs_reference: ClassVar[bool] = True

    @abstractmethod
    def rewards(self, policy: Tensor, reference: Tensor | None, tokens: Tensor) -> Tensor:
        """(C, K) implicit reward of each response, up to a constant of its prompt."""

    @abstractmethod
    def of_gaps(self, gaps: Tensor) -> Tensor:
        """The loss of pairs whose implicit rewards lie so far apart, elementwise."""

    def __call__(self, policy: Tensor, reference: Tensor | None, tokens: Tensor, ranks: Tensor) -> Tensor:
        """The mean over the pairs of each comparison, then over the comparisons that have one."""
        rewards = self.rewards(policy, reference, tokens)
        return mean_over_pairs(self.of_gaps(rewards[:, :, None] - rewards[:, None, :]), pair_masks(ranks)[0])


class DPO(DPOLoss):
    """``r = beta log(pi / ref)``, ``-log sigmoid(d)`` (arXiv 2305.18290, eq. 7).

    With smoothing e it is conservative DPO, ``-(1 - e) log sigmoid(d) - e log sigmoid(-d)`` (Mitchell, "A note on DPO
    with noisy preferences and relationship to IPO", 2023): a gap of ``log((1 - e) / e)`` is best.

    Args:
        beta: Strength of the tie to the reference.
        label_smoothing: Assumed share of flipped labels, in [0, 0.5).
    """

    def __init__(self, beta: float = 0.1, label_smoothing: float = 0.0) -> None:
        self.beta, self.label_smoothing = positive("beta", beta), share("label_smoothing", label_smoothing)

    def rewards(self, policy: Tensor, reference: Tensor | None, tokens: Tensor) -> Tensor:
        return self.beta * log_ratios(policy, reference)

    def of_gaps(self, gaps: Tensor) -> Tensor:
        return -(1 - self.label_smoothing) * logsigmoid(gaps) - self.label_smoothing * logsigmoid(-gaps)


class RobustDPO(DPOLoss):
    """DPO whose mean over flipped labels is the loss of clean ones (rDPO, arXiv 2403.00409):
    ``(-(1 - e) log sigmoid(d) + e log sigmoid(-d)) / (1 - 2 e)``.

    Args:
        beta: Strength of the tie to the reference.
        flip_rate: Share e of flipped labels, in [0, 0.5).
    """

    def __init__(self, beta: float = 0.1, flip_rate: float = 0.1) -> None:
        self.beta, self.flip_rate = positive("beta", beta), share("flip_rate", flip_rate)

    def rewards(self, policy: Tensor, reference: Tensor | None, tokens: Tensor) -> Tensor:
        return self.beta * log_ratios(policy, reference)

    def of_gaps(self, gaps: Tensor) -> Tensor:
        kept, flipped = (1 - self.flip_rate) * logsigmoid(gaps), self.flip_rate * logsigmoid(-gaps)
        return (flipped - kept) / (1 - 2 * self.flip_rate)


class IPO(DPOLoss):
    """``(h - 1 / (2 tau))^2`` of the gap h between log-ratios (arXiv 2310.12036, eq. 17); ``r = tau log(pi / ref)``.

    Args:
        tau: Strength of the tie to the reference.
        length_averaged: Take log-ratios per token, so that ``tau`` means the same for answers of any length. The paper
            has their sums.
    """

    def __init__(self, tau: float = 0.1, length_averaged: bool = False) -> None:
        self.tau, self.length_averaged = positive("tau", tau), length_averaged

    def rewards(self, policy: Tensor, reference: Tensor | None, tokens: Tensor) -> Tensor:
        ratios = log_ratios(policy, reference)
        return self.tau * (ratios / tokens.clamp(min=1) if self.length_averaged else ratios)

    def of_gaps(self, gaps: Tensor) -> Tensor:
        return ((gaps - 0.5) / self.tau) ** 2


class SimPO(DPOLoss):
    """``r = beta log(pi) / length``, ``-log sigmoid(d - gamma)``, without a reference (arXiv 2405.14734, eq. 6).

    Args:
        beta: Scale of the log-probability per token.
        gamma_ratio: ``gamma / beta``, the gap in log-probability per token that a pair should have.
    """

    needs_reference = False

    def __init__(self, beta: float = 2.0, gamma_ratio: float = 0.5) -> None:
        if gamma_ratio < 0:
            raise UserError(f"gamma_ratio = {gamma_ratio}: choose 0 or a positive number")
        self.beta, self.gamma = positive("beta", beta), gamma_ratio * beta

    def rewards(self, policy: Tensor, reference: Tensor | None, tokens: Tensor) -> Tensor:
        return self.beta * policy / tokens.clamp(min=1)

    def of_gaps(self, gaps: Tensor) -> Tensor:
        return -logsigmoid(gaps - self.gamma)


def chosen_nll(policy: Tensor, tokens: Tensor, ranks: Tensor) -> Tensor:
    """``-log pi(y_i) / |y_i|`` over the pairs with i better than j (iterative RPO, arXiv 2404.19733, eq. 1).

    It keeps the better answers probable, where the loss of a gap alone may let both sink.
    """
    better = pair_masks(ranks)[0]
    nll = -policy / tokens.clamp(min=1)
    return mean_over_pairs(nll[:, :, None].expand(better.shape), better)


def pair_means(values: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Means of (C, K) values over the better and over the worse responses of all pairs."""
    better = pair_masks(ranks)[0]
    chosen, rejected = values[:, :, None].expand(better.shape), values[:, None, :].expand(better.shape)
    return mean_over_pairs(chosen, better), mean_over_pairs(rejected, better)


def log_ratios(policy: Tensor, reference: Tensor | None) -> Tensor:
    """``log(pi / ref)`` of each response."""
    if reference is None:
        raise ValueError("this loss needs the log-probabilities of the reference")
    return policy - reference


def positive(name: str, value: float) -> float:
    """The value, if it is above 0."""
    if value <= 0:
        raise UserError(f"{name} = {value}: choose a positive number")
    return value


def share(name: str, value: float) -> float:
    """The value, if less than half of the labels can be flipped by it."""
    if not 0 <= value < 0.5:
        raise UserError(f"{name} = {value}: choose a value in [0, 0.5)")
    return value
