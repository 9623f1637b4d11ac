"""How several rewards become one."""

from __future__ import annotations

import math

import pytest
from rewards.exported import episodes, row

from lit_ixc.records import UserError
from lit_ixc.rewards import Judgement, Reward, Step, combine
from lit_ixc.rewards.interface import by_prompt, prompt_text
from lit_ixc.rewards.rules import MissingEndPenalty


def test_scores_and_steps_are_weighted_sums() -> None:
    found = combine(
        {
            "a": [Judgement(2.0, steps=(Step(1, 4.0), Step(3, 1.0))), Judgement(-1.0)],
            "b": [Judgement(3.0, steps=(Step(0, 5.0), Step(3, 2.0))), Judgement(10.0)],
        },
        {"a": 0.5, "b": -2.0},
    )
    # 0.5 * 2 - 2 * 3 = -5; steps: -2 * 5 at 0, 0.5 * 4 at 1, 0.5 * 1 - 2 * 2 at 3
    assert found.totals[0] == Judgement(-5.0, "", (Step(0, -10.0), Step(1, 2.0), Step(3, -3.5)))
    assert found.totals[1] == Judgement(-20.5)  # 0.5 * -1 - 2 * 10
    assert found.scores == {"a": [2.0, -1.0], "b": [3.0, 10.0]}
    assert found.reasons == {"a": ["", ""], "b": ["", ""]}


def test_an_answer_that_a_reward_cannot_judge_has_no_total() -> None:
    steps = (Step(0, 1.0),)
    nan = Judgement(math.nan, "no_truth")
    judgements = {"a": [nan, Judgement(1.0, steps=steps)], "b": [Judgement(2.0, steps=steps), nan]}
    found = combine(judgements, {"a": 1.0, "b": 1.0})
    assert [total.reason for total in found.totals] == ["a:no_truth", "b:no_truth"]
    assert all(math.isnan(total.score) and total.steps == () for total in found.totals)
    assert found.scores["b"][0] == 2.0 and math.isnan(found.scores["a"][0])
    assert found.reasons == {"a": ["no_truth", ""], "b": ["", "no_truth"]}


def test_a_reward_of_weight_zero_is_only_watched() -> None:
    judgements = {
        "a": [Judgement(3.0)] * 2,
        "b": [Judgement(math.nan, "no_truth"), Judgement(5.0, steps=(Step(0, 7.0),))],
    }
    found = combine(judgements, {"a": 1.0, "b": 0.0})
    assert found.totals == [Judgement(3.0), Judgement(3.0)]
    assert found.scores["b"][1] == 5.0 and found.reasons["b"] == ["no_truth", ""]


@pytest.mark.parametrize(
    "judgement", [Judgement(math.inf), Judgement(math.nan), Judgement(1.0, steps=(Step(0, 0.0), Step(1, -math.inf)))]
)
def test_a_number_that_is_not_finite_never_reaches_the_total(judgement: Judgement) -> None:
    found = combine({"a": [judgement]}, {"a": 1.0})
    assert found.totals[0].reason == "a:not_finite" and math.isnan(found.totals[0].score)
    assert found.totals[0].steps == () and math.isnan(found.scores["a"][0])


def test_rewards_must_judge_the_same_answers() -> None:
    with pytest.raises(UserError, match=r"found a 1, b 2"):
        combine({"a": [Judgement(1.0)], "b": [Judgement(1.0)] * 2}, {"a": 1.0, "b": 1.0})
    with pytest.raises(UserError, match=r"found no rewards"):
        combine({}, {})
    assert combine({"a": []}, {"a": 1.0}).totals == []


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_weight_is_finite(weight: float) -> None:
    with pytest.raises(UserError, match=r"MissingEndPenalty: weight = "):
        MissingEndPenalty(weight=weight)
    assert issubclass(MissingEndPenalty, Reward) and MissingEndPenalty(weight=-0.5).weight == -0.5


def test_answers_to_one_prompt_stand_side_by_side() -> None:
    first, second = row("What is it?"), row("What is it?")  # equal rows are two prompts all the same
    assert list(by_prompt([*episodes(first, "a", "b"), *episodes(second, "c")])) == [[0, 1], [2]]
    assert prompt_text(first.prompt) == "What is it?"
