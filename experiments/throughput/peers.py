"""Ours beside the peer: two processes that train the same model on the same pairs, in turns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from cost import sharing_limit
from measure import ratio

# About 8M parameters, as for the pairs/s in the README; the vocabulary is small, since reward models have no LM head.
QWEN2 = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
}


class Lengths(NamedTuple):
    """Tokens of a prompt and of each of its two answers, and the steps of one turn (two to four seconds)."""

    prompt: int
    response: int
    steps: int

    @property
    def name(self) -> str:
        """As in the tables."""
        return f"{self.prompt}+{self.response}"


LENGTHS = (Lengths(512, 64, 1), Lengths(256, 256, 1), Lengths(64, 64, 4))


class Worker:
    """A training process that waits for its turn; see ``pace.py``.

    Args:
        python: Its interpreter.
        script: File beside this one.
        spec: ``model`` (fields of a Qwen2 configuration), ``rows``, ``prompt``, ``response``, ``pairs`` of a step,
            ``threads``, ``lr``.
    """

    def __init__(self, python: str, script: str, spec: dict[str, Any]) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": str(spec["threads"]), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        self._errors = tempfile.TemporaryFile("w+")
        command = [python, str(Path(__file__).with_name(script)), json.dumps(spec)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        self._process = subprocess.Popen(command, text=True, env=environment, **pipes)  # type: ignore[call-overload]
        self.info = self._read()

    def go(self, steps: int) -> dict[str, float]:
        """``seconds`` of so many steps and ``peak_mib`` of the process so far."""
        self._process.stdin.write(f"go {steps}\n")
        self._process.stdin.flush()
        return self._read()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.stdin.close()
        self._process.wait(60)
        self._errors.close()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(60)
            self._errors.seek(0)
            raise RuntimeError(f"{self._process.args[:2]} ended early:\n{self._errors.read()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def compare(trl_python: str, lengths: Lengths, threads: int, repeats: int) -> dict[str, Any]:
    """Pairs/s and peak memory of TRL's RewardTrainer and of ours, A B A B, 8 pairs a step."""
    spec: dict[str, Any] = {"model": QWEN2, "rows": 64, "pairs": 8, "threads": threads, "lr": 1e-5}
    spec |= {"prompt": lengths.prompt, "response": lengths.response}
    with Worker(trl_python, "trl_worker.py", spec) as theirs, Worker(sys.executable, "our_worker.py", spec) as ours:
        if theirs.info["parameters"] != ours.info["parameters"]:
            raise RuntimeError(f"not the same model: {theirs.info} and {ours.info}")
        workers = {"TRL": theirs, "ours": ours}
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
        for turn in range(repeats + 1):
            for name, worker in workers.items():
                answer = worker.go(lengths.steps)
                if turn:  # the first turn makes the optimizer's state
                    runs[name].append(answer)
    seconds = {name: [run["seconds"] for run in own] for name, own in runs.items()}
    pairs = spec["pairs"] * lengths.steps
    found: dict[str, Any] = {"lengths": lengths.name, "version": theirs.info["version"]}
    for name, own in runs.items():
        found[name] = {
            "pairs_per_s": pairs / statistics.median(seconds[name]),
            "peak_mib": own[-1]["peak_mib"],
            "rest_mib": workers[name].info["rest_mib"],
        }
    limit = sharing_limit(2, lengths.prompt / lengths.response)
    return {**found, "ratio": ratio(seconds["TRL"], seconds["ours"]), "limit": limit}
