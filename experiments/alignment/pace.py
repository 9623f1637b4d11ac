"""How a training process is driven from outside, so that two of them take turns, and how it times its parts.

Standard library alone: both environments import it. The process writes one JSON line when it stands before its first
step, and one after each command ``go N`` read from its input: the times of N steps. In between it waits, so that only
one of the processes works at a time.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

GENERATION, UPDATE = "generation", "update"


class Pace:
    """The side of the process: its training loop calls ``boundary`` before every step.

    What stands between two boundaries is one whole step: prompts, rollout, scores, update.

    Args:
        threads: Threads that compute. With one, CPU time of the process counts, which other processes do not blur; with
            more, the time of the wall: CPU time would count threads that wait for one another too.
        info: Facts that the first line tells.
    """

    def __init__(self, threads: int, **info: Any) -> None:
        self._info, self._left = info, 0
        self.now: Callable[[], float] = time.process_time if threads == 1 else time.perf_counter
        self._start: float | None = None
        self._parts: dict[str, float] = {}
        # Frameworks print as they like: what they print goes to standard error, the answers to the real output.
        self._answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time counts under a name."""

        def call(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            result = function(*args, **kwargs)
            self.add(name, self.now() - start)
            return result

        return call

    def add(self, name: str, seconds: float) -> None:
        """Count time under a name."""
        self._parts[name] = self._parts.get(name, 0.0) + seconds

    def boundary(self) -> None:
        """Count a step; after the last one of a command answer, and wait for the next.

        Raises:
            SystemExit: The input has ended.
        """
        if self._left > 1:
            self._left -= 1
            return
        if self._start is None:
            self._answer(self._info)
        else:
            seconds = self.now() - self._start
            self._answer({"seconds": seconds, "parts": self._parts, "peak_mb": peak_mb()})
        command = sys.stdin.readline().split()
        if not command:
            raise SystemExit(0)
        self._left, self._parts = int(command[1]), {}
        self._start = self.now()

    def _answer(self, values: dict[str, Any]) -> None:
        self._answers.write(json.dumps(values) + "\n")
        self._answers.flush()


def peak_mb() -> float:
    """Highest resident memory of this process so far, in units of 10^6 bytes (Linux counts KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def random_prompts(rows: int, tokens: int, vocabulary: int) -> list[list[int]]:
    """Prompts of random token ids, the same ones on both sides; the first ids are special tokens and stay out."""
    draw = random.Random(0)
    return [[draw.randrange(10, vocabulary) for _ in range(tokens)] for _ in range(rows)]
