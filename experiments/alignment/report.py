"""The study's tables in Markdown, mean and standard deviation over the seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from summary import spread

NAMES = {"sft": "SFT", "ppo": "PPO", "rloo": "RLOO", "grpo": "GRPO", "dpo": "DPO"}
MODALITIES = ("text", "image", "video")
GAIN, GROWTH = 10.0, 10.0  # points of truth at least, and per cent of length at most
REFERENCE_N = 8  # of best of N in the table

Value = Callable[[dict[str, Any]], float]


def report(results: dict[str, Any]) -> str:
    """All tables."""
    seeds, methods = results["seeds"], ["sft", *results["methods"]]
    parts = [
        "Truth of held-out answers, per cent:",
        _truth(seeds, methods),
        "Sampled answers beside those of SFT:",
        _beside(seeds, methods),
        "Truth of sampled answers by set, per cent:",
        _by_set(seeds, methods),
        "Best of N answers of SFT by the reward model:",
        _best_of(seeds),
        "The reward model on held-out pairs of SFT's answers, per cent:",
        _reward_model(seeds),
        "Expected:",
        _targets(seeds, methods),
        "Seconds of a seed, by the clock and of CPU time:",
        _seconds(seeds),
    ]
    return "\n\n".join(parts)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(header) - 1), *lines[1:]])


def cell(seeds: Sequence[dict[str, Any]], value: Value, digits: int = 1) -> str:
    """Mean and spread of a number of each seed."""
    mean, deviation = spread([value(seed) for seed in seeds])
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def _truth(seeds: Sequence[dict[str, Any]], methods: Sequence[str]) -> str:
    def row(name: str) -> list[str]:
        sampled = [
            cell(seeds, lambda seed, kind=kind: 100 * seed[name]["sampled"]["by modality"][kind]) for kind in MODALITIES
        ]
        whole = [cell(seeds, lambda seed, how=how: 100 * seed[name][how]["truth"]) for how in ("sampled", "greedy")]
        return [NAMES[name], whole[0], *sampled, whole[1]]

    best = cell(seeds, lambda seed: 100 * _best(seed)["truth"])
    lines = [*map(row, methods), [f"SFT, best of {REFERENCE_N}", best, *[""] * 4]]
    return table(["policy", "sampled", *MODALITIES, "greedy"], lines)


def _best(seed: dict[str, Any]) -> dict[str, float]:
    (found,) = (row for row in seed["best of n"] if row["n"] == REFERENCE_N)
    return found


def _beside(seeds: Sequence[dict[str, Any]], methods: Sequence[str]) -> str:
    def row(name: str) -> list[str]:
        def duel(key: str) -> str:
            return cell(seeds, lambda seed: 100 * seed[name]["sampled"]["against sft"][key])

        def value(key: str, digits: int) -> str:
            return cell(seeds, lambda seed: seed[name]["sampled"][key], digits)

        ended = cell(seeds, lambda seed: 100 * seed[name]["sampled"]["ended"])
        duels = [duel(key) if name != "sft" else "" for key in ("won", "lost", "rate")]
        return [NAMES[name], *duels, value("kl", 2), value("reward", 2), value("tokens", 2), ended]

    header = ["policy", "won, %", "lost, %", "win rate, %", "KL, nats", "learned reward", "tokens", "ended, %"]
    return table(header, map(row, methods))


def _by_set(seeds: Sequence[dict[str, Any]], methods: Sequence[str]) -> str:
    names = sorted(seeds[0]["sft"]["sampled"]["by set"])
    lines = [
        [NAMES[m], *(cell(seeds, lambda seed, m=m, n=n: 100 * seed[m]["sampled"]["by set"][n]) for n in names)]
        for m in methods
    ]
    return table(["policy", *names], lines)


def _best_of(seeds: Sequence[dict[str, Any]]) -> str:
    lines = []
    for index, row in enumerate(seeds[0]["best of n"]):
        values = [("truth", 100, 1), ("reward", 1, 2), ("tokens", 1, 2)]
        cells = [cell(seeds, lambda s, i=index, k=k, f=f: f * s["best of n"][i][k], d) for k, f, d in values]
        lines.append([str(row["n"]), f"{row['kl']:.2f}", *cells])
    return table(["N", "KL at most, nats", "truth, %", "learned reward", "tokens"], lines)


def _reward_model(seeds: Sequence[dict[str, Any]]) -> str:
    names = [name for name in seeds[0]["reward model"] if name != "pairs"]
    cells = [cell(seeds, lambda seed, name=name: 100 * seed["reward model"][name]) for name in names]
    return table(["", *names], [["accuracy", *cells]])


def _targets(seeds: Sequence[dict[str, Any]], methods: Sequence[str]) -> str:
    lines = []
    for name in methods[1:]:
        gain, _ = spread([100 * (s[name]["sampled"]["truth"] - s["sft"]["sampled"]["truth"]) for s in seeds])
        growth, _ = spread([100 * (s[name]["sampled"]["tokens"] / s["sft"]["sampled"]["tokens"] - 1) for s in seeds])
        reached = [_verdict(gain >= GAIN), _verdict(growth <= GROWTH)]
        lines.append([NAMES[name], f"{gain:+.1f}", reached[0], f"{growth:+.1f}", reached[1]])
    header = ["policy", f"points of truth (at least {GAIN:g})", "", f"length, % (at most {GROWTH:g})", ""]
    return table(header, lines)


def _verdict(reached: bool) -> str:
    return "reached" if reached else "missed"


def _seconds(seeds: Sequence[dict[str, Any]]) -> str:
    names = list(seeds[0]["seconds"])
    lines = []
    for place, kind in enumerate(("clock", "CPU")):
        cells = [f"{spread([seed['seconds'][name][place] for seed in seeds])[0]:.0f}" for name in names]
        total = f"{spread([sum(times[place] for times in seed['seconds'].values()) for seed in seeds])[0]:.0f}"
        lines.append([kind, *cells, total])
    return table(["", *names, "all"], lines)
