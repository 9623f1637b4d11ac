"""When a training step is logged: reading a number from a GPU waits for all that was given to it, so not every step."""

from __future__ import annotations

import lightning as L
from torch import Tensor


def completes_logged_step(trainer: L.Trainer, batch_idx: int, step: int) -> bool:
    """Whether a training batch completes an optimizer step that the Trainer logs.

    Args:
        trainer: Its ``log_every_n_steps`` decides; 0 logs none.
        batch_idx: Number of the batch in its epoch, from 0.
        step: Number of the optimizer step, from 1: ``global_step`` once the step is done, one more before.
    """
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    completes = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
    return every > 0 and completes and step % every == 0


def log_training(module: L.LightningModule, batch_idx: int, **values: Tensor) -> None:
    """Log scalars as ``train/<name>`` from within a training step, and show them in the progress bar.

    Once a scalar of a GPU is in the progress bar, the Trainer reads it after every batch, logged or not. So it is
    fetched here, at the steps that are logged and in the first batch; in between, the bar shows the last one.

    Args:
        module: The module whose ``training_step`` runs.
        batch_idx: Number of the batch in its epoch.
        values: Scalars by name.
    """
    first = any(f"train/{name}" not in module.trainer.callback_metrics for name in values)  # a checkpoint may follow it
    if first or completes_logged_step(module.trainer, batch_idx, module.trainer.global_step + 1):
        host = {f"train/{name}": value.detach().cpu() for name, value in values.items()}
        module.log_dict(host, prog_bar=True)
