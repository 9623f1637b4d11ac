"""What several training processes settle together."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import lightning as L
import torch
from torch import Tensor

Item = TypeVar("Item")


def summed(trainer: L.Trainer, tensor: Tensor) -> Tensor:
    """Sum of a tensor over the processes; the tensor itself where there is one process."""
    if trainer.world_size == 1:
        return tensor
    total = tensor.detach().to(trainer.strategy.root_device, copy=True)
    torch.distributed.all_reduce(total)
    return total


def counted(trainer: L.Trainer, items: Iterable[str]) -> Counter[str]:
    """How often each item is there, in all processes together."""
    own = Counter(items)
    if trainer.world_size == 1:
        return own
    found: list[Counter[str]] = [Counter()] * trainer.world_size
    torch.distributed.all_gather_object(found, own)
    return sum(found, Counter())


def equal_share(trainer: L.Trainer, items: Sequence[Item]) -> list[Item]:
    """The items, the first of them again where another process has more: all must take the same steps."""
    if trainer.world_size == 1:
        return list(items)
    count = torch.tensor(len(items), device=trainer.strategy.root_device)
    torch.distributed.all_reduce(count, torch.distributed.ReduceOp.MAX)
    return [*items, *itertools.islice(itertools.cycle(items), int(count) - len(items))]


def mean_of_each(trainer: L.Trainer, values: Mapping[str, float]) -> dict[str, float]:
    """Mean of each value over the processes that have one of its name; NaN counts as none.

    One exchange for all, and right where the names differ between the processes.
    """
    parts: list[Mapping[str, float]] = [values]
    if trainer.world_size > 1:
        parts = [{}] * trainer.world_size
        torch.distributed.all_gather_object(parts, dict(values))
    found: dict[str, list[float]] = {}
    for part in parts:
        for name, value in part.items():
            found.setdefault(name, []).extend([] if math.isnan(value) else [value])
    return {name: sum(numbers) / len(numbers) for name, numbers in sorted(found.items()) if numbers}


def unsynced(trainer: L.Trainer, wanted: bool = True) -> AbstractContextManager[None]:
    """Inside, a backward pass keeps its gradients to itself, where the strategy can share them later."""
    wait = getattr(trainer.strategy, "block_backward_sync", nullcontext)
    return wait() if wanted else nullcontext()
