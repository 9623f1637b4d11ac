"""After a kill in the middle of a run PPO goes on as if nothing had happened, to the last bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from bandits import Letters, NewCritic, Wanted, Watch, ppo, trainer
from fakes import pair, write_json
from lightning.pytorch.callbacks import ModelCheckpoint
from test_rollout import Count

from datamodules.prompts import PromptDataModule
from lit_ixc.adapters import Lora
from lit_ixc.advantages import GRPO
from lit_ixc.controllers import AdaptiveKL
from lit_ixc.records import UserError
from lit_ixc.reward_signal import RewardSignal

WORDS = ["h", "jk", "lmn", "dh", "eja", "pq", "rst", "ah", "fd", "kkk"]


class Killed(Exception):
    """The end of a run between two rollouts."""


class Kill(L.Callback):
    """Ends the run before a rollout."""

    def __init__(self, rollout: int | None) -> None:
        self.rollout = rollout

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, *rest: Any) -> None:
        if module.rollouts == self.rollout:
            raise Killed


def data(root: Path) -> PromptDataModule:
    """Ten prompts: an epoch is 5 rollouts of 2, with 2 demonstrations beside each."""
    if not (root / "data").exists():
        rows = [pair(f"w{n}", word, chosen="de", rejected="f") for n, word in enumerate(WORDS)]
        write_json(root / "data/text/words/words.json", rows)
    options: dict[str, Any] = {
        "batch_size": 2,
        "max_length": 64,
        "demonstrations": {"words": 1.0},
        "demonstration_batch_size": 2,
    }
    return PromptDataModule(root / "data", Letters(), sets={"words": 1.0}, cache_dir=root / "cache", **options)


METHODS: dict[str, Any] = {
    "adapters": lambda: {
        "critic": NewCritic(),
        "lora": Lora(rank=4, dropout=0.5),
        "critic_warmup": 1,
        "reference": "adapters_off",
    },
    "whole": lambda: {"critic": NewCritic(), "reference": "copy", "target_kl": 0.02},
    "grpo": lambda: {"advantage": GRPO(), "entropy_bonus": 0.01},
}


STEPS = {"max_epochs": -1, "max_steps": 28}
EPOCHS = {"max_epochs": 2}


def run(
    root: Path, method: str, kill_at: int | None = None, resume: bool = False, limits: dict[str, int] = STEPS
) -> tuple[Any, Watch, dict[str, Any]]:
    """Rollouts with everything that has a state; the module, what was seen, and the last checkpoint."""
    torch.manual_seed(99 if resume else 0)  # a new process has other random numbers
    signal = RewardSignal({"wanted": Wanted(), "count": Count()}, AdaptiveKL(0.1, target=0.05, horizon=16))
    options = {"samples": 4, "epochs": 2, "minibatch_prompts": 1, "sft_weight": 0.1, "schedule": "cosine"}
    policy = ppo(signal=signal, warmup_ratio=0.2, **options | METHODS[method]())
    watch, last = Watch(), root / "checkpoints/last.ckpt"
    saver = ModelCheckpoint(root / "checkpoints", every_n_train_steps=1, save_last=True, save_weights_only=False)
    runs = trainer(root, watch, Kill(kill_at), saver, enable_checkpointing=True, **limits)
    runs.fit(policy, data(root), ckpt_path=str(last) if resume else None, weights_only=False)
    return policy, watch, torch.load(last, weights_only=False)


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two nested values differ; NaN equals NaN."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) and one.dtype == other.dtype else [path]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{path}: {sorted(map(str, one.keys() ^ other.keys()))}"]
        return [found for key in one for found in differences(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, list | tuple) and len(one) == len(other):
        return [
            found for n, (a, b) in enumerate(zip(one, other, strict=True)) for found in differences(a, b, f"{path}/{n}")
        ]
    same = one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))
    return [] if same else [f"{path}: {one} {other}"]


@pytest.mark.parametrize(
    ("method", "kill_at", "limits"),
    [
        ("adapters", 3, STEPS),
        ("whole", 3, EPOCHS),
        ("grpo", 3, STEPS),
        ("adapters", 1, EPOCHS),
        ("whole", 5, STEPS),  # between two epochs
        ("grpo", 7, EPOCHS),
    ],
)
def test_a_killed_run_goes_on_as_if_uninterrupted(
    method: str, kill_at: int, limits: dict[str, int], tmp_path: Path
) -> None:
    whole, seen, end = run(tmp_path / "a", method, limits=limits)
    with pytest.raises(Killed):
        run(tmp_path / "b", method, kill_at, limits=limits)
    resumed, again, resumed_end = run(tmp_path / "b", method, resume=True, limits=limits)
    assert len(seen.rollouts) >= 7 and len(again.rollouts) == len(seen.rollouts) - kill_at
    assert resumed.rollouts == whole.rollouts == end["rollouts"]

    for one, other in zip(seen.rollouts[kill_at:], again.rollouts, strict=True):
        assert one.answers == other.answers
        assert [p.record.id for p in one.prompts] == [p.record.id for p in other.prompts]
    for told, other_told in zip(seen.estimates[kill_at:], again.estimates, strict=True):
        assert differences(tuple(told), tuple(other_told)) == []
    for logged, other_logged in zip(seen.logged[kill_at:], again.logged, strict=True):
        plain = {name: value for name, value in logged.items() if "speed" not in name}
        assert differences(plain, {name: other_logged[name] for name in plain}) == []
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "rollouts", "random_state", "global_step", "epoch"):
        assert differences(end[name], resumed_end[name], name) == []

    # the test sees something: state has moved, and the prompts are not always the same
    state = end["state_dict"]
    assert state["signal.kl.coefficient"] != 0.1 and state["signal.moments.count"] == 8 * len(seen.rollouts)
    assert len({tuple(p.record.id for p in one.prompts) for one in seen.rollouts}) > 4
    if "critic.units" in state:
        assert state["critic.units"].tolist() != [0.0, 1.0]


def test_without_its_state_a_resumed_run_is_another(tmp_path: Path) -> None:
    """What a checkpoint keeps of PPO matters: without the count of rollouts the same answers are drawn again."""
    with pytest.raises(Killed):
        run(tmp_path, "grpo", 2)
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=False)
    assert checkpoint["rollouts"] == 2 and checkpoint["global_step"] == 8
    assert {"signal.kl.coefficient", "signal.moments.mean", "signal.moments.m2"} <= checkpoint["state_dict"].keys()
    assert not any(name.startswith("reference") for name in checkpoint["state_dict"])


def test_a_checkpoint_may_be_read_safely(tmp_path: Path) -> None:
    """Nothing but tensors and plain values is in it: torch reads it with ``weights_only``."""
    with pytest.raises(Killed):
        run(tmp_path, "adapters", 1)
    found = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert found["rollouts"] == 1


def test_other_data_in_the_middle_of_an_epoch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, "grpo", 2)
    policy = ppo(advantage=GRPO(), samples=4)
    other = data(tmp_path)
    other.batch_size = 1
    with pytest.raises(UserError, match="middle of epoch 0"):
        trainer(tmp_path, max_epochs=2).fit(policy, other, ckpt_path=str(tmp_path / "checkpoints/last.ckpt"))
