"""From judgements to the rewards of tokens: scale, bounds, divergence, steps, and answers that do not count."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from bandits import Letters, NewCritic, Scripted, Table, copied, drawn, fit, ppo, prompt, rollout_of

from lit_ixc.advantages import RLOO
from lit_ixc.controllers import AdaptiveKL, FixedKL
from lit_ixc.records import UserError
from lit_ixc.reward_signal import RewardSignal
from lit_ixc.rewards.interface import Episode, Step
from lit_ixc.rewards.learned import LearnedReward


def signal(scores: dict[str, float] | None = None, steps: Any = None, **options: Any) -> RewardSignal:
    return RewardSignal({"table": Table(scores or {}, steps)}, **{"kl": FixedKL(0.0)} | options)


def episodes(*words: str) -> list[Episode]:
    """Answers to one prompt."""
    asked = prompt("h")
    answers = [drawn(word) for word in words]
    return [
        Episode(asked.record, Letters().decode(one.ids), one.ids, one.finish == "stop", asked.media) for one in answers
    ]


def test_rewards_are_standardised_by_all_so_far() -> None:
    """Rollouts (2, 4) and (12,): means 3 and 6; deviations of the sample sqrt(2) and sqrt((16 + 4 + 36) / 2)."""
    judge = signal()
    rewards, scores = judge.token_rewards(rollout_of(["ad", "d"], 1, [2.0, 4.0]))
    root = math.sqrt(2)
    torch.testing.assert_close(scores, torch.tensor([-1 / root, 1 / root]))
    torch.testing.assert_close(rewards, torch.tensor([[0, 0, -1 / root], [0, 1 / root, 0]]))  # at the last token
    _, scores = judge.token_rewards(rollout_of(["d"], 1, [12.0]))
    torch.testing.assert_close(scores, torch.tensor([6 / math.sqrt(28)]))
    assert int(judge.moments.count) == 3


def test_raw_rewards_stay_as_they_are() -> None:
    judge = signal(standardise=False, clip=None)
    _, scores = judge.token_rewards(rollout_of(["a", "d"], 1, [200.0, -4.0]))
    assert scores.tolist() == [200.0, -4.0] and int(judge.moments.count) == 0


def test_rewards_are_bounded_behind_standardisation() -> None:
    """(0, 0, 0, 4): mean 1, deviation 2: standardised (-0.5, -0.5, -0.5, 1.5), cut to 1."""
    _, scores = signal(clip=1.0).token_rewards(rollout_of(["a"] * 4, 1, [0.0, 0.0, 0.0, 4.0]))
    torch.testing.assert_close(scores, torch.tensor([-0.5, -0.5, -0.5, 1.0]))
    _, scores = signal(clip=3.0, standardise=False).token_rewards(rollout_of(["a"] * 2, 1, [-9.0, 2.0]))
    assert scores.tolist() == [-3.0, 2.0]


LOGPROBS, REFERENCE = torch.tensor([[-1.0, -2.0], [-3.0, 7.0]]), torch.tensor([[-1.5, -1.0], [-3.0, -7.0]])


@pytest.mark.parametrize(
    ("estimator", "costs"),
    # gaps 0.5, -1 and 0; the token behind the second answer's end (gap 14) does not exist
    [("k1", [0.5, -1.0]), ("k2", [0.125, 0.5]), ("k3", [math.exp(-0.5) - 0.5, math.e - 2])],
)
def test_the_divergence_is_taken_off_each_token(estimator: Any, costs: list[float]) -> None:
    told = rollout_of(["a", "d…"], 1, [1.0, 2.0], logprobs=LOGPROBS, reference=REFERENCE)
    assert told.mask.tolist() == [[True, True], [True, False]]
    options: dict[str, Any] = {"kl_estimator": estimator, "standardise": False}
    rewards, _ = signal(kl=FixedKL(0.1), **options).token_rewards(told)
    torch.testing.assert_close(rewards, torch.tensor([[-0.1 * costs[0], 1 - 0.1 * costs[1]], [2.0, 0.0]]))
    torch.testing.assert_close(told.kl(), torch.tensor([-0.5, 0.0]))
    if estimator != "k1":
        rewards, _ = signal(kl=FixedKL(0.1), kl_in="loss", **options).token_rewards(told)
        assert rewards.tolist() == [[0.0, 1.0], [2.0, 0.0]]
    rewards, _ = signal(kl=FixedKL(0.1), **options).token_rewards(told._replace(reference=None))
    assert rewards.tolist() == [[0.0, 1.0], [2.0, 0.0]] and told._replace(reference=None).kl().tolist() == [0.0, 0.0]


def test_the_adaptive_coefficient_follows_the_rollouts(tmp_path: Path) -> None:
    """Each rollout makes the next one's by ``1 + clip(KL / target - 1, -0.2, 0.2) * answers / horizon``."""
    judge = RewardSignal({"table": Table({"ad": 1.0, "d": -1.0})}, AdaptiveKL(0.5, target=0.05, horizon=4))
    options: dict[str, Any] = {"engine": Scripted([["ad", "d"]]), "reference": "copy"}
    policy = ppo(signal=judge, advantage=RLOO(), samples=2, lr=0.02, max_new_tokens=3, **options)
    watch = fit(policy, tmp_path, ["h"], rollouts=4)
    coefficient = 0.5
    for rollout, told, logged in zip(watch.rollouts, watch.estimates, watch.logged, strict=True):
        assert logged["train/kl/coefficient"] == pytest.approx(coefficient, rel=1e-6)
        gap = rollout.logprobs - rollout.reference
        torch.testing.assert_close(told.rewards[0, :2], -coefficient * gap[0, :2], rtol=1e-5, atol=1e-6)
        kl = rollout.kl().mean().item()
        coefficient *= 1 + min(max(kl / 0.05 - 1, -0.2), 0.2) * 2 / 4
    assert judge.kl.coefficient.item() == pytest.approx(coefficient, rel=1e-6)
    assert len({logged["train/kl/coefficient"] for logged in watch.logged}) == 4
    assert watch.logged[0]["train/kl/reference"] == pytest.approx(0.0, abs=1e-6)  # the reference is the start


STEPS = {"adef": [Step(0, 0.5), Step(2, -0.25), Step(4, 2.0)], "d": [Step(1, 1.0)]}


@pytest.mark.parametrize(
    ("shaping", "rows"),
    [
        ("none", [[0.5, 0, -0.25, 0, 2], [0, 1, 0, 0, 0]]),
        ("clip", [[0, 0, -0.75, 0, 0], [0, 0, 0, 0, 0]]),  # min(r - 0.5, 0)
        ("delta", [[0.75, 0, -0.25, 0, 0], [0, 0, 0, 0, 0]]),  # r1 - r2, r2, 0; one step: 0
        ("clip_delta", [[0.75, 0, -0.75, 0, 0], [0, 0, 0, 0, 0]]),
    ],
)
def test_steps_are_shaped(shaping: Any, rows: list[list[float]], tmp_path: Path) -> None:
    threshold = 0.5 if "clip" in shaping else 0.0
    judge = signal({"adef": 1.0, "d": 3.0}, STEPS, step_shaping=shaping, step_threshold=threshold, standardise=False)
    policy = ppo(signal=judge, engine=Scripted([["adef", "d"]]), advantage=RLOO(), samples=2, max_new_tokens=5)
    watch = fit(policy, tmp_path, ["h"])
    assert watch.rollouts[0].steps.tolist() == rows and watch.rollouts[0].scores.tolist() == [1.0, 3.0]
    rows[0][4] += 1.0  # the score of the whole stands beside the last step's
    rows[1][1] += 3.0
    assert watch.estimates[0].rewards.tolist() == rows


def test_rewards_of_steps_have_the_units_of_scores(tmp_path: Path) -> None:
    """Scores 1 and 3: mean 2, deviation sqrt(2) (n - 1); the steps are divided by it and, like scores, bounded by 1."""
    judge = signal({"adef": 1.0, "d": 3.0}, STEPS, clip=1.0)
    policy = ppo(signal=judge, engine=Scripted([["adef", "d"]]), advantage=RLOO(), samples=2, max_new_tokens=5)
    rewards = fit(policy, tmp_path, ["h"]).estimates[0].rewards
    unit = 0.5**0.5
    expected = [[0.5 * unit, 0, -0.25 * unit, 0, 1 - unit], [0, unit + unit, 0, 0, 0]]  # 2 / sqrt(2) is over the bound
    torch.testing.assert_close(rewards, torch.tensor(expected))


def test_an_empty_answer_is_not_above_one_with_bad_steps() -> None:
    """The wrong answer has 0 for the whole and -1, -2 for its steps: -3; the empty one gets no more than that."""
    judge = signal({"ad": 0.0}, {"ad": [Step(0, -1.0), Step(1, -2.0)]})
    assert judge.judge(episodes("ad", ""))[0][1].score == -3.0


def test_weights_that_are_all_zero_are_refused() -> None:
    watched = Table({})
    watched.weight = 0.0
    with pytest.raises(UserError, match="all weights are 0, so that every answer would score 0"):
        RewardSignal({"watched": watched})


def test_rewards_are_weighted_and_named() -> None:
    both = RewardSignal({"one": Table({"a": 1.0, "d": 2.0}), "two": Table({"a": 3.0})})
    both.rewards["one"].weight, both.rewards["two"].weight = 0.5, 0.0
    judged = both.judge(episodes("a", "d"))
    assert [total.score for total in judged.totals] == [0.5, 1.0]  # the other is watched alone
    assert judged.scores["one"] == [1.0, 2.0]
    assert judged.scores["two"][0] == 3.0 and math.isnan(judged.scores["two"][1])


def test_an_answer_without_text_gets_the_lowest_reward() -> None:
    """No reward function sees it; it is the lowest of what the others got, or left out."""
    judged = signal({"a": 1.0, "d": -2.0}).judge(episodes("a", "", "d", ""))
    assert [total.score for total in judged.totals] == [1.0, -2.0, -2.0, -2.0]
    assert [total.reason for total in judged.totals] == [""] * 4
    assert judged.reasons["table"] == ["", "empty_answer", "", "empty_answer"]
    judged = signal({"a": 1.0, "d": -2.0}, empty="drop").judge(episodes("a", "", "d", ""))
    assert [total.reason for total in judged.totals] == ["", "empty_answer", "", "empty_answer"]
    assert math.isnan(judged.totals[1].score) and math.isnan(judged.scores["table"][1])
    judged = signal().judge(episodes("", ""))  # there is no lowest
    assert [total.reason for total in judged.totals] == ["empty_answer"] * 2


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_is_never_a_zero(score: float) -> None:
    with pytest.raises(UserError, match=r"'h' of made .*\(table:not_finite\): 'd'; set unjudged to drop"):
        signal({"a": 1.0, "d": score}).judge(episodes("a", "d"))
    judged = signal({"a": 1.0, "d": score}, unjudged="drop").judge(episodes("d", "a", ""))
    assert [total.reason for total in judged.totals] == ["table:not_finite", "", ""]
    assert math.isnan(judged.totals[0].score) and judged.totals[2].score == 1.0  # nor the lowest


def test_answers_that_are_left_out_count_nowhere(tmp_path: Path) -> None:
    """Of (1, ?, 3) the moments see 1 and 3, and RLOO compares these two; nothing is known of the other."""
    judge = signal({"ad": 1.0, "d": 3.0}, {"e": [Step(0, 9.0)]}, unjudged="drop")
    options: dict[str, Any] = {"engine": Scripted([["ad", "e", "d"]]), "advantage": RLOO(), "reference": "copy"}
    policy = ppo(signal=judge, samples=3, max_new_tokens=4, **options)
    watch = fit(policy, tmp_path, ["h"])
    rollout, told, logged = watch.rollouts[0], watch.estimates[0], watch.logged[0]
    assert rollout.reasons == ("", "table:unknown", "") and rollout.kept.tolist() == [True, False, True]
    assert rollout.mask.tolist() == [[True, True, True], [False] * 3, [True, True, False]]
    assert rollout.scores.tolist() == [1.0, 0.0, 3.0] and int(judge.moments.count) == 2 and judge.moments.mean == 2
    root = math.sqrt(2)
    torch.testing.assert_close(told.advantages, torch.tensor([[-root] * 3, [0.0] * 3, [root, root, 0.0]]))
    assert logged["train/answers/left_out"] == pytest.approx(1 / 3)
    assert logged["train/reward/raw"] == 2.0 and logged["train/rewards/table"] == 2.0
    for name in ("logprobs", "reference"):
        assert getattr(rollout, name)[1].tolist() == [0.0] * 3  # whatever stands outside the mask is 0


@pytest.mark.parametrize("critic", [False, True])
def test_an_answer_that_is_left_out_moves_nothing(critic: bool, tmp_path: Path) -> None:
    """With it or without it the gradient is the same."""
    options: dict[str, Any] = {"critic": NewCritic()} if critic else {"advantage": RLOO()}
    options |= {"max_new_tokens": 4, "reference": "copy", "max_grad_norm": None}
    three = signal({"ad": 1.0, "d": 3.0}, unjudged="drop", kl_in="loss", kl_estimator="k3", kl=FixedKL(0.1))
    two = signal({"ad": 1.0, "d": 3.0}, kl_in="loss", kl_estimator="k3", kl=FixedKL(0.1))
    one = fit(ppo(signal=three, engine=Scripted([["ad", "e", "d"]]), samples=3, **options), tmp_path, ["h"])
    other = fit(ppo(signal=two, engine=Scripted([["ad", "d"]]), samples=2, **options), tmp_path, ["h"])
    for name, gradient in other.gradients[0].items():
        if gradient is not None:
            torch.testing.assert_close(one.gradients[0][name], gradient, rtol=1e-4, atol=1e-7)
    assert sum(g is not None and bool(g.any()) for g in other.gradients[0].values()) > 5


@pytest.mark.parametrize("options", [{"critic": NewCritic(), "target_kl": 9.0}, {"advantage": RLOO()}])
def test_a_rollout_of_which_nothing_counts_moves_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    """Neither weight decay nor the momentum of an earlier step do; moments and coefficient stay as they are."""
    judge = RewardSignal({"table": Table({"a": 1.0, "d": 3.0})}, AdaptiveKL(horizon=4), unjudged="drop", empty="drop")
    engine = Scripted([["a", "d"]])
    policy = ppo(signal=judge, engine=engine, samples=2, max_new_tokens=3, **options)
    seen: list[dict[str, torch.Tensor]] = []

    class Note(L.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            seen.append(copied(policy))
            engine.groups = [["e", ""]] if len(seen) == 1 else [["a", "d"]]

    watch = fit(policy, tmp_path, ["h"], 3, Note())
    assert [rollout.kept.tolist() for rollout in watch.rollouts] == [[True] * 2, [False] * 2, [True] * 2]
    assert [name for name in seen[0] if not torch.equal(seen[0][name], seen[1][name])] == []
    assert [name for name in seen[1] if not torch.equal(seen[1][name], seen[2][name])] != []
    assert watch.logged[1]["train/answers/left_out"] == 1.0
    assert all(tensor.isfinite().all() for tensor in seen[2].values())


def test_a_reward_that_shares_needs_a_critic(tmp_path: Path) -> None:
    shared = RewardSignal({"rm": LearnedReward("nowhere", share_with_critic=True)})
    with pytest.raises(UserError, match=r"rewards.rm: share_with_critic = True, but there is no critic; set it to fal"):
        fit(ppo(signal=shared, advantage=RLOO(), samples=2), tmp_path, ["h"])
