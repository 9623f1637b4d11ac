"""What is logged of rollouts, and the metrics of held-out answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from bandits import Letters, NewCritic, Prompts, Scripted, Table, drawn, fit, ppo, prompt, rollout_of, trainer

from lit_ixc.advantages import RLOO
from lit_ixc.controllers import FixedKL
from lit_ixc.policy_metrics import PolicyMetric, policy_table
from lit_ixc.records import Comparison
from lit_ixc.reward_signal import RewardSignal
from lit_ixc.rewards.interface import Episode
from lit_ixc.rollout import Rollout

NAN = math.nan


def told() -> Rollout:
    """Two prompts of two sets, two answers of each; one is left out, one is cut off, one is empty."""
    logprobs = torch.tensor([[-1.0, -2.0, 0.0], [-1.0, -1.0, -1.0], [-1.0, 0.0, 0.0], [-1.0, -3.0, 0.0]])
    reference = torch.tensor([[-1.5, -3.0, 9.0], [7.0, 7.0, 7.0], [-1.0, 9.0, 9.0], [-2.0, -3.5, 9.0]])
    parts = {"one": torch.tensor([1.0, NAN, NAN, 5.0]), "reward": torch.tensor([NAN, NAN, NAN, 2.0])}
    scores = [1.0, NAN, 0.0, 4.0]
    rollout = rollout_of(["a", "ade…", "", "d"], 2, scores, logprobs=logprobs, reference=reference, parts=parts)
    prompts = [prompt("h"), prompt("j")._replace(source="other")]
    truth = {"truth": {"verifier": "keywords", "arguments": {"include": ["d"]}}}
    episodes = []
    for index, one in enumerate(map(drawn, ["a", "ade…", "", "d"])):
        record = prompts[index // 2].record
        known = truth if index > 1 else {}
        row = Comparison(record.id, record.prompt, record.responses, (0,), metadata=known)
        text = Letters().decode(one.ids)
        episodes.append(Episode(row, text, one.ids, one.finish == "stop", prompts[index // 2].media))
    return rollout._replace(prompts=tuple(prompts), episodes=tuple(episodes))


def flat(metric: PolicyMetric) -> dict[str, float]:
    """What the metric says as ``<name>/<group>``."""
    return {f"{name}/{group}": mean.item() for name, means in metric.compute().items() for group, mean in means.items()}


def means(*rollouts: Rollout, rewards: Sequence[str] = ("one", "reward")) -> dict[str, dict[str, float]]:
    metric = PolicyMetric(rewards)
    for rollout in rollouts:
        metric.update(rollout)
    found = {name: {group: float(mean) for group, mean in own.items()} for name, own in metric.compute().items()}
    assert not any(metric.compute().values())  # it starts anew
    return found


def test_means_of_each_set_and_of_all() -> None:
    """What was left out counts in lengths and ends alone; sets are counted by their prompts' names."""
    assert means(told()) == {
        "reward": {"made": 1.0, "other": 2.0, "all": pytest.approx(5 / 3)},
        "kl": {"made": 1.5, "other": 0.75, "all": 1.0},  # 0.5 + 1; (0 + 1.5) / 2
        "tokens": {"made": 2.5, "other": 1.5, "all": 2.0},  # 2 and 3; 1 and 2
        "ended": {"made": 0.5, "other": 1.0, "all": 0.75},
        "left_out": {"made": 0.5, "other": 0.0, "all": 0.25},
        "truth": {"other": 0.5, "all": 0.5},  # two answers have a rule, and one keeps it
        "rewards/one": {"made": 1.0, "other": 5.0, "all": 3.0},
        "rewards/reward": {"other": 2.0, "all": 2.0},  # named like the total, and no part of it
    }


def test_batches_are_joined() -> None:
    found = means(*(rollout_of(["a"] * len(scores), 1, scores) for scores in ([1.0, 2.0], [6.0])), rewards=())
    assert found["reward"]["all"] == pytest.approx(3.0) and found["tokens"]["all"] == 2.0


def test_rewards_may_have_any_name(tmp_path: Path) -> None:
    signal = RewardSignal({"rm.v2/x y": Table({"a": 1.0})}, FixedKL(0.0))
    watch = fit(ppo(signal=signal, engine=Scripted([["a", "a"]]), advantage=RLOO(), samples=2), tmp_path, ["h"])
    assert watch.logged[0]["train/rewards/rm.v2/x y"] == 1.0


def test_the_table_has_a_line_for_each_set() -> None:
    values = {"reward": {"all": 1.5, "made": 1.0}, "kl": {}, "truth": {"all": 0.25}}
    tensors = {name: {group: torch.tensor(one) for group, one in own.items()} for name, own in values.items()}
    lines = policy_table(tensors).splitlines()
    assert [line.split() for line in lines] == [["reward", "truth"], ["made", "1.000"], ["all", "1.500", "0.250"]]
    assert len({len(line) for line in lines if len(line.split()) != 2 or "reward" in line}) == 1


SCORES = {"a": 1.0, "ade": 3.0, "d": -4.0}


@pytest.mark.parametrize("critic", [True, False])
def test_what_is_logged_of_a_rollout(critic: bool, tmp_path: Path) -> None:
    """Scores 1, 3, 0 (the lowest, for the empty one, is -4) and -4."""
    signal = RewardSignal({"table": Table(SCORES)}, FixedKL(0.25), standardise=False, clip=2.0)
    options: dict[str, Any] = {"critic": NewCritic()} if critic else {"advantage": RLOO()}
    engine = Scripted([["a", "ade…"], ["", "d"]])
    policy = ppo(signal=signal, engine=engine, samples=2, epochs=2, max_new_tokens=3, **options)
    watch = fit(policy, tmp_path, ["h", "jk"], rollouts=2)
    logged, rollout, estimates = watch.logged[1], watch.rollouts[1], watch.estimates[1]
    assert rollout.reference is not None
    kl = ((rollout.logprobs - rollout.reference) * rollout.mask).sum(1)
    raw, cut = torch.tensor([1.0, 3.0, -4.0, -4.0]), torch.tensor([1.0, 2.0, -2.0, -2.0])
    expected = {
        "reward/raw": raw.mean(),
        "reward/standardised": cut.mean(),
        "reward/after_kl": (cut - 0.25 * kl).mean(),
        "rewards/table": 0.0,  # (1 + 3 - 4) / 3
        "kl/reference": kl.mean(),
        "kl/coefficient": 0.25,
        "answers/tokens": 2.0,  # 2, 3, 1, 2
        "answers/ended": 0.75,
        "answers/empty": 0.25,
        "answers/left_out": 0.0,
        "advantage/deviation": estimates.advantages[rollout.mask].std(correction=0),
    }
    if critic:
        assert rollout.values is not None and estimates.returns is not None
        left, known = (estimates.returns - rollout.values)[rollout.mask], estimates.returns[rollout.mask]
        expected |= {
            "critic/value": rollout.values[rollout.mask].mean(),
            "critic/explained_variance": 1 - left.var() / known.var(),
        }
    for name, value in expected.items():
        assert logged[f"train/{name}"] == pytest.approx(float(value), rel=1e-4, abs=1e-6), name
    assert kl.abs().sum() > 1e-3
    speed = {name: value for name, value in logged.items() if "speed/" in name}
    assert len(speed) == 3 and all(value > 0 for value in speed.values())
    # two steps on 8 tokens each, answers of both
    assert logged["train/policy/grad_norm"] > 0 and 0 <= logged["train/policy/clipped"] <= 1


def test_held_out_prompts_are_answered_alike_at_every_validation(tmp_path: Path) -> None:
    """Other random numbers than in training, the same each time: without learning the metrics do not change."""
    policy = ppo(advantage=RLOO(), samples=2, lr=1e-12, epochs=1)
    seen: list[dict[str, float]] = []

    run = trainer(tmp_path, val_check_interval=1, num_sanity_val_steps=0)
    policy.on_validation_end = lambda: seen.append(  # type: ignore[method-assign]
        {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("val/")}
    )
    run.fit(policy, Prompts(["h", "jk"], 3, held_out=["d", "ef", "kl"]))
    assert len(seen) == 3 and seen[0] == pytest.approx(seen[2], abs=1e-6) and "val/reward/all" in seen[0]
    assert policy.shown is not None and len(policy.shown.answers) == 6 and policy.model.training


def test_validation_changes_nothing_of_the_training(tmp_path: Path) -> None:
    """The same weights and moments with a validation behind each rollout or without."""

    def run(held_out: list[str]) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        policy = ppo(critic=NewCritic(), samples=2)
        data = Prompts(["h", "jk"], 3, held_out=held_out)
        trainer(tmp_path, val_check_interval=1, num_sanity_val_steps=1).fit(policy, data)
        return {name: tensor for name, tensor in policy.state_dict().items() if "metric" not in name}

    one, other = run([]), run(["d", "ef"])
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
