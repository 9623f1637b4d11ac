"""PPO and its relatives on problems of which the optimum is known, when a run ends, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from bandits import NewCritic, Prompts, Scripted, Table, Watch, fit, ppo, prompt, trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_ixc.advantages import GRPO, RLOO, BestOfN, ReinforcePlusPlus
from lit_ixc.controllers import FixedKL
from lit_ixc.policy_losses import Reinforce
from lit_ixc.records import UserError
from lit_ixc.reward_signal import RewardSignal

METHODS: dict[str, dict[str, Any]] = {
    "ppo": {"critic": NewCritic()},
    "rloo": {"advantage": RLOO()},
    "grpo": {"advantage": GRPO()},
    "reinforce++": {"advantage": ReinforcePlusPlus()},
    "best of n": {"advantage": BestOfN(), "policy_loss": Reinforce()},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_bandit_is_solved(method: str, tmp_path: Path) -> None:
    """One right first token of 22 for each of four prompts: from 1/22 of the answers right to nearly all."""
    policy = ppo(samples=16, epochs=2, lr=3e-3, max_new_tokens=1, **METHODS[method])
    texts = ["h", "j", "l", "n"]
    trainer(tmp_path).fit(policy, Prompts(texts, 60))
    policy.model.eval()
    with torch.no_grad():
        for text in texts:
            encoded = prompt(text)
            logits = policy.model(torch.tensor([encoded.sequence.ids])).logits[0, -1]
            assert logits.softmax(-1)[ord(text) - 97 + 1] > 0.9, (method, text)


TEXTS = ["h", "j", "l", "n", "p"]


@pytest.mark.parametrize(
    ("options", "limits", "steps", "rollouts"),
    [
        # 2 epochs of 5 prompts in parts of at most 2: 6 steps a rollout; looked at between rollouts: 6, 12 >= 7
        ({"epochs": 2, "minibatch_prompts": 2}, {"max_steps": 7, "max_epochs": -1}, 12, 2),
        ({"epochs": 2, "minibatch_prompts": 2}, {"max_steps": 6, "max_epochs": -1}, 6, 1),
        ({"epochs": 2}, {"max_epochs": 1}, 8, 4),  # the data ends: 4 rollouts of 2 steps
        ({"minibatch_prompts": 9}, {"max_epochs": 2}, 8, 8),  # no more prompts than there are
    ],
)
def test_when_a_run_ends(
    options: dict[str, Any], limits: dict[str, Any], steps: int, rollouts: int, tmp_path: Path
) -> None:
    policy = ppo(advantage=RLOO(), samples=2, max_new_tokens=1, **options)
    runs = trainer(tmp_path, **limits)
    runs.fit(policy, Prompts(TEXTS, 4))
    assert (runs.global_step, int(policy.rollouts)) == (steps, rollouts)


@pytest.mark.parametrize(
    ("limits", "total"),
    [
        ({"max_epochs": 1}, 16),  # 4 rollouts of 4 steps
        ({"max_epochs": 2}, 32),
        ({"max_epochs": -1, "max_steps": 8}, 8),
        ({"max_epochs": 2, "max_steps": 8}, 8),
        ({"max_epochs": 1, "max_steps": 1000}, 16),
    ],
)
def test_the_schedule_ends_with_the_run(limits: dict[str, Any], total: int, tmp_path: Path) -> None:
    """A line from the peak to 0: the last step but k has the rate ``lr * k / total``."""
    options: dict[str, Any] = {"epochs": 2, "minibatch_prompts": 3, "schedule": "linear", "lr": 1e-3}
    policy = ppo(advantage=RLOO(), samples=2, max_new_tokens=1, **options)
    rates: list[float] = []

    def note(optimizer: Any) -> None:
        rates.append(optimizer.param_groups[0]["lr"])

    policy.on_before_optimizer_step = note  # type: ignore[method-assign]
    trainer(tmp_path, **limits).fit(policy, Prompts(TEXTS, 4))
    assert rates == pytest.approx([1e-3 * (total - step) / total for step in range(total)])


def test_a_schedule_without_an_end_is_refused(tmp_path: Path) -> None:
    policy = ppo(advantage=RLOO(), samples=2, schedule="cosine")
    with pytest.raises(UserError, match=r"schedule = cosine: give trainer.max_steps or max_epochs, or choose constant"):
        trainer(tmp_path, max_epochs=-1).fit(policy, Prompts(TEXTS, 1))
    fit(ppo(advantage=RLOO(), samples=2, max_new_tokens=1), tmp_path, TEXTS, max_epochs=-1, max_steps=1)


CRITIC = {"critic": NewCritic()}
RLOO2: dict[str, Any] = {"advantage": RLOO(), "samples": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "critic = None: the advantage GAE needs one; give lit_ixc.critic.CriticFrom"),
        (RLOO2 | CRITIC, "critic: the advantage RLOO uses none; remove it"),
        ({"advantage": RLOO()}, "samples = 1: RLOO needs at least 2"),
        ({"advantage": GRPO()}, "samples = 1: GRPO needs at least 2"),
        ({"advantage": BestOfN()}, "samples = 1: BestOfN needs at least 2"),
        (CRITIC | {"temperature": 0.0}, "temperature = 0.0: PPO learns from drawn answers"),
        (CRITIC | {"temperature": -1.0}, "temperature = -1.0: "),
        (CRITIC | {"top_p": 0.0}, "top_p = 0.0: "),
        (CRITIC | {"samples": 0}, "samples = 0: "),
        (CRITIC | {"epochs": 0}, "epochs = 0: give at least 1"),
        (CRITIC | {"minibatch_prompts": 0}, "minibatch_prompts = 0: give at least 1"),
        (CRITIC | {"minibatch_prompts": -1}, "minibatch_prompts = -1: give at least 1"),
        (CRITIC | {"microbatch_prompts": 0}, "microbatch_prompts = 0: give at least 1"),
        (CRITIC | {"value_clip": 0.0}, "value_clip = 0.0: give a positive bound, or null for none"),
        (CRITIC | {"value_clip": -0.2}, "value_clip = -0.2: give a positive bound, or null for none"),
        (CRITIC | {"target_kl": 0.0}, "target_kl = 0.0: give a positive number, or null for none"),
        (CRITIC | {"max_grad_norm": 0.0}, "max_grad_norm = 0.0: "),
        (CRITIC | {"max_grad_norm": -1.0}, "max_grad_norm = -1.0: "),
        (CRITIC | {"critic_warmup": -1}, "critic_warmup = -1: give 0 or more rollouts"),
        (RLOO2 | {"critic_warmup": 2}, "critic_warmup = 2: there is no critic; set it to 0"),
        (CRITIC | {"sft_weight": -0.1}, "sft_weight = -0.1: give 0 or a positive weight"),
        (CRITIC | {"lr": 0.0}, "lr = 0.0: "),
        (CRITIC | {"reference": "adapters_off"}, "reference = adapters_off: the policy has no adapters"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        ppo(**options)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rewards": {}}, "rewards = {}: give at least one"),
        ({"kl_estimator": "k4"}, "kl_estimator = k4: use one of k1, k2, k3"),
        ({"kl_in": "loss"}, "kl_estimator = k1: its gradient in a loss is zero on average; use k2 or k3"),
        ({"clip": 0.0}, "clip = 0.0: choose a positive bound"),
    ],
)
def test_signals_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        RewardSignal(**{"rewards": {"table": Table({})}} | options)
    assert str(error.value).startswith(message)


def test_an_answer_that_cannot_be_judged_ends_the_run(tmp_path: Path) -> None:
    """The message names the row, its set, the reward, the reason and the answer."""
    policy = ppo(signal=RewardSignal({"table": Table({"a": 1.0})}), engine=Scripted([["a", "stu"]]), **RLOO2)
    with pytest.raises(UserError, match=r"'h' of made .*\(table:unknown\): 'stu'; set unjudged to drop"):
        fit(policy, tmp_path, ["h"])


def test_a_run_that_can_judge_nothing_ends(tmp_path: Path) -> None:
    """No step is ever made, so that max_steps would never be reached."""
    judge = RewardSignal({"table": Table({"a": math.nan})}, FixedKL(0.0), unjudged="drop")
    policy = ppo(signal=judge, engine=Scripted([["a", "a"]]), advantage=RLOO(), samples=2)
    with pytest.raises(
        UserError, match=r"no answer could be judged in 10 rollouts one after another \(the last: table:.*: 2"
    ):
        fit(policy, tmp_path, ["h"], rollouts=30)
    assert policy.rollouts == 9  # the tenth is not counted as done


def test_half_precision_rounds_no_reward(tmp_path: Path) -> None:
    """Under bf16-true the Trainer makes new tensors bf16, in which 300.7 would be 300 and a log-probability rough."""
    judge = RewardSignal({"table": Table({"a": 300.7, "d": 0.0})}, FixedKL(0.0), standardise=False, clip=None)
    policy = ppo(signal=judge, critic=NewCritic(), samples=2, engine=Scripted([["a", "d"]]))
    watch = Watch()
    trainer(tmp_path, watch, precision="bf16-true").fit(policy, Prompts(["h"], 1))
    rollout = watch.rollouts[0]
    assert rollout.scores.tolist() == [torch.tensor(300.7).item(), 0.0]
    assert {rollout.logprobs.dtype, rollout.scores.dtype, watch.estimates[0].advantages.dtype} == {torch.float32}
    assert policy.critic is not None and policy.critic.head.v_head.weight.dtype == torch.float32


def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, filename="one")
    trainer(tmp_path, saver, enable_checkpointing=True).fit(ppo(critic=NewCritic()), Prompts(["h"], 1))
    with pytest.raises(UserError, match=r"of another method or of other options.*lacks none .*and has \d+ .*critic"):
        other = ppo(advantage=RLOO(), samples=2)
        trainer(tmp_path).fit(other, Prompts(["h"], 1), ckpt_path=str(tmp_path / "one.ckpt"), weights_only=True)
