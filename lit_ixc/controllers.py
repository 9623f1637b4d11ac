"""What PPO carries from one rollout to the next: the KL coefficient and the running moments of the rewards.

They are modules with fp64 buffers, so that checkpoints keep them to the last bit, also of a model trained in bf16.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from lit_ixc.records import UserError


class Fp64Buffers(nn.Module):
    """A module whose buffers follow it to another device but stay fp64 when it is cast (``.half()``, bf16-true)."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = {name: buffer for name, buffer in self.named_buffers(recurse=False) if buffer.dtype == torch.float64}
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != torch.float64:  # the value before the cast: after it, bits are lost
                self._buffers[name] = buffer.to(moved.device)
        return self


class KLController(Fp64Buffers, ABC):
    """Decides how much the KL divergence from the reference costs.

    Attributes:
        coefficient: Scalar buffer, fp64.
    """

    coefficient: Tensor

    def __init__(self, coefficient: float) -> None:
        super().__init__()
        self.register_buffer("coefficient", torch.tensor(coefficient, dtype=torch.float64))

    @abstractmethod
    def update(self, kl: Tensor, answers: int) -> None:
        """Take note of a rollout, once after it was used.

        Args:
            kl: Scalar: the KL of an answer (sum over its tokens), averaged over the answers of all ranks.
            answers: Answers of all ranks.
        """


class FixedKL(KLController):
    """The same coefficient throughout.

    Args:
        coefficient: Weight of the KL.
    """

    def __init__(self, coefficient: float = 0.05) -> None:
        if coefficient < 0:
            raise UserError(f"coefficient = {coefficient}: choose 0 or more")
        super().__init__(coefficient)

    def update(self, kl: Tensor, answers: int) -> None:
        """Nothing changes."""


class AdaptiveKL(KLController):
    """Steers the KL of an answer to a target (Ziegler et al., arXiv 1909.08593, section 2.2).

    After each rollout ``coefficient *= 1 + clip(KL / target - 1, -0.2, 0.2) * answers / horizon``: the paper's gain of
    0.1 made independent of the batch size, as in the authors' code. More answers than ``horizon`` count as ``horizon``:
    else a rollout of over five horizons would make the coefficient negative.

    Args:
        coefficient: Weight of the KL at the start.
        target: KL of an answer, in nats.
        horizon: Answers over which the coefficient changes by a factor of at most e^0.2 = 1.22.
    """

    def __init__(self, coefficient: float = 0.05, target: float = 6.0, horizon: int = 10000) -> None:
        for name, value in (("coefficient", coefficient), ("target", target), ("horizon", horizon)):
            if value <= 0:
                raise UserError(f"{name} = {value}: choose a value above 0, or FixedKL")
        super().__init__(coefficient)
        self.target, self.horizon = target, horizon

    @torch.no_grad()
    def update(self, kl: Tensor, answers: int) -> None:
        """Scale the coefficient.

        Raises:
            UserError: When the KL is not finite: the coefficient would be lost for good.
        """
        if not kl.isfinite():
            raise UserError(f"kl = {kl.item()}: the policy has left the finite numbers; lower the learning rate")
        error = (kl.double() / self.target - 1).clamp(-0.2, 0.2)
        gain = min(answers / self.horizon, 1.0)
        self.coefficient.mul_((1 + error * gain).to(self.coefficient.device))


class RunningMoments(Fp64Buffers):
    """Mean and standard deviation of all values seen, merged batch by batch (Chan, Golub and LeVeque, 1983, eq. 1.5).

    Attributes:
        mean: Scalar buffer, fp64.
        m2: Scalar buffer, fp64: sum of squared deviations from the mean.
        count: Scalar buffer, int64.
    """

    mean: Tensor
    m2: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("m2", torch.zeros((), dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, values: Tensor, all_reduce: Callable[[Tensor], Tensor] | None = None) -> None:
        """Merge the values (N,) of all ranks; N may differ between ranks and be 0.

        Args:
            values: Finite numbers.
            all_reduce: Sums a tensor over the ranks; None on a single process.

        Raises:
            UserError: On every rank, when a value of any rank is not finite; nothing has changed then.
        """
        reduce = all_reduce or (lambda tensor: tensor)
        values = values.to(self.mean)
        total, number = reduce(torch.stack([values.sum(), values.new_tensor(values.numel())])).unbind()
        if not total.isfinite():
            raise UserError("values = nan or inf: running moments need finite numbers; drop and count the others")
        mean = total / number.clamp(min=1)
        m2 = reduce((values - mean).square().sum())
        delta, merged = mean - self.mean, (self.count + number).clamp(min=1)
        self.m2.add_(m2 + delta.square() * self.count * number / merged)
        self.mean.add_(delta * number / merged)
        self.count.add_(number.long())

    @property
    def std(self) -> Tensor:
        """Standard deviation of the sample (n - 1), fp64; 1 before two values, and while no two values differ."""
        std = (self.m2 / (self.count - 1).clamp(min=1)).sqrt()
        return torch.where(std > 1e-8, std, 1.0)

    def standardise(self, values: Tensor) -> Tensor:
        """``(values - mean) / std`` in the dtype of the values."""
        mean, std = self.mean.to(values.device), self.std.to(values.device)
        return ((values.double() - mean) / std).to(values.dtype)
