"""How a training process is driven from outside, so that two of them take turns; standard library alone.

The process writes one JSON line when it stands before its first step, and one after each command ``go N`` read from
its input: the time of N steps. In between it waits, so that only one of the processes works at a time.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def clock(threads: int) -> Callable[[], float]:
    """What tells the seconds: CPU time of the process where it has one thread, which other processes do not blur.

    With more threads CPU time counts those that wait for one another too; then it is the time of the wall.
    """
    return time.process_time if threads == 1 else time.perf_counter


class Pace:
    """The side of the process: its training loop calls ``boundary`` before every step.

    What stands between two boundaries is one whole step: its data, forward, backward and update.

    Args:
        threads: Threads that compute, see ``clock``.
        info: Facts that the first line tells.
    """

    def __init__(self, threads: int, **info: Any) -> None:
        self._info, self._now = info, clock(threads)
        self._left = 0
        self._start: float | None = None
        # Frameworks print as they like: what they print goes to standard error, the answers to the real output.
        self._answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def boundary(self) -> None:
        """Count a step; after the last one of a command answer, and wait for the next.

        Raises:
            SystemExit: The input has ended.
        """
        if self._left > 1:
            self._left -= 1
            return
        if self._start is None:
            self._answer({**self._info, "rest_mib": resident_mib("VmRSS")})
        else:
            self._answer({"seconds": self._now() - self._start, "peak_mib": resident_mib("VmHWM")})
        command = sys.stdin.readline().split()
        if not command:
            raise SystemExit(0)
        self._left = int(command[1])
        self._start = self._now()

    def _answer(self, values: dict[str, Any]) -> None:
        self._answers.write(json.dumps(values) + "\n")
        self._answers.flush()


def resident_mib(field: str) -> float:
    """Resident memory of this process in MiB: ``VmRSS`` now, ``VmHWM`` its highest so far."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError(f"no {field} in /proc/self/status: measure memory on Linux")
    return int(found[1]) / 1024


def random_pairs(spec: dict[str, Any]) -> list[tuple[list[int], list[int], list[int]]]:
    """Prompt, chosen and rejected answer as random token ids; both sides of the comparison draw the same ones.

    Args:
        spec: ``rows``, ``prompt``, ``response`` (tokens) and ``model.vocab_size``.
    """
    import random

    draw = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(10, spec["model"]["vocab_size"]) for _ in range(count)]

    pairs = []
    for _ in range(spec["rows"]):
        prompt, chosen, rejected = tokens(spec["prompt"]), tokens(spec["response"]), tokens(spec["response"])
        chosen[0], rejected[0] = 8, 9  # the answers differ from their first token on
        pairs.append((prompt, chosen, rejected))
    return pairs
