"""The study's figure: measured points on the curves of the cost model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from cost import sharing_limit
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from split import PARTS

COLOURS = {1: "tab:blue", 4: "tab:orange", 16: "tab:green"}  # by prompt:response ratio
MARKERS = {"20M": "o", "miniature": "x"}
TREE, PADDED = "prefix tree", "separate padded"


def draw(results: dict[str, Any], path: Path) -> None:
    """Write a PNG of six panels; those without results stay empty."""
    figure, axes = plt.subplots(2, 3, figsize=(15, 9), layout="constrained")
    text = [row for row in results["rows"] if row["ratio"]]
    _draw_speedup(axes[0, 0], text, "training")
    _draw_speedup(axes[0, 1], text, "scoring")
    _draw_memory(axes[0, 2], text)
    keys = [Line2D([], [], color=colour, label=f"prompt:response {ratio}:1") for ratio, colour in COLOURS.items()]
    keys += [Line2D([], [], color="gray", marker=m, linestyle="", label=name) for name, m in MARKERS.items()]
    keys += [
        Line2D([], [], color="gray", label="limit of the tokens"),
        Line2D([], [], color="gray", linestyle=":", label="FLOPs of the 20M model"),
    ]
    for place in axes[0]:
        place.legend(handles=keys[:5] if place is axes[0, 2] else keys, fontsize=7)
    _draw_images(axes[1, 0], [row for row in results["rows"] if row["ratio"] is None])
    _draw_split(axes[1, 1], results["split"])
    _draw_peer(axes[1, 2], results["peer"])
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _draw_speedup(axes: Axes, rows: list[dict[str, Any]], stage: str) -> None:
    """Lines: the limit of the tokens; dots: what the FLOPs of the 20M model say; marks: measured."""
    counts = np.geomspace(1, 64, 100)
    for ratio, colour in COLOURS.items():
        axes.plot(counts, [sharing_limit(k, ratio) for k in counts], color=colour, linewidth=1)
        for model, marker in MARKERS.items():
            own = [r for r in rows if (r["ratio"], r["model"], r["mode"], r["stage"]) == (ratio, model, TREE, stage)]
            own.sort(key=lambda row: row["responses"])
            responses = [row["responses"] for row in own]
            if model == "20M":
                axes.plot(responses, [row["speedup_in_flops"] for row in own], ":", color=colour)
            axes.plot(responses, [row["speedup"] for row in own], marker, color=colour)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(title=f"Prefix tree, {stage}, text", xlabel="responses K", ylabel="times separate padded", yscale="log")
    axes.set_yticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
    _responses_axis(axes)


def _draw_memory(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Peak memory of a training step over that of padded rows."""
    training = [row for row in rows if row["stage"] == "training"]
    peaks = {(r["model"], r["ratio"], r["responses"], r["mode"]): r["peak_mib"] for r in training}
    for ratio, colour in COLOURS.items():
        for model, marker in MARKERS.items():
            counts = sorted(k for m, p, k, mode in peaks if (m, p, mode) == (model, ratio, TREE))
            shares = [100 * peaks[model, ratio, k, TREE] / peaks[model, ratio, k, PADDED] for k in counts]
            axes.plot(counts, shares, f"{marker}-", color=colour, linewidth=0.8)
    axes.set(title="Memory of a training step, text", xlabel="responses K", ylabel="% of separate padded")
    axes.set_ylim(bottom=0)
    _responses_axis(axes)


def _responses_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 4, 16, 64], ["1", "2", "4", "16", "64"])
    axes.minorticks_off()


def _draw_images(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Bars: measured; black lines: what the FLOPs say."""
    groups = list(dict.fromkeys((r["model"], r["stage"], r["responses"]) for r in rows))
    modes = list(dict.fromkeys(row["mode"] for row in rows if row["mode"] != PADDED))
    width = 0.8 / max(1, len(modes))
    for number, mode in enumerate(modes):
        own = [r for r in rows if r["mode"] == mode]
        places = np.arange(len(groups)) + (number - (len(modes) - 1) / 2) * width
        axes.bar(places, [r["speedup"] for r in own], width, label=mode, color=f"C{number + 3}")
        ends = [r["speedup_in_flops"] for r in own]
        axes.hlines(ends, places - width / 2, places + width / 2, color="black", linewidth=1.5)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(title="Images and ragged lengths (black: FLOPs)", ylabel="times separate padded")
    axes.set_xticks(range(len(groups)), [f"{m}\n{stage}\nK = {k}" for m, stage, k in groups], fontsize=6)
    if rows:
        axes.margins(y=0.3)  # room for the legend
        axes.legend(fontsize=7, loc="upper left")


def _draw_split(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """One bar a mode, in percent of the padded step."""
    axes.set(title="A training step with images by part, K = 2", xlabel="% of the step of separate padded")
    if not rows:
        return
    totals = {row["model"]: sum(row["seconds"].values()) for row in rows if row["mode"] == PADDED}
    labels = [f"{row['model']}\n{row['mode']}" for row in rows]
    left = np.zeros(len(rows))
    for number, part in enumerate(PARTS):
        widths = np.array([100 * row["seconds"][part] / totals[row["model"]] for row in rows])
        axes.barh(labels, widths, left=left, label=part, color=f"C{number}")
        left += widths
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.legend(fontsize=7)


def _draw_peer(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Pairs/s as bars, relative to TRL so that short and long pairs fit one axis; the dashes are the tokens' limit."""
    places = np.arange(len(rows))
    for shift, name, colour in ((-0.2, "TRL", "tab:gray"), (0.2, "ours", "tab:blue")):
        heights = [row["ratio"] if name == "ours" else 1.0 for row in rows]
        bars = axes.bar(places + shift, heights, 0.4, label=name, color=colour)
        axes.bar_label(bars, [f"{row[name]['pairs_per_s']:.3g}" for row in rows], label_type="center", color="white")
    axes.hlines([row["limit"] for row in rows], places, places + 0.4, color="black", linestyle="--")
    axes.set(
        title="8M Qwen2, pairs/s (dashed: limit of the tokens)", ylabel="times TRL's pairs/s", xlabel="prompt+response"
    )
    axes.set_xticks(places, [row["lengths"] for row in rows])
    if rows:
        axes.legend(fontsize=7)
