"""A training step never makes the host wait for the device.

Without a GPU the step runs on PyTorch's meta device, whose tensors have no data: what would read one fails, wherever it
hides. What the meta device lets pass although a GPU would wait for it, the dispatch mode ``NoWaiting`` refuses.
``attention: separate`` is for comparison and left out: transformers looks whether the rows of its mask have padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from native.miniatures import FAMILIES, VISION_FAMILIES, miniature, picture, question
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel

from lit_ixc.adapters import Lora
from lit_ixc.backbone import BackboneSource, refusal, without_lm_head
from lit_ixc.batch import ComparisonBatch
from lit_ixc.callbacks import ReportSetLosses
from lit_ixc.heads import AttentionPooling, LinearHead, MLPHead, ResponseMean, RewardHead, RewardToken
from lit_ixc.ixc25.miniature import build, tiny_config
from lit_ixc.ixc25.model import IXC25Model
from lit_ixc.layout import collate
from lit_ixc.losses import BradleyTerry, PlackettLuce, ScoreRegression
from lit_ixc.module import BackboneModule
from lit_ixc.records import text_message
from lit_ixc.reward import RewardModule
from lit_ixc.sft import SFTModule
from lit_ixc.step_log import log_training
from lit_ixc.step_times import StepTimes
from tests.trees import REWARD_TOKEN, comparison, media, random_comparison

aten = torch.ops.aten
LOGGED = {"train/loss": 1.0, "train/image_words": 1.0}  # the first batch is behind
#: Operations whose result has a size, or a value on the host, that only the data tell.
READS = {
    aten._local_scalar_dense,
    aten.bincount,
    aten.equal,
    aten.is_nonzero,
    aten.masked_select,
    aten.nonzero,
    aten.nonzero_numpy,
    aten._unique,
    aten._unique2,
    aten.unique_consecutive,
    aten.unique_dim,
    aten.unique_dim_consecutive,
}
COPIES = {aten._to_copy, aten.copy, aten.copy_}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}


class Waits(Exception):
    """The host would wait for the device here."""


class NoWaiting(TorchDispatchMode):
    """Refuses what waits on a GPU; tensors on the meta device stand for those of the GPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operation, tensors = func.overloadpacket, [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        devices = {tensor.device.type for tensor in tensors if tensor.ndim or operation in COPIES}
        if operation is aten._to_copy and kwargs.get("device") is not None:
            devices.add(kwargs["device"].type)
        if operation in COPIES:
            pageable = not kwargs.get("non_blocking") and not (operation is aten.copy_ and args[2:] == (True,))
            if len(devices) > 1 and pageable:
                raise Waits(f"{func}: a copy between host and device that waits")
        elif "meta" in devices:
            if operation in READS or (operation is aten.repeat_interleave and kwargs.get("output_size") is None):
                raise Waits(f"{func}: reads the device")
            if operation in INDEXING and any(t.dtype in (torch.bool, torch.uint8) for t in tree_leaves(args[1])):
                raise Waits(f"{func}: a mask as index counts on the device")
            if len(devices) > 1:
                raise Waits(f"{func}: a tensor of the host among those of the device")
        return func(*args, **kwargs)


class NoLiterals(TorchFunctionMode):
    """Refuses tensors of the device that are made of numbers of the host; the other mode does not see them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == "meta":
            raise Waits(f"torch.{func.__name__}: copies from the host")
        if func is Tensor.new_tensor and args[0].is_meta:
            raise Waits("new_tensor: copies from the host")
        return func(*args, **kwargs)


@contextmanager
def no_waiting() -> Iterator[None]:
    with NoWaiting(), NoLiterals():
        yield


def device(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    "wait",
    [
        lambda: device().item(),
        lambda: bool(device(1) > 0),
        lambda: int(device(dtype=torch.int64)),
        lambda: device(2).tolist(),
        lambda: device(2).cpu(),
        lambda: device(2).to("cpu", non_blocking=True),
        lambda: device(2).nonzero(),
        lambda: torch.where(device(2) > 0),
        lambda: device(2)[device(2) > 0],
        lambda: device(2).masked_select(device(2) > 0),
        lambda: device(2).unique(),
        lambda: device(2, 2).unique(dim=0),
        lambda: device(2, dtype=torch.int64).bincount(minlength=3),
        lambda: device(2).repeat_interleave(device(2, dtype=torch.int64)),
        lambda: torch.equal(device(2), device(2)),
        lambda: device(2)[torch.tensor([0, 1])],
        lambda: torch.ones(2).to("meta"),
        lambda: torch.ones(2).copy_(device(2)),
        lambda: torch.tensor([1.0, 2.0], device="meta"),
        lambda: device(2).new_tensor(1.0),
    ],
)
def test_waiting_is_seen(wait: Callable[[], Any]) -> None:
    with no_waiting(), pytest.raises((Waits, NotImplementedError, RuntimeError)):
        wait()


def test_what_does_not_wait_passes() -> None:
    with no_waiting():
        ones = torch.ones(3).to("meta", non_blocking=True)
        ones[device(2, dtype=torch.int64)] = 2 * ones[:2].masked_fill(ones[:2] > 0, 3.0)
        torch.where(ones > 0, ones, torch.tensor(1.0)).sum()


class Tiny(BackboneSource):
    def load(self, lm_head: bool) -> IXC25Model:
        model = build(tiny_config(), seed=0)
        return model if lm_head else without_lm_head(model)


ITEMS = [
    random_comparison(seed=1, responses=2, prompt=4, shared=1, longest=5, images=2),
    random_comparison(seed=2, responses=3, prompt=3, shared=0, longest=4, images=0)._replace(scores=(0.5, 0.0, -1.0)),
    comparison([10, 11], [[20, 21], [22], [23], [24, 25]], ranks=(0, 1, 1, 2), images=media([(1, 2)])),
]
PADDED, PACKED = collate(ITEMS, 2), collate(ITEMS, 2, row_tokens=10_000)
TEXT = collate([ITEMS[1]], 2)


def with_features(batch: ComparisonBatch) -> ComparisonBatch:
    """The batch as it comes with a feature cache: no pixels."""
    width = tiny_config().hidden_size
    known = tuple(m._replace(tensors={}, features=torch.zeros(sum(m.lengths), width)) for m in batch.media)
    return batch.replaced(media=known)


def mlp(hidden_size: int) -> RewardHead:
    return MLPHead(hidden_size, AttentionPooling())


def mean(hidden_size: int) -> RewardHead:
    return LinearHead(hidden_size, ResponseMean())


def reward_token(hidden_size: int) -> RewardHead:
    return LinearHead(hidden_size, RewardToken(REWARD_TOKEN))


MODULES: dict[str, Callable[[], BackboneModule]] = {
    "reward": lambda: RewardModule(Tiny()),
    "reward token": lambda: RewardModule(Tiny(), head=reward_token),
    "reward, listwise": lambda: RewardModule(Tiny(), head=mlp, loss=PlackettLuce()),
    "reward, options": lambda: RewardModule(
        Tiny(), head=mean, loss=BradleyTerry(0.1, 0.5, 0.1, centring=0.01, ties="half"), lora=Lora(2, 4.0)
    ),
    "reward, scores": lambda: RewardModule(Tiny(), loss=ScoreRegression(0.5), attention="dense"),
    "sft": lambda: SFTModule(Tiny()),
    "sft, vision trains": lambda: SFTModule(
        Tiny(), image_words_weight=0.5, freeze_vision=False, freeze_projector=False
    ),
}


class Given(BackboneSource):
    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def load(self, lm_head: bool) -> PreTrainedModel:
        return self.model


def without_autocast_of_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device has no autocast; to ask for its state is an error."""
    enabled = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind="cuda": kind != "meta" and enabled(kind))


def in_training(module: BackboneModule) -> BackboneModule:
    """The module between two logged steps of a Trainer."""
    module.configure_model()
    module._trainer = SimpleNamespace(  # type: ignore[assignment]
        callback_metrics=LOGGED, log_every_n_steps=50, accumulate_grad_batches=1, is_last_batch=False, global_step=7
    )
    return module


BATCHES = {"packed": PACKED, "padded": PADDED, "text": TEXT, "cached": with_features(PACKED)}
CASES = [(name, "packed") for name in MODULES] + [(n, kind) for n in ("reward", "sft") for kind in list(BATCHES)[1:]]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_no_training_step_waits(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, loss, metrics, callbacks and backward, on the host's side of a step that is not logged."""
    without_autocast_of_meta(monkeypatch)
    module, report = in_training(MODULES[name]()).to("meta"), ReportSetLosses()
    with no_waiting():
        batch = BATCHES[kind].to("meta")
        outputs = module.training_step(batch, 7)
        outputs["loss"].backward()
        report.on_train_batch_end(module.trainer, module, outputs, batch, 7)
        module.on_train_batch_end(outputs, batch, 7)
    assert next(p for p in reversed(list(module.parameters())) if p.requires_grad).grad is not None


def test_a_logged_step_reads_its_scalars_once() -> None:
    """They go to the host at once: the Trainer reads the progress bar's after every batch."""
    logged: list[tuple[dict[str, Tensor], bool]] = []
    module: Any = SimpleNamespace(
        trainer=SimpleNamespace(
            log_every_n_steps=5, accumulate_grad_batches=1, is_last_batch=False, global_step=3, callback_metrics=LOGGED
        ),
        log_dict=lambda values, prog_bar: logged.append((values, prog_bar)),
    )
    log_training(module, 3, loss=device())  # completes step 4
    assert not logged
    module.trainer.global_step = 4
    with pytest.raises(NotImplementedError, match="no data"):
        log_training(module, 4, loss=device())
    log_training(module, 4, loss=torch.tensor(2.5, requires_grad=True))
    assert logged == [({"train/loss": torch.tensor(2.5)}, True)] and not logged[0][0]["train/loss"].requires_grad
    module.trainer.global_step, module.trainer.callback_metrics = 5, {}  # the first batch: checkpoints may ask for it
    log_training(module, 5, loss=torch.tensor(1.5))
    assert logged[1:] == [({"train/loss": torch.tensor(1.5)}, True)]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl", "llava_onevision", "idefics3", "llama", "qwen2", "qwen3"])
def test_no_training_step_of_a_native_model_waits(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With features out of a cache: most vision towers of transformers wait, and so does the decoder of Qwen3-VL."""
    if family not in FAMILIES:
        pytest.skip(f"this version of transformers cannot read an image processor of {family} without torchvision")
    model, processor = miniature(family)
    asked = question(picture(40, 20), "What is it?") if family in VISION_FAMILIES else question("What is it?")
    seen = processor.encode_media(asked.media)
    answers = [(text_message("assistant", text),) for text in ("A cat.", "A small dog.")]
    item = ITEMS[1]._replace(
        sequences=[processor.encode_conversation(asked, answer, seen, "reward") for answer in answers],
        media=seen._replace(tensors={}, features=torch.zeros(sum(seen.lengths), 32)) if seen.lengths else seen,
        ranks=(0, 1), scores=None, lengths=(6, 12),
    )  # fmt: skip
    module, batch = RewardModule(Given(model)), collate([item], 0)
    in_training(module)
    refusal(module.model)  # tries the model out, once
    without_autocast_of_meta(monkeypatch)
    module.to("meta")
    with no_waiting():
        module.training_step(batch.to("meta"), 7)["loss"].backward()


class Batches(Dataset[ComparisonBatch]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> ComparisonBatch:
        return (PACKED, PADDED)[number % 2]


class ReportSetLossesAlone(ReportSetLosses):
    """Without a data module to report to."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert self.state_dict()["sums"]["made"][1] == 6 * len(ITEMS)


class ForbidWaiting(L.Callback):
    """From the third batch to the end of the epoch, the transfer of batches and the Trainer's own work included."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 2:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: no CPU run shows what waits for one")
@pytest.mark.parametrize("attention", ["sdpa", "auto"])
@pytest.mark.parametrize("name", ["reward token", "sft"])
def test_no_step_of_a_trainer_waits_on_a_gpu(name: str, attention: str, tmp_path: Path) -> None:
    module = MODULES[name]()
    module.attention = attention  # type: ignore[assignment]
    trainer = L.Trainer(
        max_epochs=1, accelerator="gpu", devices=1, precision="bf16-mixed", logger=False, log_every_n_steps=50,
        gradient_clip_val=1.0, enable_checkpointing=False, enable_model_summary=False, default_root_dir=tmp_path,
        callbacks=[ForbidWaiting(), ReportSetLossesAlone(), StepTimes()],
    )  # fmt: skip
    try:
        trainer.fit(module, DataLoader(Batches(), batch_size=None, num_workers=1, pin_memory=True))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.global_step == 6
