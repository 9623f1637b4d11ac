"""Times of alternating actions, and the highest memory of the tensors of one action."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from itertools import accumulate

import torch
from pace import clock
from torch.profiler import ProfilerActivity, profile

Action = Callable[[], object]


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def alternate(
    actions: Mapping[str, Action], repeats: int, device: torch.device, turn: float = 0.4
) -> dict[str, list[float]]:
    """Seconds of the actions in turns, A B A B ...; run each once before, to warm it up.

    A turn repeats its action until so many seconds have passed, and the median counts: a short action would else pay
    for the caches and the memory that a long one of another kind left behind, which it never meets in a real run.

    Args:
        actions: What is timed, by name.
        repeats: Turns of each action.
        device: Where they run.
        turn: Least seconds of a turn; 0 runs each action once a turn.
    """
    now = clock(torch.get_num_threads()) if device.type == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            runs: list[float] = []
            while not runs or sum(runs) < turn:
                synchronise(device)
                start = now()
                action()
                synchronise(device)
                runs.append(now() - start)
            seconds[name].append(statistics.median(runs))
    return seconds


def ratio(reference: list[float], own: list[float]) -> float:
    """How many times faster than the reference: the median over neighbouring runs; 2 s over 1 s is 2."""
    return statistics.median(a / b for a, b in zip(reference, own, strict=True))


def peak_mib(action: Action, device: torch.device) -> float:
    """Highest memory of tensors during an action, above what stood before it, in MiB.

    From the allocator itself, on a CPU as on a GPU: other processes and memory kept for later do not blur it.
    """
    if device.type == "cuda":
        synchronise(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        synchronise(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        action()
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in changes), initial=0)) / 2**20


def matmul_ceiling(device: torch.device, dtype: torch.dtype, size: int, repeats: int = 20) -> float:
    """FLOP/s of the fastest of some square matrix products: the ceiling against which utilisation is given.

    The fastest, since whatever else the machine does makes one slower and none faster.
    """
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = alternate({"product": lambda: a @ b}, repeats, device, turn=0)["product"]
    return 2 * size**3 / min(seconds)
