"""The study on a GPU: the 7B IXC-2.5 with random weights in bf16, gradient checkpointing, 560-pixel pictures.

python experiments/throughput/gpu.py --output DIR --parts steps
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

# Before torch is imported; the last one silences a line for each profile.
os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", KINETO_LOG_LEVEL="99")

import lightning as L
import torch
from bench import Bench
from cases import TREE, Case, batch, image_case, long_case, model_config, text_case
from cost import forward_flops, step_flops
from engine import Engine
from measure import alternate, matmul_ceiling, peak_mib
from report import gpu_report
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from lit_ixc.attention import attention_inputs

PARTS = ("steps", "kernels", "limit", "split", "sync", "trace")
KERNELS = ("xformers", "sdpa", "flex", "dense")
GRIDS = ((1, 1), (2, 3), (3, 3), (1, 2))


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder of gpu.json; parts run later are added to it")
    add(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu: the same with the miniature",
    )
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="parts of the study (default: all)")
    add("--repeats", type=int, default=3, metavar="N", help="runs of each action; medians count (default: %(default)s)")
    text = "folder of the profiler's trace, some hundred MB: keep it out of git (default: %(default)s)"
    add("--trace", type=Path, default=Path("runs/throughput"), help=text)
    return parser


class GpuStudy:
    """The parts of the study.

    Args:
        device: Where it runs.
        repeats: Runs of each action.
        work: Folder of the feature cache.
    """

    def __init__(self, device: torch.device, repeats: int, work: Path) -> None:
        self.device, self.repeats, self.large = device, repeats, device.type == "cuda"
        self.model = "7B" if self.large else "miniature"
        dtype = torch.bfloat16 if self.large else torch.float32
        self.ceiling = matmul_ceiling(device, dtype, 8192 if self.large else 512)
        self.engine = Engine(model_config(self.model), device, dtype, checkpointing=True, folder=work)
        # Scores of about 1 in bf16 differ in the second digit; that the modes are exact is tested in fp32.
        self.bench = Bench(self.engine, repeats, tolerance=0.2 if self.large else 1e-4)
        self.images = image_case(self.model, 2, len(GRIDS), GRIDS)

    def steps(self) -> list[dict[str, Any]]:
        """All modes with pictures, and text at the ratios that have a target."""
        cases = [self.images, *(text_case(self.model, k, p) for k, p in ((2, 4), (2, 16), (16, 16)))]
        rows = []
        for case in cases:
            rows += self.bench.rows([case])
            self._release()
        return rows

    def kernels(self) -> list[dict[str, Any]]:
        """Each kernel: attention alone over the packed trees, and whole training steps."""
        found = []
        for kernel in KERNELS:
            row: dict[str, Any] = {"kernel": kernel}
            try:
                row |= self._attention(kernel) if kernel != "dense" else {}
                row |= self._step(kernel)
            except Exception as error:  # noqa: BLE001 - a kernel that fails is a result
                row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            found.append(row)
            self._release()
        self.engine.module.attention = "auto"
        return found

    def _attention(self, kernel: Any) -> dict[str, float]:
        """Milliseconds of one layer's attention, and its largest difference from the segments' in fp32."""
        config, dtype = self.engine.config, self.engine.dtype
        made = batch(self.images.comparisons, TREE).to(self.device)
        rows, width = made.input_ids.shape
        heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
        generator = torch.Generator(self.device).manual_seed(0)
        q, k, v = (
            torch.randn(rows, n, width, config.head_dim, generator=generator, device=self.device, dtype=dtype)
            for n in heads
        )
        tree = attention_inputs(made, kernel, dtype)["tree"]
        exact = attention_inputs(made, "sdpa", torch.float32)["tree"](q.float(), k.float(), v.float(), None, 0.0)
        gap = float((tree(q, k, v, None, 0.0).float() - exact).abs().max())
        for tensor in (q, k, v):
            tensor.requires_grad_()

        def both() -> None:
            torch.autograd.grad(tree(q, k, v, None, 0.0).sum(), (q, k, v))

        def forward() -> None:
            with torch.no_grad():
                tree(q, k, v, None, 0.0)

        actions = {"forward_ms": forward, "both_ms": both}
        alternate(actions, 3, self.device)
        seconds = alternate(actions, 10, self.device)
        return {name: 1000 * statistics.median(own) for name, own in seconds.items()} | {"gap": gap}

    def _step(self, kernel: Any) -> dict[str, Any]:
        """A training step under a kernel."""
        self.engine.module.attention = kernel
        step = partial(self.engine.train, self.engine.prepare(self.images, TREE), self.images, TREE)
        peak = peak_mib(step, self.device)
        seconds = statistics.median(alternate({kernel: step}, self.repeats, self.device)[kernel])
        return {**self.bench.describe(self.images, "training", TREE, seconds), "peak_mib": peak}

    def limit(self) -> list[dict[str, Any]]:
        """Pictures of 9 tiles and sequences of 8k tokens: training goes through, and how much memory it takes."""
        case = long_case(self.model, 8192 if self.large else 512)
        step = partial(self.engine.train, self.engine.prepare(case, TREE), case, TREE)
        step()
        peak = peak_mib(step, self.device)
        seconds = statistics.median(alternate({"step": step}, self.repeats, self.device)["step"])
        load = case.load(TREE)
        forward = forward_flops(self.engine.config, load)
        with_recomputing = step_flops(forward, training=True, checkpointing=True) / seconds
        row = {**self.bench.describe(case, "training", TREE, seconds), "peak_mib": peak, "tree_tokens": load.tokens}
        if self.large:
            row["total_mib"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        return [{**row, "hardware_gflops": with_recomputing / 1e9}]

    def split(self) -> list[dict[str, Any]]:
        """Where the time of a step goes."""
        return self.bench.split(self.images)

    def sync(self) -> list[dict[str, Any]]:
        """Steps under Lightning's Trainer in which no operation may make the host wait for the device."""
        del self.engine.optimizer  # the Trainer makes its own
        self._release()
        module, loader = self.engine.module, _loader(self.engine, self.images)
        trainer = L.Trainer(
            accelerator="gpu" if self.large else "cpu",
            devices=1,
            max_steps=4,
            max_epochs=-1,
            log_every_n_steps=10**6,  # a step that logs reads its numbers, and so waits
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[NoWaiting(self.device)],
        )
        try:
            trainer.fit(module, loader)
        except RuntimeError as error:
            if "synchronizing" not in str(error):
                raise
            torch.cuda.set_sync_debug_mode("default")
            return [{"steps": trainer.global_step, "waits": str(error).splitlines()[0]}]
        return [{"steps": trainer.global_step, "waits": None}]

    def trace(self, folder: Path) -> list[dict[str, Any]]:
        """A profile of one training step; its trace goes to ``folder``, what takes longest into the results."""
        step = partial(self.engine.train, self.engine.prepare(self.images, TREE), self.images, TREE)
        step()
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.large else [])]
        with profile(activities=activities) as profiler:
            step()
            if self.large:
                torch.cuda.synchronize()
        folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(folder / f"step-{self.device.type}.json.gz"))
        name = "self_device_time_total" if self.large else "self_cpu_time_total"
        events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, name))
        total = sum(getattr(event, name) for event in events)
        return [
            {"name": event.key[:80], "ms": getattr(event, name) / 1000, "share": getattr(event, name) / total}
            for event in events[:20]
        ]

    def _release(self) -> None:
        gc.collect()
        if self.large:
            torch.cuda.empty_cache()


class NoWaiting(L.Callback):
    """Makes an operation that waits for the GPU an error from the second step on: the first makes what lasts."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Begin to watch."""
        if self.device.type == "cuda" and trainer.global_step > 0:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, *args: Any) -> None:
        """End of the step."""
        if self.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def _loader(engine: Engine, case: Case) -> DataLoader[Any]:
    """The same batch again and again, in page-locked memory."""
    supply = engine.prepare(case, TREE)
    made = partial(batch, mode=TREE)
    return DataLoader(
        [supply()] * 8,  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=made,
        pin_memory=engine.device.type == "cuda",
    )


@contextmanager
def _timed(name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the chosen parts, add them to gpu.json, print the tables."""
    args = make_parser().parse_args(argv)
    torch.manual_seed(0)
    device = torch.device(args.device)
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "gpu.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="lit-ixc-throughput-") as work:
        with _timed("model"):
            study = GpuStudy(device, args.repeats, Path(work))
        name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
        results["machine"] = {"device": name, "torch": torch.__version__, "matmul_gflops": study.ceiling / 1e9}
        parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "steps": study.steps,
            "kernels": study.kernels,
            "limit": study.limit,
            "split": study.split,
            "trace": partial(study.trace, args.trace),
            "sync": study.sync,  # last: it takes the optimizer away
        }
        for part, run in parts.items():
            if part in args.parts:
                with _timed(part):
                    results[part] = run()
                path.write_text(json.dumps(results, indent=2) + "\n")  # what is measured stays, whatever comes next
    print(gpu_report(results))


if __name__ == "__main__":
    main()
