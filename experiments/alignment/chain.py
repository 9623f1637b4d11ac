"""The stages of one seed: which command makes what, run one after the other and never twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

CLI = ("-m", "lit_ixc")
REPOSITORY = Path(__file__).resolve().parents[2]
SETS = ("image/general/scenes", "image/text_rich/forms", "image/math/diagrams", "video/general/motion")
SETS += ("text/instruction_following/constraints", "text/safety/requests")
METHODS = ("ppo", "rloo", "grpo", "dpo")


class Stage(NamedTuple):
    """A step of the chain.

    Args:
        name: How it is called.
        folder: Where its log and its mark lie.
        command: Arguments of Python; it runs in the repository.
    """

    name: str
    folder: Path
    command: list[str]

    @property
    def mark(self) -> Path:
        """Written when the stage is done; it holds the seconds."""
        return self.folder / f"{self.name}.done"

    @property
    def log(self) -> Path:
        """What the stage says."""
        return self.folder / f"{self.name}.log"

    def run(self, cache: Path) -> None:
        """Run it on one core, unless it was done before.

        Raises:
            RuntimeError: The command failed.
        """
        if self.mark.is_file():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache), "MPLBACKEND": "Agg"}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        start = time.perf_counter()
        with self.log.open("w") as log:
            command = [sys.executable, *self.command]
            process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT)
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{self.name} failed:\n{self.log.read_text()[-2000:]}")
        self.mark.write_text(f"{time.perf_counter() - start:.1f} {used.ru_utime + used.ru_stime:.1f}\n")

    def seconds(self) -> tuple[float, float]:
        """How long it took by the clock, and its CPU time."""
        wall, cpu = map(float, self.mark.read_text().split())
        return wall, cpu


def corpus(output: Path, rows: int, heldout_rows: int) -> Stage:
    """The corpus that all seeds share."""
    sizes = ["--rows", str(rows), "--heldout-rows", str(heldout_rows)]
    command = [*CLI, "synthesize", "--output", str(output / "corpus"), *sizes, "--sets", *SETS]
    return Stage("corpus", output, command)


def stages(output: Path, seed: int, methods: Sequence[str], quick: bool = False) -> list[Stage]:
    """What one seed does, in order.

    Args:
        output: Folder of the study.
        seed: Of weights, order and samples.
        methods: What is trained from the SFT policy.
        quick: Two steps of each training.
    """
    folder, data = output / f"seed{seed}", output / "corpus"
    few = ["--trainer.max_steps", "2"] if quick else []
    common = ["--trainer.default_root_dir", str(folder), "--seed_everything", str(seed)]
    common += ["--trainer.enable_progress_bar", "false", *few]
    export = str(folder / "sft" / "export")
    policy = [f"--policy.init_args.{part}.init_args.path={export}" for part in ("backbone", "processor")]

    def fit(name: str, root: Path) -> Stage:
        config = str(REPOSITORY / "configs" / "run" / f"alignment_{name}.yaml")
        return Stage(name, folder, [*CLI, "fit", "--config", config, "--data.data_root", str(root), *common])

    def pair(name: str, split: str) -> Stage:
        config = str(REPOSITORY / "configs" / "pair" / "alignment.yaml")
        places = ["--data_root", str(data / split), "--output", str(folder / name)]
        return Stage(name, folder, [*CLI, "pair", "--config", config, *places, "--seed", str(seed), *policy])

    chain = [
        fit("sft", data / "train"),
        pair("pairs", "train"),
        pair("heldout_pairs", "heldout"),
        fit("reward", folder / "pairs"),
        *(fit(name, folder / "pairs" if name == "dpo" else data / "train") for name in methods),
    ]
    script = str(Path(__file__).with_name("evaluate.py"))
    arguments = ["--seed-folder", str(folder), "--heldout", str(data / "heldout"), "--methods", *methods]
    return [*chain, Stage("evaluate", folder, [script, *arguments, *(["--quick"] if quick else [])])]
