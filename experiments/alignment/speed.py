"""How fast is a PPO step, and how does it stand beside TRL's? See README.md.

python experiments/alignment/speed.py --output DIR --trl-python PEER/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pace import GENERATION, UPDATE
from report import table

# Policy and reference have 10M parameters with their heads, reward and value model, without, 8M.
QWEN2 = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
}
IXC25 = {name: QWEN2[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
IXC25 |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vision_hidden_size": 128, "vision_layers": 4}
TARGET = 1.5
CASES = ("text", "picture", "group")
PICTURE = 41  # visual tokens of a picture of one tile of 64 px
GROUP = {"batch": 4, "samples": 8, "prompt": 256}  # a long prompt that several answers share


class Worker:
    """A training process that waits for its turn; see ``pace.py``.

    Args:
        python: Its interpreter.
        script: File beside this one.
        spec: ``model`` (sizes), ``picture`` (visual tokens before each prompt, 0 for text alone), ``batch`` (prompts of
            a rollout), ``samples`` (answers of each), ``prompt``, ``response`` (tokens), ``epochs``, ``threads``,
            ``lr``, ``attention`` (ours alone).
    """

    def __init__(self, python: str, script: str, spec: dict[str, Any]) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": str(spec["threads"]), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name(script)), json.dumps(spec)],
            text=True,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self.info = self._read()

    def go(self, steps: int) -> dict[str, Any]:
        """``seconds`` of so many steps, those of their ``parts``, and ``peak_mb`` of the process so far."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"go {steps}\n")
        self._process.stdin.flush()
        return self._read()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._errors.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(60)
            self._errors.seek(0)
            raise RuntimeError(f"{self._process.args} ended early:\n{self._errors.read()[-3000:]}")  # type: ignore[str-bytes-safe]
        answer: dict[str, Any] = json.loads(line)
        return answer


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder of speed.json")
    add("--trl-python", metavar="PYTHON", help="interpreter of the peer's environment; without it the peer is left out")
    add("--threads", type=int, default=2, metavar="N", help="(default: %(default)s)")
    add("--repeats", type=int, default=5, metavar="N", help="turns of each; medians count (default: %(default)s)")
    add("--batch", type=int, default=32, metavar="N", help="prompts of a rollout (default: %(default)s)")
    add("--tokens", type=int, nargs=2, default=(32, 32), metavar=("PROMPT", "RESPONSE"), help="(default: 32 32)")
    add("--epochs", type=int, default=4, metavar="N", help="passes over a rollout (default: %(default)s)")
    add("--cases", nargs="+", choices=CASES, default=CASES, help="(default: all)")
    return parser


def alternate(workers: dict[str, Worker], repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Single steps in turns, A B A B; the first of each, which makes the optimizer's state, does not count."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for turn in range(repeats + 1):
        for name, worker in workers.items():
            answer = worker.go(1)
            if turn:
                runs[name].append(answer)
    return runs


def rates(runs: Sequence[dict[str, Any]], spec: dict[str, Any]) -> dict[str, float]:
    """Medians of single steps."""
    seconds = {name: statistics.median(run["parts"][name] for run in runs) for name in (GENERATION, UPDATE)}
    whole = statistics.median(run["seconds"] for run in runs)
    answers = spec["batch"] * spec["samples"]
    return {
        "rollout_tokens_per_s": answers * spec["response"] / seconds[GENERATION],
        "update_samples_per_s": answers * spec["epochs"] / seconds[UPDATE],
        "episodes_per_s": answers / whole,
        "generation_s": seconds[GENERATION],
        "other_s": statistics.median(run["seconds"] - run["parts"][GENERATION] - run["parts"][UPDATE] for run in runs),
        "update_s": seconds[UPDATE],
        "step_s": whole,
        "peak_mb": runs[-1]["peak_mb"],
    }


def ratio(theirs: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]) -> float:
    """Median over the turns of the other's time by ours."""
    return statistics.median(their["seconds"] / own["seconds"] for their, own in zip(theirs, ours, strict=True))


def sides(args: argparse.Namespace, case: str) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Interpreter, script and spec of what takes turns in a case, by name; the first is what ours is held against."""
    prompt, response = args.tokens
    spec = {"batch": args.batch, "samples": 1, "prompt": prompt, "response": response, "epochs": args.epochs}
    spec |= {"threads": args.threads, "lr": 1e-5, "model": QWEN2, "picture": 0, "attention": "auto"}
    ours = (sys.executable, "our_worker.py")
    if case == "picture":
        return {"ours": (*ours, spec | {"model": IXC25, "picture": PICTURE})}
    if case == "group":
        spec |= GROUP
        return {"ours, rows apart": (*ours, spec | {"attention": "separate"}), "ours": (*ours, spec)}
    peer = {"TRL": (args.trl_python, "trl_worker.py", spec)} if args.trl_python else {}
    return {**peer, "ours": (*ours, spec)}


def measure(args: argparse.Namespace, case: str) -> dict[str, Any]:
    """One case: those that can run it, in turns."""
    chosen = sides(args, case)
    workers: dict[str, Worker] = {}
    try:
        for name, side in chosen.items():
            workers[name] = Worker(*side)
        runs = alternate(workers, args.repeats)
        found = {name: rates(own, chosen[name][2]) | workers[name].info for name, own in runs.items()}
    finally:
        for worker in workers.values():
            worker.__exit__(None, None, None)
    ratios = {name: ratio(own, runs["ours"]) for name, own in runs.items() if name != "ours"}
    return {"case": case, "sides": found, "ratios": ratios}


def report(cases: Sequence[dict[str, Any]]) -> str:
    """The table."""
    header = ["case", "rollout tokens/s", "update samples/s", "episodes/s", "peak MB"]
    header += ["generation, s", "other passes, s", "update, s"]
    keys = ("rollout_tokens_per_s", "update_samples_per_s", "episodes_per_s", "peak_mb")
    keys += ("generation_s", "other_s", "update_s")
    lines = [
        [f"{case['case']}, {name}", *(f"{side[key]:.4g}" for key in keys)]
        for case in cases
        for name, side in case["sides"].items()
    ]
    ratios = [
        f"{case['case']}: ours makes {ratio:.2f} times the episodes/s of {name}"
        + (f" (at least {TARGET:g} wanted)" if name == "TRL" else "")
        for case in cases
        for name, ratio in case["ratios"].items()
    ]
    return "\n\n".join([table(header, lines), *ratios])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write speed.json, print the table."""
    args = make_parser().parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    cases = [measure(args, case) for case in args.cases]
    machine = {"cpus": os.cpu_count(), "threads": args.threads}
    (args.output / "speed.json").write_text(json.dumps({"machine": machine, "cases": cases}, indent=1) + "\n")
    print(report(cases))


if __name__ == "__main__":
    main()
