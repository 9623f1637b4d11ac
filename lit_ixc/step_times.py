"""The callback that says where the time of training steps goes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from time import perf_counter
from typing import Any, Literal, cast

import lightning as L
import torch
from lightning.pytorch.profilers import Profiler
from torch.utils.hooks import RemovableHandle

from lit_ixc.backbone import family_of
from lit_ixc.batch import ComparisonBatch
from lit_ixc.module import BackboneModule
from lit_ixc.step_log import completes_logged_step

Part = Literal["data", "vision", "language", "head", "backward", "optimizer", "rest"]
Moment = float | torch.cuda.Event

PARTS: tuple[Part, ...] = ("data", "vision", "language", "head", "backward", "optimizer", "rest")


class StepTimes(L.Callback):
    """Splits the time of training steps into parts, and logs it every ``log_every_n_steps`` steps.

    Means over the optimizer steps since the last report, in milliseconds; the parts add up to ``time/step``:

    - ``time/data``: waiting for the loader, and moving the batch to the device,
    - ``time/vision``: from there to the decoder: image features, computed or out of a cache, and embeddings,
    - ``time/language``: the decoder's forward pass,
    - ``time/head``: from there to the backward pass: head or logits, loss, metrics,
    - ``time/backward``: the backward pass, with what gradient checkpointing computes again,
    - ``time/optimizer``: gradient clipping and the optimizer,
    - ``time/rest``: all else within an epoch: logging, checkpoints, other callbacks.

    Beside them ``time/tokens_per_second`` (of the decoder: a shared prefix counts once, padding does not) and
    ``time/comparisons_per_second``, both of the process that logs. Validation and what lies between epochs is left out.

    On a GPU the moments are events in its queue: what the host does while the GPU is busy costs nothing and counts
    nowhere, so that ``time/data`` is how long the GPU stood still for data. The host waits for it once a report.
    Elsewhere the clock of the host counts.
    """

    def __init__(self) -> None:
        self._moments: list[tuple[Part | None, Moment]] = []  # what begins when; None: nothing that counts
        self._forward = False  # in the forward pass of a training step
        self._tokens = self._comparisons = self._last_step = 0
        self._undo: list[Callable[[], None]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        model = cast(BackboneModule, pl_module).model
        decoder = family_of(model).parts(model).decoder
        handles: list[RemovableHandle] = [
            decoder.register_forward_pre_hook(lambda *_: self._mark_forward("language")),
            decoder.register_forward_hook(lambda *_: self._mark_forward("head")),
        ]
        profiler = trainer.profiler  # type: ignore[attr-defined]
        trainer.profiler = _Fetches(profiler, lambda: self._mark("data"))  # type: ignore[attr-defined]
        self._undo = [*(handle.remove for handle in handles), lambda: setattr(trainer, "profiler", profiler)]
        self._moments, self._tokens, self._comparisons, self._last_step = [], 0, 0, trainer.global_step
        self._now: Callable[[], Moment] = _event if pl_module.device.type == "cuda" else perf_counter

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark("rest")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: ComparisonBatch, batch_idx: int
    ) -> None:
        self._forward = True
        self._mark("vision")
        self._tokens += sum(tree.prefix + sum(tree.answers) for tree in batch.trees)
        self._comparisons += batch.size

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        self._forward = False
        self._mark("backward")

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark("rest")

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        self._mark("optimizer")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._forward = False
        self._mark("rest")
        if self._undo and completes_logged_step(trainer, batch_idx, trainer.global_step):
            values = self._report(trainer.global_step - self._last_step)
            self._last_step = trainer.global_step
            pl_module.log_dict({name: torch.tensor(value) for name, value in values.items()}, rank_zero_only=True)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark(None)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark("rest")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark(None)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._detach()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._detach()

    def _detach(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _mark(self, part: Part | None) -> None:
        if self._undo:
            self._moments.append((part, self._now()))

    def _mark_forward(self, part: Part) -> None:
        if self._forward:
            self._mark(part)

    def _report(self, steps: int) -> dict[str, float]:
        """What to log about the steps since the last report; the next one begins here."""
        last = self._moments[-1]
        if isinstance(last[1], torch.cuda.Event):
            last[1].synchronize()
        times: dict[Part | None, float] = dict.fromkeys(PARTS, 0.0)
        for (part, begin), (_, end) in pairwise(self._moments):
            times[part] = times.get(part, 0.0) + _milliseconds(begin, end)
        times.pop(None, None)
        total = sum(times.values())
        values = {f"time/{part}": time / steps for part, time in times.items()}
        values["time/step"] = total / steps
        values["time/tokens_per_second"] = 1000 * self._tokens / total
        values["time/comparisons_per_second"] = 1000 * self._comparisons / total
        self._moments, self._tokens, self._comparisons = [last], 0, 0
        return values


class _Fetches(Profiler):
    """Tells when the training loop asks its loader for a batch, which no hook does; all else is another profiler's."""

    def __init__(self, profiler: Profiler, on_fetch: Callable[[], None]) -> None:
        super().__init__()
        self.profiler, self.on_fetch = profiler, on_fetch

    def start(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self.on_fetch()
        self.profiler.start(action_name)

    def stop(self, action_name: str) -> None:
        self.profiler.stop(action_name)


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _milliseconds(begin: Moment, end: Moment) -> float:
    if isinstance(begin, torch.cuda.Event):
        return begin.elapsed_time(cast(torch.cuda.Event, end))
    return 1000 * (cast(float, end) - begin)
