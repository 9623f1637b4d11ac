"""FSDP2 on two CPU processes: training, the consolidated checkpoint, and its scores on one process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_ixc.cli import main

SMALL = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.limit_val_batches=1"]
SMALL += ["--data.batch_size=4", "--data.samples_per_epoch=32", "--trainer.enable_progress_bar=false"]
SHARDED = {
    "trainer": {
        "devices": 2,
        "strategy": {
            "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
            "init_args": {"data_parallel_size": 2, "tensor_parallel_size": 1, "save_distributed_checkpoint": False},
        },
    }
}


@pytest.mark.slow
def test_two_ranks_train_one_model(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["synthesize", "--output", str(tmp_path / "corpus"), "--rows", "140", "--heldout-rows", "42"]) == 0
    (tmp_path / "sharded.yaml").write_text(yaml.safe_dump(SHARDED))
    root = ["--trainer.default_root_dir", str(tmp_path / "run"), "--data.data_root", str(tmp_path / "corpus" / "train")]
    sft, reward = (str(repository / "configs" / "run" / f"quickstart_{stage}.yaml") for stage in ("sft", "reward"))
    assert main(["fit", "--config", sft, *root, *SMALL]) == 0
    command = [sys.executable, "-m", "lit_ixc"]
    sharded = [*command, "fit", "--config", reward, "--config", str(tmp_path / "sharded.yaml"), *root, *SMALL]
    done = subprocess.run(sharded, cwd=repository, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    checkpoint = tmp_path / "run" / "reward" / "checkpoints" / "last.ckpt"
    test = [*command, "test", "--config", reward, *root, "--ckpt_path", str(checkpoint)]
    scored = subprocess.run(test, cwd=repository, capture_output=True, text=True, timeout=600)
    assert scored.returncode == 0, scored.stderr[-3000:]
    assert re.search(r"^all +140 ", scored.stdout, flags=re.MULTILINE)
