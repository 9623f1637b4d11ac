"""What do PPO, RLOO, GRPO and DPO make of an SFT policy, measured by a truth they do not see? See README.md.

python experiments/alignment/run.py --output DIR
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from chain import METHODS, Stage, corpus, stages
from figure import draw
from report import report


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    text = "folder of the trainings, results.json and alignment.png; what is done there is not done again"
    add("--output", type=Path, required=True, help=text)
    add("--seeds", type=int, nargs="+", default=(0, 1, 2), metavar="SEED", help="(default: 0 1 2)")
    add("--jobs", type=int, default=2, metavar="N", help="seeds at a time, each on a core (default: %(default)s)")
    add("--methods", nargs="*", choices=METHODS, default=METHODS, help="(default: all)")
    add("--rows", type=int, default=4800, help="training pairs of the corpus (default: %(default)s)")
    add("--heldout-rows", type=int, default=800, help="prompts that are evaluated (default: %(default)s)")
    add("--quick", action="store_true", help="two steps of everything, few prompts: to see that all of it runs")
    return parser


def run_seed(output: Path, seed: int, methods: Sequence[str], quick: bool) -> dict[str, Any]:
    """All stages of a seed; gives its evaluation and the times of its stages."""
    chain = stages(output, seed, methods, quick)
    for stage in chain:
        start = time.perf_counter()
        stage.run(output / "cache")
        print(f"seed {seed}, {stage.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    found = json.loads((output / f"seed{seed}" / "evaluation.json").read_text())
    return {"seed": seed, "seconds": {stage.name: stage.seconds() for stage in chain}, **found}


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing; write results.json and the figure; print the tables."""
    args = make_parser().parse_args(argv)
    output: Path = args.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    shared: Stage = corpus(output, *((72, 24) if args.quick else (args.rows, args.heldout_rows)))
    shared.run(output / "cache")
    with ThreadPoolExecutor(args.jobs) as pool:
        tasks = [pool.submit(run_seed, output, seed, args.methods, args.quick) for seed in args.seeds]
        found = [task.result() for task in tasks]
    machine = {"cpus": os.cpu_count(), "jobs": args.jobs}
    results = {"machine": machine, "methods": list(args.methods), "seeds": found}
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results, output / "alignment.png")
    print(report(results))


if __name__ == "__main__":
    main()
