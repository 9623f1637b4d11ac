"""The results as Markdown tables, and the targets beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from split import PARTS

TREE, CACHED = "prefix tree", "prefix tree + feature cache"

# Speed-ups over separate padded rows that the study was made to show: stage, kind, responses, mode, at least.
TARGETS = (
    ("training", "text 4:1", 2, TREE, 1.6),
    ("training", "text 16:1", 2, TREE, 1.85),
    ("training", "images, ragged", 2, TREE, 2.0),
    ("scoring", "text 16:1", 16, TREE, 8.0),
)
CACHED_VISION = 0.02  # most of a step's time, second epoch
PEER = {"512+64": 1.6}  # times TRL's pairs/s; never slower anywhere


def report(results: dict[str, Any]) -> str:
    """All tables that there are results for."""
    parts = [
        _speedups(results["rows"]),
        _absolute(results["rows"], results["machine"]["matmul_gflops"]),
        _split(results["split"]),
        _peer(results["peer"]),
        _targets(results),
    ]
    return "\n\n".join(part for part in parts if part)


def gpu_report(results: dict[str, Any]) -> str:
    """The tables of the GPU's parts."""
    ceiling = results["machine"]["matmul_gflops"]
    parts = [f"{results['machine']['device']}: {ceiling / 1000:.3g} TFLOP/s in plain matrix products"]
    parts.append(_absolute(results.get("steps", []), ceiling))
    kernels = [_kernel(row, ceiling) for row in results.get("kernels", [])]
    names = ["kernel", "difference", "attention, ms", "with backward, ms", "step, s", "of ceiling", "peak MiB"]
    parts.append(table(names, kernels, 1))
    limits = []
    for row in results.get("limit", []):
        share = [f"{row[key] / ceiling:.0%}" for key in ("gflops", "hardware_gflops")]
        limits.append([number(row["tree_tokens"]), f"{row['seconds']:.3g}", *share, number(row.get("total_mib", 0))])
    names = ["tokens of the tree", "step, s", "of ceiling", "with recomputing", "all memory, MiB"]
    parts.append(table(names, limits, 0))
    parts.append(_split(results.get("split", [])))
    parts += [
        f"Steps without waiting for the device: {row['waits'] or 'no operation waits'} ({row['steps']} steps)"
        for row in results.get("sync", [])
    ]
    traced = [[row["name"], f"{row['ms']:.1f}", f"{row['share']:.1%}"] for row in results.get("trace", [])]
    parts.append(table(["operation of a step", "ms", "share"], traced, 1))
    return "\n\n".join(part for part in parts if part)


def _kernel(row: dict[str, Any], ceiling: float) -> list[str]:
    if "error" in row:
        return [f"{row['kernel']}: {row['error']}", *[""] * 6]
    alone = [f"{row['gap']:.1e}", f"{row['forward_ms']:.3g}", f"{row['both_ms']:.3g}"] if "gap" in row else [""] * 3
    return [row["kernel"], *alone, f"{row['seconds']:.3g}", f"{row['gflops'] / ceiling:.0%}", number(row["peak_mib"])]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    """A Markdown table whose first ``words`` columns are text and whose others are numbers; empty without rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    rule = "|" + "---|" * words + "---:|" * (len(header) - words)
    return "\n".join([f"| {' | '.join(header)} |", rule, *lines]) if lines else ""


def number(value: float) -> str:
    """Three digits, more where the number is large."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _speedups(rows: list[dict[str, Any]]) -> str:
    """Prefix tree over separate padded, text: measured, in brackets what the FLOPs say."""
    found = {(r["model"], r["stage"], r["kind"], r["responses"]): r for r in rows if r["ratio"] and r["mode"] == TREE}
    counts = sorted({key[3] for key in found})
    groups = list(dict.fromkeys(key[:3] for key in found))
    lines = []
    for group in groups:
        cells = [found.get((*group, count)) for count in counts]
        lines.append(
            [*group, *("" if c is None else f"{c['speedup']:.2f} ({c['speedup_in_flops']:.2f})" for c in cells)]
        )
    return table(["model", "stage", "prompt:response", *(f"K = {count}" for count in counts)], lines, 3)


def _absolute(rows: list[dict[str, Any]], ceiling: float) -> str:
    """All modes of the images and of the 7B, and of the text at 4:1 with two responses."""
    lines = []
    for r in rows:
        if r["ratio"] is None or (r["ratio"], r["responses"]) == (4, 2) or r["model"] == "7B":
            speed = [number(r["comparisons_per_s"]), number(r["tokens_per_s"]), number(r["peak_mib"])]
            times = f"{r['speedup']:.2f} ({r['speedup_in_flops']:.2f})"
            share = f"{r['gflops'] / ceiling:.0%}"
            lines.append([r["model"], r["stage"], r["kind"], str(r["responses"]), r["mode"], *speed, times, share])
    names = [
        "model",
        "stage",
        "what",
        "K",
        "mode",
        "comparisons/s",
        "tokens/s",
        "peak MiB",
        "times padded",
        "of ceiling",
    ]
    return table(names, lines, 5)


def _split(splits: list[dict[str, Any]]) -> str:
    """Milliseconds of the parts of a training step."""
    lines = []
    for row in splits:
        total = sum(row["seconds"].values())
        cells = [f"{1000 * row['seconds'][part]:.1f} ({row['seconds'][part] / total:.1%})" for part in PARTS]
        lines.append([row["model"], row["mode"], *cells, f"{1000 * total:.1f}"])
    return table(["model", "mode", *(f"{part}, ms" for part in PARTS), "step, ms"], lines, 2)


def _peer(peers: list[dict[str, Any]]) -> str:
    """Pairs/s and memory of both processes."""
    lines = []
    for row in peers:
        speeds = [number(row[name]["pairs_per_s"]) for name in ("TRL", "ours")]
        memory = [number(row[name]["peak_mib"]) for name in ("TRL", "ours")]
        lines.append([row["lengths"], *speeds, f"{row['ratio']:.2f}", f"{row['limit']:.2f}", *memory])
    names = ["tokens", "TRL, pairs/s", "ours, pairs/s", "ratio", "by tokens", "TRL, peak MiB", "ours, peak MiB"]
    return table(names, lines, 1)


def _targets(results: dict[str, Any]) -> str:
    """What was to be reached, and what was."""
    lines = []
    keys = ("stage", "kind", "responses", "mode")
    for *wanted, least in TARGETS:
        for row in results["rows"]:
            if [row[key] for key in keys] == wanted:
                what = f"{row['model']}: {row['stage']}, {row['kind']}, K = {row['responses']}"
                lines.append(
                    [what, f"at least {least:g}x", f"{row['speedup']:.2f}x", _verdict(row["speedup"] >= least)]
                )
    for row in results["split"]:
        if row["mode"] == CACHED:
            share = row["seconds"]["vision"] / sum(row["seconds"].values())
            what = f"{row['model']}: vision with the cache on, second epoch"
            lines.append([what, f"under {CACHED_VISION:.0%}", f"{share:.1%}", _verdict(share < CACHED_VISION)])
    for row in results["peer"]:
        least = PEER.get(row["lengths"], 1.0)
        reached = [f"{row['ratio']:.2f}x", _verdict(row["ratio"] >= least)]
        lines.append([f"8M Qwen2: training, {row['lengths']}, TRL", f"at least {least:g}x", *reached])
    return table(["target", "wanted", "measured", ""], lines, 1)


def _times(row: dict[str, Any]) -> str:
    """Measured, and what the FLOPs say."""
    return f"{row['speedup']:.2f} ({row['speedup_in_flops']:.2f})"


def _verdict(reached: bool) -> str:
    return "reached" if reached else "missed"
