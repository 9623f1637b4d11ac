"""The throughput study: the cost model counts what runs, all modes compute the same, and the commands run."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "throughput"
NAMES = ("bench", "cases", "cost", "engine", "measure", "pace", "peers", "report", "split")
aten = torch.ops.aten


@pytest.fixture(scope="module")
def study() -> Iterator[dict[str, ModuleType]]:
    """The study's modules, which import one another as a script's neighbours."""
    sys.path.insert(0, str(FOLDER))
    yield {name: importlib.import_module(name) for name in NAMES}
    sys.path.remove(str(FOLDER))
    for name in NAMES:
        del sys.modules[name]


@pytest.fixture(scope="module")
def engine(study: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The miniature."""
    config = study["cases"].model_config("miniature")
    return study["engine"].Engine(config, torch.device("cpu"), folder=tmp_path_factory.mktemp("features"))


def test_loads_by_hand(study: dict[str, ModuleType]) -> None:
    """P = 3 with answers 2 and 1, and P = 2 with answers 1 and 1, in which 1 token is visual, of 4 views."""
    cost = study["cost"]
    shapes = [cost.Shape(3, (2, 1)), cost.Shape(2, (1, 1), visual=1, views=4)]
    # lengths 5, 4, 3, 3: triangles 15 + 10 + 6 + 6; padded to 5: 4 * 15
    assert cost.separate_load(shapes, padded=False) == cost.Load(tokens=15, pairs=37, visual=2, views=8)
    assert cost.separate_load(shapes, padded=True) == cost.Load(tokens=20, pairs=60, visual=2, views=8)
    # 3+2+1 and 2+1+1; pairs 6 + (6+3) + (3+1) and 3 + (2+1) + (2+1)
    assert cost.tree_load(shapes) == cost.Load(tokens=10, pairs=28, visual=1, views=4)
    assert cost.tree_load(shapes, cached=True) == cost.Load(tokens=10, pairs=28, visual=1, views=0)


def test_limits_by_hand(study: dict[str, ModuleType]) -> None:
    """K(p+1) / (p+K): 2*5/6, 2*17/18, 16*17/32; the lengths of the grid have the ratios that they claim."""
    cost, cases = study["cost"], study["cases"]
    limits = [cost.sharing_limit(k, p) for k, p in ((2, 4), (2, 16), (16, 16), (1, 4))]
    assert limits == pytest.approx([1.6667, 1.8889, 8.5, 1.0], abs=1e-4)
    for ratio, (prompt, response) in cases.LENGTHS.items():
        assert prompt == ratio * response
        case = cases.text_case("miniature", 16, ratio)
        tokens = case.load(cases.PADDED).tokens / case.load(cases.TREE).tokens
        assert tokens == pytest.approx(cost.sharing_limit(16, ratio))


def test_flops_of_a_step(study: dict[str, ModuleType]) -> None:
    """Forward 10 + 5 of the language and 3 of the vision, which has no backward pass: 3 * 15 + 3, 4 * 15 + 3, 18."""
    cost = study["cost"]
    forward = cost.Flops(10.0, 5.0, 3.0)
    assert cost.step_flops(forward, training=True) == 48
    assert cost.step_flops(forward, training=True, checkpointing=True) == 63
    assert cost.step_flops(forward, training=False) == forward.total == 18


@pytest.mark.parametrize("kind", ["text", "image"])
def test_cost_model_counts_what_runs(study: dict[str, ModuleType], engine: Any, kind: str) -> None:
    """The FLOPs of matrix products and convolutions that PyTorch counts are those of the cost model."""
    cases, cost = study["cases"], study["cost"]
    case = cases.text_case("miniature", 2, 4) if kind == "text" else cases.image_case("miniature", 2, 2)
    for mode in case.modes:
        supply = engine.prepare(case, mode)
        with FlopCounterMode(display=False) as counter:
            engine.score(supply, case, mode)
        counted = counter.get_flop_counts()["Global"]
        products = sum(counted.get(op, 0) for op in (aten.mm, aten.addmm, aten.convolution))
        load = case.load(mode)
        forward = cost.forward_flops(engine.config, load)
        vision = engine.config.vision_config
        # The counter knows attention by other names; (8*8 + 1)^2 pairs in each of the tower's layers.
        of_attention = load.views * vision.num_hidden_layers * 4 * 65**2 * vision.hidden_size
        head = 2 * engine.config.hidden_size * case.responses * len(case.comparisons)
        assert products == forward.linear + forward.vision - of_attention + head, mode.name


def test_modes_run_what_they_claim(study: dict[str, ModuleType], engine: Any) -> None:
    """Positions that pass the decoder, and views that pass the vision tower, are those of the cost model."""
    cases = study["cases"]
    case = cases.image_case("miniature", 2, 2)
    model = engine.module.model
    seen: dict[str, int] = {}

    def count(name: str, tensor: torch.Tensor) -> None:
        seen[name] = seen.get(name, 0) + (len(tensor) if name == "views" else tensor.shape[:2].numel())

    hooks = [
        model.model.register_forward_pre_hook(lambda _, inputs: count("tokens", inputs[0])),
        model.vit.register_forward_pre_hook(lambda _, inputs: count("views", inputs[0])),
    ]
    for mode in case.modes:
        supply = engine.prepare(case, mode)
        seen.clear()
        engine.score(supply, case, mode)
        load = case.load(mode)
        assert (seen["tokens"], seen.get("views", 0)) == (load.tokens, load.views), mode.name
    for hook in hooks:
        hook.remove()
    assert [case.load(mode).views for mode in case.modes] == [18, 18, 9, 0]  # 1 + 1*1 and 1 + 2*3, twice


def test_modes_agree_and_a_wrong_one_is_not_timed(study: dict[str, ModuleType], engine: Any) -> None:
    cases, bench = study["cases"], study["bench"]
    case = cases.image_case("miniature", 2, 2)
    gaps = bench.Bench(engine, 1, tolerance=1e-4).check(case)
    assert list(gaps) == [mode.name for mode in cases.MODES] and max(gaps.values()) < 1e-5
    with pytest.raises(RuntimeError, match="scores are off by"):
        bench.Bench(engine, 1, tolerance=-1.0).check(case)


def test_parts_of_a_step(study: dict[str, ModuleType], engine: Any) -> None:
    """Every part takes time, and without a watch the steps leave no marks."""
    cases, split = study["cases"], study["split"]
    case = cases.text_case("miniature", 2, 4)
    supply = engine.prepare(case, cases.TREE)
    clock = split.StepClock(engine.device)
    with engine.watched(clock):
        parts = split.medians(lambda: engine.train(supply, case, cases.TREE), clock, 1)
    assert list(parts) == list(split.PARTS) and all(seconds > 0 for seconds in parts.values())
    assert parts["language"] > parts["head"]
    engine.train(supply, case, cases.TREE)
    assert not clock.marks


def test_clock_adds_stretches(study: dict[str, ModuleType]) -> None:
    """Marks at 0, 2, 5, 6 and 10 s: data 2, language 3 + 4, head 1."""
    clock = study["split"].StepClock(torch.device("cpu"))
    clock.marks = [("data", 0.0), ("data", 2.0), ("language", 5.0), ("head", 6.0), ("language", 10.0)]
    assert clock.read() == {"data": 2.0, "vision": 0.0, "language": 7.0, "head": 1.0, "optimizer": 0.0}
    assert not clock.marks


def test_alternation_ratio_and_memory(study: dict[str, ModuleType]) -> None:
    measure, device = study["measure"], torch.device("cpu")
    seen: list[str] = []
    seconds = measure.alternate({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 3, device, turn=0)
    assert "".join(seen) == "ababab" and [len(runs) for runs in seconds.values()] == [3, 3]
    assert measure.ratio([2.0, 9.0, 4.0], [1.0, 1.0, 2.0]) == 2.0  # of 2, 9 and 2

    def action() -> None:
        first = torch.zeros(2**20)  # 4 MiB
        second = first + 1  # 8 MiB in all, the highest
        del first
        third = second * 2
        del second, third
        torch.zeros(2**20)

    assert measure.peak_mib(action, device) == pytest.approx(8, abs=0.01)


def test_pace_counts_steps(tmp_path: Path) -> None:
    """Four steps of 50 ms take 0.2 s, one takes less; what the loop prints is no answer; the end of input ends it."""
    loop = "import time; from pace import Pace; pace = Pace(2, name='x')\nwhile True: pace.boundary(); print('noise'); "
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(FOLDER)!r}); {loop}time.sleep(0.05)"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    output, _ = process.communicate("go 4\ngo 1\n", timeout=60)
    info, four, one = (json.loads(line) for line in output.splitlines())
    assert info["name"] == "x" and four["seconds"] >= 0.2 and 0.05 <= one["seconds"] < 0.2
    assert process.returncode == 0


def test_one_thread_is_timed_by_its_cpu(study: dict[str, ModuleType]) -> None:
    """Sleeping 0.1 s takes no CPU time."""
    now, wall = study["pace"].clock(1), study["pace"].clock(2)
    start = now(), wall()
    time.sleep(0.1)
    assert now() - start[0] < 0.05 and wall() - start[1] >= 0.1


def test_worker_takes_turns(study: dict[str, ModuleType]) -> None:
    """Ours trains a step when told to, and says its memory; both sides of the comparison draw the same pairs."""
    model = {**study["peers"].QWEN2, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    spec = {"model": model, "rows": 8, "prompt": 6, "response": 2, "pairs": 4, "threads": 1, "lr": 1e-5}
    pairs = study["pace"].random_pairs(spec)
    assert [tuple(map(len, pair)) for pair in pairs] == [(6, 2, 2)] * 8 and pairs == study["pace"].random_pairs(spec)
    with study["peers"].Worker(sys.executable, "our_worker.py", spec) as worker:
        # embedding 1024*32; q, k, v with biases and o; 3 matrices; 3 norms; head
        layer = (32 + 1) * 32 + 2 * (32 + 1) * 16 + 32 * 32 + 3 * 32 * 64
        assert worker.info["parameters"] == 1024 * 32 + layer + 3 * 32 + 32
        first, second = worker.go(3), worker.go(1)  # 4 steps are 2 epochs
    assert first["seconds"] > 0 and second["peak_mib"] >= first["peak_mib"] > worker.info["rest_mib"] > 100


def test_worker_that_fails_says_why(study: dict[str, ModuleType]) -> None:
    with pytest.raises(RuntimeError, match="(?s)ended early.*can't open file.*no_such_worker.py"):
        study["peers"].Worker(sys.executable, "no_such_worker.py", {"threads": 1})


def test_report_of_given_numbers(study: dict[str, ModuleType]) -> None:
    row = {"model": "20M", "kind": "text 4:1", "ratio": 4, "responses": 2, "stage": "training", "mode": "prefix tree"}
    row |= {"comparisons_per_s": 12.34, "tokens_per_s": 4321.0, "peak_mib": 99.96, "gflops": 50.0}
    row |= {"speedup": 1.59, "speedup_in_flops": 1.64}
    parts = {"data": 0.001, "vision": 0.002, "language": 0.09, "head": 0.001, "optimizer": 0.006}
    split = {"model": "20M", "mode": "prefix tree + feature cache", "seconds": parts}
    sides = {"pairs_per_s": 2.0, "peak_mib": 2410.0}
    peer = {"lengths": "512+64", "TRL": sides, "ours": sides, "ratio": 1.6, "limit": 1.8}
    machine = {"matmul_gflops": 200.0}
    text = study["report"].report({"rows": [row], "split": [split], "peer": [peer], "machine": machine})
    assert "| 20M | training | text 4:1 | 1.59 (1.64) |" in text
    assert "| 12.3 | 4321 | 100 | 1.59 (1.64) | 25% |" in text
    assert "| 20M: training, text 4:1, K = 2 | at least 1.6x | 1.59x | missed |" in text
    assert "| under 2% | 2.0% | missed |" in text  # 2 of 100 ms
    assert "| 8M Qwen2: training, 512+64, TRL | at least 1.6x | 1.60x | reached |" in text


def test_command_writes_tables_and_figure(tmp_path: Path) -> None:
    done = _run("run.py", "--output", str(tmp_path), "--quick", "--threads", "1")
    results = json.loads((tmp_path / "results.json").read_text())
    rows = results["rows"]
    assert {(row["kind"], row["responses"]) for row in rows} == {
        *(("text 4:1", count) for count in (2, 4)),
        ("images, ragged", 2),
    }
    assert len(rows) == 2 * (2 * 3 + 4)  # training and scoring; text has three modes, images four
    assert all(row["seconds"] > 0 and row["peak_mib"] > 0 and row["score_gap"] < 1e-4 for row in rows)
    padded = [row for row in rows if row["mode"] == "separate padded"]
    assert all(row["speedup"] == row["speedup_in_flops"] == 1 for row in padded)
    assert [row["mode"] for row in results["split"]][-1] == "prefix tree + feature cache"
    assert results["peer"] == [] and "peer: left out" in done.stderr
    assert done.stdout.count("\n|---") == 4 and (tmp_path / "throughput.png").stat().st_size > 10_000
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "throughput.png"}


@pytest.mark.slow
def test_gpu_command_runs_on_a_cpu(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--repeats", "1", "--trace", str(tmp_path / "trace")]
    done = _run("gpu.py", "--output", str(tmp_path), *options)
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert {*results} == {"machine", "steps", "kernels", "limit", "split", "sync", "trace"}
    kernels = {row["kernel"]: row for row in results["kernels"]}
    assert "NVIDIA" in kernels["xformers"]["error"] and "backward on CPU" in kernels["flex"]["error"]
    assert kernels["sdpa"]["gap"] < 1e-5 and kernels["dense"]["seconds"] > 0
    assert results["sync"] == [{"steps": 4, "waits": None}]
    assert (tmp_path / "trace" / "step-cpu.json.gz").is_file() and "no operation waits (4 steps)" in done.stdout


def _run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / script), *arguments]
    environment = {**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done
