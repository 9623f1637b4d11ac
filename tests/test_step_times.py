"""The split of step times: exact on a clock that tests set, and in a run of a Trainer with parts that are slow."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_ixc import step_times
from lit_ixc.backbone import BackboneSource, without_lm_head
from lit_ixc.batch import ComparisonBatch
from lit_ixc.ixc25.miniature import build, tiny_config
from lit_ixc.ixc25.model import IXC25Model
from lit_ixc.layout import collate
from lit_ixc.reward import RewardModule
from lit_ixc.step_log import completes_logged_step
from lit_ixc.step_times import PARTS, StepTimes
from tests.trees import comparison, media

# 13 visual tokens, 2 of the prompt, 1 + 3 and 2 + 3 of the answers: 24 tokens in 1 comparison
BATCH = collate([comparison([10, 11], [[20], [21, 22]], images=media([(1, 1)]))], 2)


class Tiny(BackboneSource):
    def load(self, lm_head: bool) -> IXC25Model:
        return without_lm_head(build(tiny_config(), seed=0))


class Clock:
    """A clock that stands still until someone works."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def work(self, milliseconds: float) -> None:
        self.seconds += milliseconds / 1000


class Batches(Dataset[ComparisonBatch]):
    """Loading takes 7 ms a batch."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> ComparisonBatch:
        self.clock.work(7)
        return BATCH


class Slow(RewardModule):
    """Every part takes its own time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(Tiny())
        self.clock = clock

    def image_features(self, batch: ComparisonBatch) -> Tensor | None:
        self.clock.work(20)
        return super().image_features(batch)

    def build(self) -> None:
        super().build()
        self.model.model.layers[0].register_forward_hook(lambda *_: self.clock.work(100))
        self.head.register_forward_hook(lambda *_: self.clock.work(3))

    def on_after_backward(self) -> None:
        self.clock.work(1)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self.clock.work(200)
        super().backward(loss, *args, **kwargs)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.clock.work(40)

    def validation_step(self, batch: ComparisonBatch, batch_idx: int) -> Tensor:
        self.clock.work(5000)
        return super().validation_step(batch, batch_idx)


def fit(folder: Path, clock: Clock, **options: Any) -> tuple[L.Trainer, list[dict[str, float]]]:
    """Four batches, an epoch of validation after the second; what was logged, report by report."""
    logged: list[dict[str, float]] = []

    class Memory(CSVLogger):
        def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
            logged.append({name: value for name, value in metrics.items() if name.startswith("time/")})

    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=Memory(folder), callbacks=[StepTimes()], num_sanity_val_steps=1,
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False, **options,
    )  # fmt: skip
    loader = DataLoader(Batches(clock), batch_size=None)
    trainer.fit(Slow(clock), loader, DataLoader(Batches(clock), batch_size=None))
    return trainer, [values for values in logged if values]


def test_every_part_has_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(step_times, "perf_counter", clock)
    trainer, (first, second) = fit(tmp_path, clock, log_every_n_steps=2, val_check_interval=2)
    expected = {"data": 7, "vision": 20, "language": 100, "head": 3, "backward": 200, "optimizer": 40, "rest": 1}
    assert set(expected) == set(PARTS)
    for values in (first, second):  # validation (5 s a batch) is in neither
        assert {part: values[f"time/{part}"] for part in PARTS} == pytest.approx(expected, abs=1e-2)
        assert values["time/step"] == pytest.approx(371, abs=1e-2)
        assert values["time/tokens_per_second"] == pytest.approx(24 / 0.371, rel=1e-4)
        assert values["time/comparisons_per_second"] == pytest.approx(1 / 0.371, rel=1e-4)
    assert type(trainer.profiler).__name__ == "PassThroughProfiler"  # as it was


def test_accumulated_batches_are_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(step_times, "perf_counter", clock)
    _, (only,) = fit(tmp_path, clock, log_every_n_steps=2, accumulate_grad_batches=2, limit_val_batches=0)
    # two batches and one step of the optimizer: 2 (7 + 20 + 100 + 3 + 200 + 1) + 40
    assert only["time/step"] == pytest.approx(702, abs=1e-2) and only["time/optimizer"] == pytest.approx(40, abs=1e-2)
    assert only["time/comparisons_per_second"] == pytest.approx(2 / 0.702, rel=1e-4)


def test_the_clock_is_the_one_on_the_wall(tmp_path: Path) -> None:
    begin = time.perf_counter()
    _, reports = fit(tmp_path, Clock(), log_every_n_steps=1, limit_val_batches=0)
    assert len(reports) == 4 and all(values["time/language"] > 0 for values in reports)
    assert sum(values["time/step"] for values in reports) < 1000 * (time.perf_counter() - begin)


def test_nothing_is_hooked_where_nothing_is_logged(tmp_path: Path) -> None:
    callback = StepTimes()
    module = RewardModule(Tiny())
    module.configure_model()
    callback.on_train_start(L.Trainer(logger=False, log_every_n_steps=0, accelerator="cpu"), module)
    callback.on_train_batch_start(None, module, BATCH, 0)  # type: ignore[arg-type]
    assert not callback._moments and not module.model.model._forward_hooks


def test_logged_steps() -> None:
    trainer = L.Trainer(logger=False, accelerator="cpu", log_every_n_steps=3, accumulate_grad_batches=2)
    # batches 0 1 | 2 3 | 4 5 | 6 7 make the steps 1 2 3 4
    logged = [batch for batch in range(8) if completes_logged_step(trainer, batch, batch // 2 + 1)]
    assert logged == [5]
    trainer.log_every_n_steps = 0  # type: ignore[attr-defined]
    assert not completes_logged_step(trainer, 5, 3)
