"""AdamW and its schedule, as the released training script sets them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

Schedule = Literal["cosine", "linear", "constant"]


def decay_groups(
    module: nn.Module, lr: float, weight_decay: float, scales: Mapping[nn.Parameter, float]
) -> list[dict[str, Any]]:
    """Parameter groups of the trainable parameters: matrices decay; biases, norms and other vectors do not.

    Args:
        scales: Learning-rate factor of parameters that have one other than 1.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            matrix = sum(size > 1 for size in parameter.shape) >= 2
            groups.setdefault((scales.get(parameter, 1.0), matrix), []).append(parameter)
    return [
        {"params": parameters, "lr": lr * scale, "weight_decay": weight_decay if decays else 0.0}
        for (scale, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def adamw_with_schedule(
    groups: Iterable[dict[str, Any]],
    betas: tuple[float, float],
    total_steps: int,
    warmup_ratio: float,
    schedule: Schedule,
    time_used: Callable[[], float] = lambda: 0.0,
) -> dict[str, Any]:
    """Optimizer and per-step scheduler in Lightning's form.

    Args:
        total_steps: Optimizer steps of the whole run.
        warmup_ratio: Share of them in which the rate rises linearly.
        schedule: What follows: half a cosine to 0, a line to 0, or constant.
        time_used: Share of the run's time limit that has passed; the schedule goes by it where it is ahead of the
            steps, so that a run which its time limit ends has come to its small rates too.
    """
    optimizer = AdamW(groups, betas=betas)
    warmup = math.ceil(total_steps * warmup_ratio)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = min(1.0, max((step - warmup) / max(1, total_steps - warmup), time_used()))
        return {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}[schedule]

    scheduler = LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
