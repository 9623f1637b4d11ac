"""How models run: precision of new tensors, evaluation mode for a while, dropout off for good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def float32_by_default() -> Iterator[None]:
    """New tensors are fp32 inside.

    Under ``bf16-true`` the Trainer makes them bf16 in every step, by ``torch.set_default_dtype``: rewards and
    log-probabilities would keep three digits. Models are built already and keep their type.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) inside; afterwards every part is in the mode that it was in."""
    before = [(part, part.training) for module in modules for part in module.modules()]
    for part, _ in before:
        part.training = False
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


def without_dropout(model: nn.Module) -> None:
    """Switch a model's dropout off for good: what is sampled and what is updated must be the same policy."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010 - not one that modules declare
