"""Two processes of one training, as a launcher would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def run_two(script: Path, out: Path, seconds: float = 150) -> None:
    """Run ``script out`` as ranks 0 and 1 that find each other; they write ``out/log0`` and ``out/log1``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, sys.path)])
    common = {"WORLD_SIZE": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(out)],
            env={**os.environ, **common, "LOCAL_RANK": str(rank), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stdout=(out / f"log{rank}").open("w"),
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        codes = [process.wait(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0], (out / "log0").read_text()[-3000:] + (out / "log1").read_text()[-3000:]
