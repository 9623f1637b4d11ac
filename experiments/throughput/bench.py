"""Times the cases of one model in all their modes, after checking that the modes agree."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

from cases import PADDED, Case, Mode
from cost import forward_flops, step_flops
from engine import Engine
from measure import alternate, peak_mib, ratio
from split import StepClock, medians

STAGES = ("training", "scoring")


class Bench:
    """One model and how it is timed.

    Args:
        engine: The model.
        repeats: Runs of each action.
        tolerance: Most that scores, which are about 1, may differ between the modes.
    """

    def __init__(self, engine: Engine, repeats: int, tolerance: float) -> None:
        self.engine, self.repeats, self.tolerance = engine, repeats, tolerance

    def rows(self, cases: Sequence[Case], stages: Sequence[str] = STAGES) -> list[dict[str, Any]]:
        """Check and time cases: a row for each stage and mode."""
        found = []
        for case in cases:
            gaps = self.check(case)
            for stage in stages:
                found += self._timed(case, stage, gaps)
        return found

    def check(self, case: Case) -> dict[str, float]:
        """Largest difference of the scores of each mode from those of padded rows.

        Raises:
            RuntimeError: One is too large: what computes something else is not timed.
        """
        scores = {mode.name: self.engine.score(self.engine.prepare(case, mode), case, mode) for mode in case.modes}
        gaps = {name: float((own - scores[PADDED.name]).abs().max()) for name, own in scores.items()}
        for name, gap in gaps.items():
            if not gap <= self.tolerance:
                raise RuntimeError(f"{name}, {case.kind}, K = {case.responses}: scores are off by {gap:.1e}")
        return gaps

    def split(self, case: Case) -> list[dict[str, Any]]:
        """Seconds of the parts of a training step, for each mode."""
        clock = StepClock(self.engine.device)
        rows = []
        with self.engine.watched(clock):
            for mode in case.modes:
                step = partial(self.engine.train, self.engine.prepare(case, mode), case, mode)
                parts = medians(step, clock, self.repeats)
                rows.append({"model": case.model, "kind": case.kind, "mode": mode.name, "seconds": parts})
        return rows

    def _timed(self, case: Case, stage: str, gaps: dict[str, float]) -> list[dict[str, Any]]:
        step = self.engine.train if stage == "training" else self.engine.score
        actions = {mode.name: partial(step, self.engine.prepare(case, mode), case, mode) for mode in case.modes}
        peaks = {name: peak_mib(action, self.engine.device) for name, action in actions.items()}  # the warm-up, too
        seconds = alternate(actions, self.repeats, self.engine.device)
        return [
            {
                **self.describe(case, stage, mode, statistics.median(seconds[mode.name])),
                "speedup": ratio(seconds[PADDED.name], seconds[mode.name]),
                "peak_mib": peaks[mode.name],
                "score_gap": gaps[mode.name],
            }
            for mode in case.modes
        ]

    def describe(self, case: Case, stage: str, mode: Mode, seconds: float) -> dict[str, Any]:
        """What is said of a step that took so long; FLOP/s without those of recomputed activations."""
        training = stage == "training"
        flops, of_padded = (
            step_flops(forward_flops(self.engine.config, case.load(m)), training) for m in (mode, PADDED)
        )
        return {
            "model": case.model,
            "kind": case.kind,
            "ratio": case.ratio,
            "responses": case.responses,
            "stage": stage,
            "mode": mode.name,
            "seconds": seconds,
            "comparisons_per_s": len(case.comparisons) / seconds,
            "tokens_per_s": case.tokens / seconds,
            "gflops": flops / seconds / 1e9,
            "speedup_in_flops": of_padded / flops,
            "speedup_in_tokens": case.load(PADDED).tokens / case.load(mode).tokens,
        }
