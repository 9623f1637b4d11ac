"""Sharded weights on two processes: the same numbers as DDP, no process waits for ever, exports and checkpoints.

The file is a script too: the fixture starts two processes of it, which go through all runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.data import DataLoader, Dataset

from lit_ixc.adapters import Lora
from lit_ixc.backbone import BackboneSource, RandomWeights, freeze, hidden_states, without_lm_head
from lit_ixc.batch import ComparisonBatch
from lit_ixc.callbacks import Export, RewardDashboard
from lit_ixc.heads import LastToken, LinearHead
from lit_ixc.ixc25.miniature import build, tiny_config
from lit_ixc.ixc25.model import IXC25Model
from lit_ixc.layout import collate
from lit_ixc.module import BackboneModule
from lit_ixc.records import Comparison, Prompt, UserError, text_message
from lit_ixc.reward import RewardModule
from lit_ixc.sft import SFTModule
from lit_ixc.sharding import data_mesh, gathered, reshard, shard, shard_all
from tests.trees import comparison, media
from tests.two_processes import run_two

LORA = Lora(rank=2, alpha=4, dropout=0.0)
TIED = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 320,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True, "initializer_range": 0.1,
}  # fmt: skip


class Tiny(BackboneSource):
    def load(self, lm_head: bool) -> IXC25Model:
        config = tiny_config()
        config.plora_dropout = 0.0
        model = build(config, seed=0)
        return model if lm_head else without_lm_head(model)


# What trains: module, options, and whether the second process has images (the first never has).
CASES: dict[str, tuple[type[BackboneModule], dict[str, Any], bool]] = {
    "sft": (SFTModule, {"backbone": Tiny()}, True),
    "reward": (RewardModule, {"backbone": Tiny()}, True),
    "adapters": (RewardModule, {"backbone": Tiny(), "lora": LORA, "gradient_checkpointing": True}, True),
    "projector": (SFTModule, {"backbone": Tiny(), "freeze_projector": False, "attention": "separate"}, True),
    "tied": (SFTModule, {"backbone": RandomWeights(TIED), "gradient_checkpointing": True}, False),
}


class Batches(Dataset[ComparisonBatch]):
    def __init__(self, size: int, rank: int, images: bool) -> None:
        self.size, self.rank, self.images = size, rank, images

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: int) -> ComparisonBatch:
        if number >= self.size:
            raise IndexError
        seen = media([(1, 1)], seed=number) if self.images and self.rank == 1 and number % 2 == 0 else None
        answers = [[20 + number], [21 + self.rank, 22]]
        return collate([comparison([10 + number, 11 + self.rank], answers, images=seen)], 2)


class Data(L.LightningDataModule):
    """As many batches to validate as the rank's number more, and as many samples to show."""

    def __init__(self, rank: int, images: bool, train: int = 3) -> None:
        super().__init__()
        self.rank, self.images, self.train = rank, images, train

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Batches(self.train, self.rank, self.images), batch_size=None)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Batches(1 + self.rank, self.rank, self.images), batch_size=None)

    def save_processor(self, folder: Path) -> None:
        (folder / "processor").touch()

    def validation_samples(self, number: int) -> list[tuple[Comparison, ComparisonBatch]]:
        prompt = Prompt((text_message("user", "What?"),), ())
        record = Comparison(
            "one", prompt, ((text_message("assistant", "a"),),) * 2, (0, 1), domain="math", source="made"
        )
        return [(record, batch) for batch in Batches(1 + self.rank, self.rank, self.images)]


class Losses(L.Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.seen.append(float(outputs["loss"]))


def full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.detach().clone()


def fit(case: str, strategy: Strategy, out: Path, rank: int, resume: Path | None = None, **options: Any) -> None:
    """Train as few steps as there are batches; leave losses, metrics, weights and the export in ``out``."""
    L.seed_everything(0, verbose=False)
    kind, arguments, images = CASES[case]
    module = kind(**arguments, lr=1e-2, warmup_ratio=0.0, schedule="constant")
    losses, save = Losses(), ModelCheckpoint(out, every_n_train_steps=1, save_last=True, save_top_k=0)
    callbacks = [losses, save, Export(str(out / "export"))]
    if kind is RewardModule:
        callbacks.append(RewardDashboard())
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy=strategy, logger=TensorBoardLogger(out), callbacks=callbacks,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, log_every_n_steps=1,
        gradient_clip_val=0.5, num_sanity_val_steps=1, **{"max_epochs": 1, **options},
    )  # fmt: skip
    data = Data(rank, images, train=1 if "max_steps" in options else 3)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    weights = {name: full(tensor) for name, tensor in module.state_dict().items()}
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    torch.save({"losses": losses.seen, "weights": weights, "metrics": metrics}, out / f"{rank}.pt")


class Players(nn.Module):
    """A policy and a critic as PPO holds them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.policy, self.critic, self.head = Tiny().load(True), Tiny().load(False), LinearHead(64, LastToken())
        for model in (self.policy, self.critic):
            freeze(model, vision=True, projector=True, language=False)
        self.train()

    def logprobs(self, model: Any, batch: ComparisonBatch) -> Tensor:
        states = hidden_states(model, batch).flatten(0, 1)[batch.target_rows]  # (N, H)
        parts = states.split(1)  # unequal numbers of them, as where logits are made in parts
        return torch.cat([model.get_output_embeddings()(part) for part in parts]).log_softmax(-1)[:, 7]

    def losses(self, reference: Any, batch: ComparisonBatch) -> list[Tensor]:
        with torch.inference_mode():
            known = self.logprobs(reference, batch).clone()
        moved = self.logprobs(self.policy, batch) - known.clone()
        return [(moved - 1).pow(2).mean(), (self.head.project(hidden_states(self.critic, batch)) - 1).pow(2).mean()]


def update(out: Path, rank: int, world: int) -> None:
    """Three manual steps; one process does with the batches of two what two do with one each."""
    players, reference = Players(), Tiny().load(True).requires_grad_(False).eval()
    if world > 1:
        mesh = init_device_mesh("cpu", (world,))
        shard_all(players, mesh)
        shard(reference, mesh)  # no part of another module
    optimizer, norms = torch.optim.AdamW(players.parameters(), lr=1e-2), []
    for number in range(3):
        batch = Batches(3, rank, True)[number]
        with gathered(players), torch.inference_mode():  # as many passes as the process likes
            for length in range(1, 3 + 2 * rank):
                players.policy(input_ids=torch.full((1, length), 5))
            with gathered(players.policy):
                players.head.project(hidden_states(players.critic, batch))
        for own in [batch] if world > 1 else [Batches(3, one, True)[number] for one in range(2)]:
            for loss in players.losses(reference, own):
                (loss * world / 2).backward()
        with torch.no_grad():  # leaves whole weights behind
            players.logprobs(players.policy, batch)
        reshard(players)
        norms.append(float(full(nn.utils.clip_grad_norm_(players.parameters(), 0.5))))
        optimizer.step()
        optimizer.zero_grad()
    weights = {name: full(tensor) for name, tensor in players.state_dict().items()}
    torch.save({"norms": norms, "weights": weights}, out / f"update{world}_{rank}.pt")


def sharded(whole_checkpoint: bool = True) -> ModelParallelStrategy:
    return ModelParallelStrategy(2, 1, save_distributed_checkpoint=not whole_checkpoint)


def work(out: Path, rank: int) -> None:
    for case in CASES:
        fit(case, DDPStrategy(), out / case / "ddp", rank)
        fit(case, sharded(), out / case / "sharded", rank)
    for form in ("whole", "parts"):
        fit("sft", sharded(form == "whole"), out / form, rank, max_epochs=2, max_steps=2)
        checkpoint = out / form / "last.ckpt"
        fit("sft", sharded(form == "whole"), out / f"{form}_resumed", rank, checkpoint, max_epochs=4, max_steps=4)
    fit("sft", sharded(), out / "straight", rank, max_epochs=4, max_steps=4)
    update(out, rank, 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    run_two(Path(__file__), out)
    return out


def assert_equal_weights(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=tolerance, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("case", CASES)
def test_sharded_training_is_that_of_ddp(runs: Path, case: str) -> None:
    for rank in range(2):
        ddp, shards = (torch.load(runs / case / name / f"{rank}.pt") for name in ("ddp", "sharded"))
        assert len(shards["losses"]) == 3
        assert shards["losses"] == pytest.approx(ddp["losses"], abs=1e-5)
        assert shards["metrics"] == pytest.approx(ddp["metrics"], abs=1e-5)  # of unequal numbers of batches
    # DDP's process 0 has merged its adapters in place to export them
    assert_equal_weights(shards["weights"], ddp["weights"], 1e-5)
    assert_equal_weights(torch.load(runs / case / "sharded" / "0.pt")["weights"], shards["weights"], 0.0)


@pytest.mark.parametrize("case", CASES)
def test_the_export_is_that_of_unsharded_training(runs: Path, case: str) -> None:
    ddp, shards = (runs / case / name / "export" for name in ("ddp", "sharded"))
    assert sorted(path.name for path in shards.iterdir()) == sorted(path.name for path in ddp.iterdir())
    for path in ddp.glob("*.safetensors"):
        assert_equal_weights(load_file(shards / path.name), load_file(path), 1e-6)
    for path in ddp.glob("*.json"):
        assert (shards / path.name).read_text() == path.read_text()


@pytest.mark.parametrize("form", ["whole", "parts"])
def test_a_run_goes_on_from_a_checkpoint(runs: Path, form: str) -> None:
    assert (runs / form / "last.ckpt").is_dir() == (form == "parts")
    straight, parts = (torch.load(runs / name / "0.pt") for name in ("straight", f"{form}_resumed"))
    assert parts["losses"] == straight["losses"][2:]
    assert_equal_weights(parts["weights"], straight["weights"], 0.0)


def test_manual_steps_are_those_of_one_process(runs: Path, tmp_path: Path) -> None:
    update(tmp_path, 0, 1)
    one, two = torch.load(tmp_path / "update1_0.pt"), torch.load(runs / "update2_0.pt")
    assert two["norms"] == pytest.approx(one["norms"], rel=1e-5)
    assert_equal_weights(two["weights"], one["weights"], 1e-5)


class Mesh(dict[str, Any]):
    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__({name: torch.Size([size]) for name, size in sizes.items()})

    def __getitem__(self, name: str) -> Any:
        return type("Dimension", (), {"size": lambda _: super(Mesh, self).__getitem__(name)[0]})()

    def size(self) -> int:
        return 8


def test_what_cannot_be_sharded_is_named() -> None:
    assert data_mesh(None) is None
    with pytest.raises(UserError, match="tensor_parallel_size = 8: .* data_parallel_size to 8"):
        data_mesh(Mesh({"data_parallel": 1, "tensor_parallel": 8}))  # type: ignore[arg-type]
    model = Tiny().load(True)
    freeze(model, vision=True, projector=True, language=True)
    with pytest.raises(UserError, match="output.weight trains, but no layer"):
        shard(model, None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="has no list of layers"):
        del model.model.layers
        shard(model, None)  # type: ignore[arg-type]


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(os.environ["LOCAL_RANK"]))
