"""The throughput study: both readers decode the same, the stages make the loader's batches, and the command runs."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.conversion import Options, convert
from datamodules.shards import ShardSet
from datamodules.sources import find_sources

ROWS = 4


@pytest.fixture(scope="module")
def study(request: pytest.FixtureRequest) -> Iterator[dict[str, ModuleType]]:
    """The study's modules, which import one another as a script's neighbours."""
    folder = str(Path(__file__).resolve().parents[2] / "experiments" / "data_throughput")
    sys.path.insert(0, folder)
    names = ("clocks", "inputs", "reading")
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(folder)
    for name in names:
        del sys.modules[name]


@pytest.fixture(scope="module")
def sets(study: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardSet]:
    """A converted set of each kind."""
    root = tmp_path_factory.mktemp("sets")
    for kind in ("text", "image", "video"):
        source = study["inputs"].write_rows(root / kind / f"{kind}.json", study["inputs"].KINDS[kind], ROWS)
        assert not convert(find_sources(source), root / "sets", Options()).errors
    return {kind: ShardSet(root / "sets" / kind) for kind in ("text", "image", "video")}


def _pixels(media: list[Any]) -> list[np.ndarray]:
    images = [image for item in media for image in (item if isinstance(item, list) else [item])]
    return [np.asarray(image) for image in images]


@pytest.mark.parametrize(
    ("kind", "pictures", "shape"), [("text", 0, ()), ("image", 1, (560, 560, 3)), ("video", 4, (48, 64, 3))]
)
def test_both_readers_decode_the_same(
    study: dict[str, ModuleType], sets: dict[str, ShardSet], kind: str, pictures: int, shape: tuple[int, ...]
) -> None:
    """A clip of 100 frames at 25 a second gives frames 0, 25, 50, 75; 320 x 240 fitted to 64 is 64 x 48."""
    ours = dict(study["reading"].read_ours(sets[kind], [2, 0, 3, 1]))
    floor = dict(study["reading"].read_floor(sets[kind]))
    assert list(ours) == ["row-2", "row-0", "row-3", "row-1"] and list(floor) == [f"row-{n}" for n in range(ROWS)]
    for identifier, media in ours.items():
        own, plain = _pixels(media), _pixels(floor[identifier])
        assert [image.shape for image in own] == [shape] * pictures
        assert len(own) == len(plain) and all(map(np.array_equal, own, plain))


@pytest.mark.parametrize("kind", ["text", "image", "video"])
def test_stages_make_the_batch_of_the_loader(
    study: dict[str, ModuleType], sets: dict[str, ShardSet], tmp_path: Path, kind: str
) -> None:
    reading = study["reading"]
    for processor in reading.make_processors(tmp_path, sets["text"]).values():
        loader = reading.make_loader(sets[kind], processor, ROWS, 0)
        (loaded,) = loader
        (order,) = loader.sampler
        clock = reading.StageClock()
        (walked,) = reading.walk(sets[kind], order, processor, ROWS, clock)
        assert walked.ids == loaded.ids and torch.equal(walked.input_ids, loaded.input_ids)
        for one, other in zip(walked.media, loaded.media, strict=True):
            assert one.tensors.keys() == other.tensors.keys() and bool(one.tensors) == (kind != "text")
            assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
        assert {*reading.STAGES} <= clock.keys() and all(clock[stage] > 0 for stage in reading.STAGES)
        if kind == "video":
            break  # IXC-2.5's montage of 1120-pixel frames takes long


def test_alternation_and_shares(study: dict[str, ModuleType]) -> None:
    clocks = study["clocks"]
    seen: list[str] = []
    spent = clocks.alternate({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 3)
    assert "".join(seen) == "ababab" and {name: len(runs) for name, runs in spent.items()} == {"a": 3, "b": 3}
    floor = [clocks.Spent(cpu, 9.0) for cpu in (0.8, 3.0, 1.0)]
    own = [clocks.Spent(cpu, 2 * cpu) for cpu in (1.0, 2.0, 2.0)]
    # shares 0.8, 1.5, 0.5; the median CPU time 2 s over 4 rows is 500 ms a row, by the clock twice as much
    assert clocks.summarise("s", "n", 4, own, floor) == clocks.Measurement("s", "n", 4, 500.0, 1000.0, 0.8)


def test_cpu_time_counts_children(study: dict[str, ModuleType]) -> None:
    before = study["clocks"].cpu_seconds()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.2: pass"], check=True)
    assert study["clocks"].cpu_seconds() - before >= 0.2


def test_command_writes_tables_and_figure(tmp_path: Path, repository: Path) -> None:
    script = repository / "experiments" / "data_throughput" / "run.py"
    small = "--rows 8 4 2 --large-rows 2 --synthetic-rows 64 --memory-rows 20 --repeats 1".split()
    command = [sys.executable, str(script), "--output", str(tmp_path), *small]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "Agg"})
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    counted = {(row["stage"], row["name"]): row["rows"] for row in results["speed"]}
    assert counted["convert", "text"] == 8 and counted["decode", "video, records"] == 2
    assert counted["synthesize", "level 3"] == 64 and counted["loader", "image, IXC-2.5, 2 workers"] == 2
    assert {row["stage"] for row in results["speed"] if row["share"] is not None} == {"decode"}
    assert all(row["cpu_ms"] > 0 and row["wall_ms"] > 0 for row in results["speed"])
    assert [path["rows"] for path in results["stages"]] == [8, 4, 2, 2]
    assert [(row["action"], row["rows"]) for row in results["memory"]] == [("convert", 20), ("load", 20)]
    assert all(0 < row["start"] <= row["end"] for row in results["memory"])
    assert done.stdout.count("\n|---") == 3 and (tmp_path / "throughput.png").stat().st_size > 10_000
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "throughput.png"}
