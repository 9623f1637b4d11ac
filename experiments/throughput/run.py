"""What does one prompt for K responses save, in time and memory, against a row for each response? See README.md.

python experiments/throughput/run.py --output DIR --trl-python PYTHON
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Before torch is imported; the last one silences a line for each profile.
os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", KINETO_LOG_LEVEL="99")

import torch
from bench import Bench
from cases import RESPONSES, Case, image_case, model_config, text_case
from engine import Engine
from figure import draw
from measure import matmul_ceiling
from peers import LENGTHS, compare
from report import report

STUDIES = ("grid", "images", "split", "peer")
TOLERANCE = 1e-4


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder of results.json and throughput.png")
    add("--trl-python", metavar="PYTHON", help="interpreter of the peer's environment; without it the peer is left out")
    add("--threads", type=int, default=min(2, os.cpu_count() or 1), metavar="N", help="of torch (default: %(default)s)")
    add("--repeats", type=int, default=5, metavar="N", help="runs of each action; medians count (default: %(default)s)")
    add("--models", nargs="+", choices=("miniature", "20M"), default=("miniature", "20M"), help="(default: both)")
    add("--responses", type=int, nargs="+", default=RESPONSES, metavar="K", help="(default: 1 2 4 16 64)")
    add("--studies", nargs="+", choices=STUDIES, default=STUDIES, help="parts of the study (default: all)")
    add("--quick", action="store_true", help="the miniature alone, few cases, once: to see that all of it runs")
    return parser


def grid_cases(model: str, responses: Sequence[int], quick: bool) -> list[Case]:
    """Text at all ratios and numbers of responses."""
    return [text_case(model, k, p) for p in ((4,) if quick else (1, 4, 16)) for k in responses]


def image_cases(model: str, quick: bool) -> list[Case]:
    """A picture for each prompt, ragged lengths."""
    return [image_case(model, 2, 2)] if quick else [image_case(model, 2, 8), image_case(model, 16, 2)]


def run(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The chosen parts; ``work`` keeps the feature caches."""
    device = torch.device("cpu")
    results: dict[str, Any] = {"rows": [], "split": [], "peer": [], "machine": machine(args.threads)}
    ceilings = [matmul_ceiling(device, torch.float32, 1024)]
    for model in args.models:
        bench = Bench(Engine(model_config(model), device, folder=work), args.repeats, TOLERANCE)
        results["machine"][f"parameters of {model}"] = bench.engine.parameters
        studies: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "grid": lambda: bench.rows(grid_cases(model, args.responses, args.quick)),  # noqa: B023
            "images": lambda: bench.rows(image_cases(model, args.quick)),  # noqa: B023
            "split": lambda: bench.split(image_cases(model, args.quick)[0]),  # noqa: B023
        }
        for name, study in studies.items():
            if name in args.studies:
                start = time.perf_counter()
                results["split" if name == "split" else "rows"] += study()
                print(f"{model}, {name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        ceilings.append(matmul_ceiling(device, torch.float32, 1024))
    results["machine"]["matmul_gflops"] = max(ceilings) / 1e9
    if "peer" in args.studies and args.trl_python is None:
        print("peer: left out, since there is no --trl-python", file=sys.stderr)
    elif "peer" in args.studies:
        for lengths in LENGTHS[-1:] if args.quick else LENGTHS:
            results["peer"].append(compare(args.trl_python, lengths, args.threads, args.repeats))
            print(f"peer, {lengths.name}: done", file=sys.stderr)
    return results


def machine(threads: int) -> dict[str, Any]:
    """On what it ran."""
    return {
        "cpus": os.cpu_count(),
        "threads": threads,
        "clock": "CPU time" if threads == 1 else "wall",
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": torch.__version__,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the chosen parts, write results.json and throughput.png, print the tables."""
    args = make_parser().parse_args(argv)
    if args.quick:
        args.models, args.responses, args.repeats = ("miniature",), (2, 4), 1
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lit-ixc-throughput-") as work:
        results = run(args, Path(work))
    (args.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    draw(results, args.output / "throughput.png")
    print(report(results))


if __name__ == "__main__":
    main()
