"""Where the time of a step goes: data, vision, language, head, optimizer."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pace import clock
from torch import Tensor, nn

PARTS = ("data", "vision", "language", "head", "optimizer")


class StepClock:
    """Gives the time since the last mark to a part; on a GPU by events in its stream, which wait for nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._now = clock(torch.get_num_threads())
        self.marks: list[tuple[str, Any]] = []

    def lap(self, part: str) -> None:
        """End of a stretch of ``part``; the first mark begins the step."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append((part, event))
        else:
            self.marks.append((part, self._now()))

    def read(self) -> dict[str, float]:
        """Seconds of each part since the last reading."""
        seconds: dict[str, float] = defaultdict(float)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        for (_, before), (part, now) in zip(self.marks, self.marks[1:], strict=False):
            seconds[part] += before.elapsed_time(now) / 1000 if self.device.type == "cuda" else now - before
        self.marks = []
        return {part: seconds[part] for part in PARTS}


@contextmanager
def watched(clock: StepClock, decoder: nn.Module, head: nn.Module) -> Iterator[None]:
    """Mark the parts of a forward and backward pass.

    What stands before the decoder is vision (features of the images, put among the embeddings), up to the head it is
    language. In the backward pass the head ends where the gradient of its input is there.
    """

    def at_decoder(*_: Any) -> None:
        clock.lap("vision")

    def at_head(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        clock.lap("language")
        hidden: Tensor = inputs[0]
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: clock.lap("head"))

    hooks = [decoder.register_forward_pre_hook(at_decoder), head.register_forward_pre_hook(at_head)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def medians(step: Callable[[], object], clock: StepClock, repeats: int) -> dict[str, float]:
    """Median seconds of each part over some steps, after one that does not count."""
    readings = []
    for _ in range(repeats + 1):
        clock.lap("data")
        step()
        readings.append(clock.read())
    return {part: statistics.median(reading[part] for reading in readings[1:]) for part in PARTS}
