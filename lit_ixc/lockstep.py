"""Ranks that do different amounts of work with weights that all of them hold together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.tensor import DTensor


def is_sharded(model: nn.Module) -> bool:
    """Whether ranks hold parts of the weights (FSDP2), so that each forward pass is one of all of them."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


class Lockstep:
    """Has all ranks run the same number of forward passes.

    Under sharded weights a pass collects them from all ranks, whatever it computes. Ranks need not do the same thing at
    the same time, but none may stop before the others: one that has done its work runs idle passes. All are asked
    whether they are done behind every so many passes, since a question makes the host wait.

    Args:
        device: Where the question is put: as the process group's backend needs it.
        every: Passes between two questions.
    """

    def __init__(self, device: torch.device, every: int = 8) -> None:
        self.device, self.every, self.passes = device, every, 0

    def passed(self, done: bool = False) -> bool:
        """Count a pass of this rank.

        Args:
            done: This rank has no work left.

        Returns:
            Whether no rank has any.
        """
        self.passes += 1
        if self.passes % self.every:
            return False
        flag = torch.tensor(int(done), device=self.device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MIN)
        return bool(flag)

    def finish(self, idle: Callable[[], object]) -> None:
        """Run idle passes until no rank has work left."""
        idle()
        while not self.passed(done=True):
            idle()
