"""Runs of PPO on one process or two, each of which leaves what it came to in a folder; a script for two processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from bandits import Letters, NewCritic, Prompts, Small, Table, Wanted, drawn, prompt, trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.utils.data import DataLoader
from trees import media

from lit_ixc.adapters import Lora
from lit_ixc.advantages import GRPO, RLOO
from lit_ixc.backbone import BackboneSource
from lit_ixc.batch import EncodedPrompt, PromptBatch
from lit_ixc.callbacks import Export
from lit_ixc.controllers import AdaptiveKL
from lit_ixc.engines import RolloutEngine
from lit_ixc.generation import Drawn
from lit_ixc.policy_callbacks import PolicyDashboard
from lit_ixc.ppo import PPOModule
from lit_ixc.reward_signal import RewardSignal

# Of two processes, the prompts of each with their answers in three rollouts; unequal lengths, "…" is cut off.
SCRIPTS: list[dict[str, list[list[str]]]] = [
    {"h": [["a", "ad"], ["def", ""], ["i", "i"]], "jk": [["l", "d…"], ["a", "hh"], ["la", ""]]},
    {"lmn": [["oaod", "aeo…"], ["o", "qo"], ["qq", "d"]], "pq": [["rrad…", ""], ["r", "rarar"], ["ad", "rr"]]},
]
SCORES = {
    "a": 1.0, "ad": -2.0, "def": 0.5, "i": 3.0, "l": -1.0, "d": 0.25, "hh": 1.5, "la": 2.0, "oaod": -0.5, "aeo": 1.0,
    "o": 0.0, "qo": -1.5, "qq": 2.5, "rrad": 0.75, "r": -3.0, "rarar": 1.25, "rr": 0.1,
}  # fmt: skip
# The second process's answers of the second rollout, and one of the first's of the first: no reward is known.
HOLES = {text: score for text, score in SCORES.items() if text not in ("o", "qo", "r", "rarar", "l")}


class ByPrompt(RolloutEngine):
    """The answers of the scripts, rollout by rollout, whatever process asks and whatever else it asks for.

    Validations, which have a seed of their own, are given those of the last rollout.
    """

    def __init__(self) -> None:
        self.rollouts = 0

    def generate(
        self, model: Any, processor: Any, prompts: Any, names: Any, n: int, decoding: Any, seed: int
    ) -> list[list[Drawn]]:
        texts = [one.record.prompt.messages[-1].text for one in prompts]
        number = -1 if seed < 0 else self.rollouts % 3
        self.rollouts += seed >= 0
        return [[drawn(word) for word in own[text][number]] for text in texts for own in SCRIPTS if text in own]


class Joined(PPOModule):
    """Takes of each half of its prompts what a process with that half alone would take for a step."""

    def minibatches(self, prompts: int) -> Iterator[list[int]]:
        for part in super().minibatches(prompts // 2):
            yield [*part, *(index + prompts // 2 for index in part)]


class Evaluation:
    """Batches of one prompt; without prompts it is as a loader that has dropped every row of its one batch."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return max(1, len(self.texts))

    def __iter__(self) -> Iterator[PromptBatch]:
        return iter([Prompts.batch([text]) for text in self.texts])


class Split(L.LightningDataModule):
    """The same prompts in every rollout, and others to validate."""

    max_length = test_max_length = 64

    @property
    def processor(self) -> Any:
        """The policy's."""
        return self.trainer.lightning_module.processor

    def __init__(self, prompts: Sequence[EncodedPrompt], rollouts: int, held_out: Sequence[str]) -> None:
        super().__init__()
        self.prompts, self.rollouts, self.held_out, self.batch_size = tuple(prompts), rollouts, held_out, len(prompts)

    def train_dataloader(self) -> DataLoader[Any]:
        batch = PromptBatch(prompts=self.prompts, demonstrations=None)
        return DataLoader([batch] * self.rollouts, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> Evaluation:
        return Evaluation(self.held_out)

    test_dataloader = val_dataloader

    def save_processor(self, folder: Path) -> None:
        (folder / "processor").touch()


class Notes(L.Callback):
    """What each rollout came to."""

    def __init__(self) -> None:
        self.rollouts: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *rest: Any) -> None:
        rollout, told = module.last
        logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
        self.rollouts.append({"answers": rollout.answers, "logged": logged, "steps": trainer.global_step})
        assert all(tensor.isfinite().all() for tensor in told if tensor is not None)


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor in shards, a copy of another; all processes ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.detach().clone()


def tiny(seed: int) -> BackboneSource:
    """With tiles of 2 x 2 visual tokens, as ``trees.media`` expects them."""
    return Small(seed, tile_size=16, patch_size=4, num_hidden_layers=2)


def with_image(text: str, seed: int) -> EncodedPrompt:
    """A prompt with an image of one tile."""
    plain, seen = prompt(text), media([(1, 1)], seed, tile=16)
    visual = sum(seen.lengths)
    ids, length = [1] + [Letters.image_token_id] * visual + plain.sequence.ids[1:], visual + len(plain.sequence.ids)
    flags = [1 <= at <= visual for at in range(length)]
    sequence = plain.sequence._replace(
        ids=ids, visual=flags, loss=[False] * length, response_start=length, response_end=length
    )
    return plain._replace(sequence=sequence, media=seen)


def scripted(rank: int, world: int, scores: dict[str, float] = SCORES, **options: Any) -> tuple[PPOModule, Any]:
    """A policy with given answers on half of the prompts, or on all of them, and the prompts."""
    own = SCRIPTS if world == 1 else [SCRIPTS[rank]]
    signal = RewardSignal(
        {"table": Table(scores)},
        AdaptiveKL(0.3, target=0.02, horizon=16),
        unjudged="drop",
        **{name: options.pop(name) for name in ("kl_in", "kl_estimator", "empty") if name in options},
    )
    defaults: dict[str, Any] = {
        "engine": ByPrompt(), "samples": 2, "max_new_tokens": 6, "epochs": 2, "minibatch_prompts": 1,
        "microbatch_prompts": 1, "lr": 1e-3, "schedule": "constant", "warmup_ratio": 0.0, "reference": "copy",
    }  # fmt: skip
    policy = (Joined if world == 1 else PPOModule)(Small(), Letters(), signal, **defaults | options)
    texts = [text for script in own for text in script]
    return policy, Split([prompt(text) for text in texts], 3, texts[: 2 - rank] if world > 1 else texts[:3])


# Two processes come to what one comes to.
JOINED: dict[str, Callable[[int, int], tuple[PPOModule, Any]]] = {
    # AdamW makes a share of lr of a rounding error in a gradient that is nearly 0; a wrong weight gives all of lr.
    "ppo": lambda rank, world: scripted(rank, world, critic=NewCritic(2e-4), lr=2e-4, critic_warmup=1, empty="drop"),
    "whole": lambda rank, world: scripted(
        rank, world, critic=NewCritic(1e-3), minibatch_prompts=None, epochs=3, target_kl=1e-5, empty="drop"
    ),
    "rloo": lambda rank, world: scripted(
        rank, world, advantage=RLOO(), loss_mean="sequence", kl_in="loss", kl_estimator="k3", empty="drop"
    ),
    "holes": lambda rank, world: scripted(rank, world, HOLES, critic=NewCritic(1e-3), empty="drop"),
    "fixed": lambda rank, world: scripted(rank, world, HOLES, advantage=RLOO(), loss_mean="fixed", empty="drop"),
}


def sampled(rank: int, rollouts: int = 3, held_out: Sequence[str] = "i", **options: Any) -> tuple[PPOModule, Split]:
    """A policy that samples; the second process has images, and one prompt more than the first.

    Args:
        rank: Number of the process.
        rollouts: How many in an epoch.
        held_out: What the second process validates on; the first has two prompts.
        options: Of PPOModule.
    """
    signal = RewardSignal({"wanted": Wanted()}, AdaptiveKL(0.1, target=0.02, horizon=16))
    defaults: dict[str, Any] = {
        "samples": 2, "max_new_tokens": 5, "epochs": 2, "minibatch_prompts": 2, "microbatch_prompts": 1, "lr": 1e-3,
        "schedule": "constant", "warmup_ratio": 0.0,
    }  # fmt: skip
    policy = PPOModule(tiny(0), Letters(), signal, **defaults | options)
    words = [["h", "jkl"], ["lm", "pq", "d"]][rank]
    prompts = [with_image(word, at) if rank == 1 and at < 2 else prompt(word) for at, word in enumerate(words)]
    return policy, Split(prompts, rollouts, held_out if rank else ["d", "h"])


LORA = Lora(rank=2, alpha=4.0, dropout=0.1)
# Sharded weights come to what DDP comes to.
SAMPLED: dict[str, dict[str, Any]] = {
    "whole": {"critic": NewCritic(1e-3, tiny(1)), "reference": "copy", "critic_warmup": 1, "target_kl": 1e-3},
    "adapters": {"critic": NewCritic(1e-3, tiny(1)), "reference": "adapters_off", "lora": LORA},
    "grpo": {"advantage": GRPO(), "entropy_bonus": 0.01, "reference": "copy", "held_out": ""},
}


def ddp() -> DDPStrategy:
    """Without its broadcast of the first process's buffers, which would hide that another's differ."""
    return DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)


def sharded() -> ModelParallelStrategy:
    return ModelParallelStrategy(2, 1, save_distributed_checkpoint=False)


def run(out: Path, policy: PPOModule, data: Split, resume: Path | None = None, **options: Any) -> L.Trainer:
    """Train, and leave what was seen and the weights in a file for each process."""
    torch.manual_seed(0)
    notes, save = Notes(), ModelCheckpoint(out, every_n_train_steps=1, save_last=True, save_top_k=0)
    best = ModelCheckpoint(out / "best", monitor="val/reward/all", save_top_k=1)
    callbacks = [notes, save, best, Export(str(out / "export")), PolicyDashboard()]
    runs = trainer(
        out, *callbacks, use_distributed_sampler=False, enable_checkpointing=True, log_every_n_steps=1, **options
    )
    runs.fit(policy, data, ckpt_path=resume, weights_only=True)
    weights = {name: full(tensor) for name, tensor in policy.state_dict().items()}
    held_out = {name: float(value) for name, value in runs.callback_metrics.items() if name.startswith("val/")}
    found = {"rollouts": notes.rollouts, "weights": weights, "val": held_out}
    torch.save(found, out / f"{runs.global_rank}.pt")
    return runs


def work(out: Path, rank: int) -> None:
    """All runs of two processes."""
    for name, made in JOINED.items():
        policy, data = made(rank, 2)
        runs = run(out / "joined" / name, policy, data, devices=2, strategy="ddp_find_unused_parameters_true")
        if name == "ppo":
            runs.test(policy, data, verbose=False)
    policy, data = scripted(rank, 2, advantage=RLOO(), schedule="cosine", empty="drop")
    limits: dict[str, Any] = {"max_time": {"seconds": 1}, "max_epochs": -1, "max_steps": 1000}
    run(out / "timed", policy, data, devices=2, strategy=ddp(), **limits)
    for name, options in SAMPLED.items():
        for kind, strategy in (("ddp", ddp), ("sharded", sharded)):
            folder = out / kind / name
            policy, data = sampled(rank, **options)
            run(folder, policy, data, devices=2, strategy=strategy())
    for kind, strategy in (("ddp", ddp), ("sharded", sharded)):
        for name, epochs, resume in (("half", 1, None), ("resumed", 2, "half"), ("straight", 2, None)):
            policy, data = sampled(rank, rollouts=2, **SAMPLED["adapters"])
            checkpoint = None if resume is None else out / kind / resume / "last.ckpt"
            run(out / kind / name, policy, data, checkpoint, devices=2, strategy=strategy(), max_epochs=epochs)


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(os.environ["LOCAL_RANK"]))
