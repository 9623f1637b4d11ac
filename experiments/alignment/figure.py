"""The study's figure: truth by method, and learned reward against truth over the divergence from SFT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from report import NAMES
from summary import spread

COLOURS = {"sft": "tab:gray", "ppo": "tab:blue", "rloo": "tab:orange", "grpo": "tab:green", "dpo": "tab:red"}
BEST_OF = "black"


def draw(results: dict[str, Any], path: Path) -> None:
    """Write a PNG of four panels."""
    seeds, methods = results["seeds"], results["methods"]
    figure, axes = plt.subplots(2, 2, figsize=(13, 9.5), layout="constrained")
    _bars(axes[0, 0], seeds, ["sft", *methods])
    _over_kl(axes[0, 1], seeds, methods, "truth", "Truth of sampled answers, %", 100)
    _over_kl(axes[1, 1], seeds, methods, "reward", "Learned reward", 1)
    _reward_and_truth(axes[1, 0], seeds, methods)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _bars(axes: Axes, seeds: Sequence[dict[str, Any]], methods: Sequence[str]) -> None:
    """Truth of each method by modality; whiskers: deviation over the seeds, dots: the seeds."""
    groups = ["all", *sorted(seeds[0]["sft"]["sampled"]["by modality"])]
    width = 0.8 / len(methods)
    for number, name in enumerate(methods):
        for place, group in enumerate(groups):
            own = [seed[name]["sampled"] for seed in seeds]
            values = [100 * (one["truth"] if group == "all" else one["by modality"][group]) for one in own]
            mean, deviation = spread(values)
            x = place + (number - (len(methods) - 1) / 2) * width
            label = NAMES[name] if place == 0 else None
            axes.bar(x, mean, width, yerr=deviation, color=COLOURS[name], label=label, error_kw={"linewidth": 1})
            axes.plot([x] * len(values), values, "k.", markersize=3)
    axes.set(title="Truth of sampled held-out answers", ylabel="right, %", ylim=(0, 100))
    axes.set_xticks(range(len(groups)), groups)
    axes.legend(fontsize=8, loc="upper left", ncols=len(methods))


def _over_kl(
    axes: Axes, seeds: Sequence[dict[str, Any]], methods: Sequence[str], key: str, label: str, by: float
) -> None:
    """Lines: each seed's training; the black line: best of N, the mean of the seeds."""
    for name in methods:
        for number, seed in enumerate(seeds):
            points = _trail(seed, name)
            line = [by * point[key] for point in points]
            kl = [max(0.0, point["kl"]) for point in points]
            axes.plot(kl, line, ".-", color=COLOURS[name], linewidth=1, label=NAMES[name] if number == 0 else None)
    rows = range(len(seeds[0]["best of n"]))
    best = [spread([by * seed["best of n"][row][key] for seed in seeds])[0] for row in rows]
    axes.plot([row["kl"] for row in seeds[0]["best of n"]], best, "s--", color=BEST_OF, label="best of N (KL at most)")
    axes.set(title=f"{label} over KL", xlabel="KL from SFT, nats an answer", ylabel=label)
    axes.legend(fontsize=8)


def _reward_and_truth(axes: Axes, seeds: Sequence[dict[str, Any]], methods: Sequence[str]) -> None:
    """What the learned reward promises and what is true: over-optimisation bends a line down."""
    for name in methods:
        for number, seed in enumerate(seeds):
            points = _trail(seed, name)
            start = points[0]["reward"]
            x = np.array([point["reward"] - start for point in points])
            truth = [100 * point["truth"] for point in points]
            axes.plot(x, truth, ".-", color=COLOURS[name], linewidth=1, label=NAMES[name] if number == 0 else None)
            axes.plot(x[-1], truth[-1], "o", color=COLOURS[name])
    axes.set(title="Learned reward against truth (large dot: end)", xlabel="learned reward above SFT's")
    axes.set_ylabel("truth, %")
    axes.legend(fontsize=8)


def _trail(seed: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """SFT, the checkpoints on the way, the end."""
    return [seed["sft"]["sampled"], *seed[name]["curve"], seed[name]["sampled"]]
