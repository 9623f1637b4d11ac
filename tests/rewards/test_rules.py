"""Rewards by rules."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch
from rewards.exported import episodes, processor, row

from lit_ixc.records import UserError
from lit_ixc.rewards import Judgement
from lit_ixc.rewards.rules import FormatReward, LengthPenalty, MissingEndPenalty, VerifierReward, matches

CPU = torch.device("cpu")
YES = {"truth": {"verifier": "yes_no", "arguments": {"expected": "yes"}}}


def truth(word: str) -> dict[str, Any]:
    return {"truth": {"verifier": "keywords", "arguments": {"include": [word]}}}


def test_each_row_is_checked_by_its_own_truth() -> None:
    red, blue = row("Which?", metadata=truth("red")), row("Which?", metadata=truth("blue"))
    found = VerifierReward(right=2.0, wrong=-1.0)([*episodes(red, "a red one", "blue", ""), *episodes(blue, "blue")])
    assert found == [Judgement(2.0), Judgement(-1.0), Judgement(-1.0), Judgement(2.0)]


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, "no_truth"),
        ({"truth": "red"}, "no_truth"),
        ({"truth": {"verifier": "psychic"}}, "unknown_verifier"),
        ({"truth": {"verifier": "keywords", "arguments": {"includes": ["red"]}}}, "unknown_argument"),
    ],
)
def test_a_row_whose_truth_cannot_be_read_is_not_judged(metadata: dict[str, Any], reason: str) -> None:
    good = row("Which?", metadata=truth("red"))
    first, second, third = VerifierReward()(
        [*episodes(row("Which?", metadata=metadata), "red", "blue"), *episodes(good, "red")]
    )
    assert math.isnan(first.score) and first.reason == second.reason == reason
    assert third == Judgement(1.0)


def test_a_named_verifier_has_its_arguments_or_the_reference_answer() -> None:
    record = row("How many?", best="There are 12 of them", metadata=truth("red"))
    fixed = VerifierReward(verifier="keywords", arguments={"include": ["blue"]})
    assert fixed(episodes(record, "red", "blue")) == [Judgement(0.0), Judgement(1.0)]
    by_reference = VerifierReward(verifier="exact_match")
    assert by_reference(episodes(record, "There are 12 of them", "13")) == [Judgement(1.0), Judgement(0.0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"right": math.nan}, "choose finite numbers"),
        ({"arguments": {"include": ["a"]}}, "name the verifier"),
        ({"verifier": "psychic"}, "verifier = psychic: give its arguments, or use one of"),
        ({"verifier": "keywords"}, "verifier = keywords: give its arguments, or use one of"),
        ({"verifier": "psychic", "arguments": {}}, "unknown verifier"),
        ({"verifier": "keywords", "arguments": {"includes": []}}, "includes.*unknown argument"),
    ],
)
def test_a_verifier_that_cannot_be_built_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        VerifierReward(**options)


def test_tokens_beyond_the_target_cost() -> None:
    penalty = LengthPenalty(target=4, per_token=0.5)
    record = row("Which?")
    found = [penalty(episodes(record, "red", tokens=tokens))[0].score for tokens in (1, 4, 5, 10)]
    assert found == [0.0, 0.0, -0.5, -3.0]  # -(5 - 4) / 2, -(10 - 4) / 2


def test_the_target_follows_the_best_known_answer() -> None:
    pieces = processor()
    penalty = LengthPenalty(relative=2.0, per_token=1.0)
    penalty.prepare(CPU, pieces)  # type: ignore[arg-type]
    known = len(pieces.tokenizer("yes no", add_special_tokens=False)["input_ids"]) + 1  # its end counts too
    first, second = row("Which?", best="yes no"), row("Which?", best="no" * 40)
    found = penalty([*episodes(first, "red", tokens=2 * known + 3), *episodes(second, "red", tokens=2 * known + 3)])
    assert [one.score for one in found] == [-3.0, 0.0]
    (broken,) = penalty(episodes(row("<ImageHere>"), "red"))
    assert broken.reason == "surplus_placeholder"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give exactly one of both"),
        ({"target": 3, "relative": 1.0}, "give exactly one of both"),
        ({"target": -1}, "target = -1"),
        ({"relative": math.inf}, "relative = inf"),
        ({"target": 1, "per_token": -0.1}, "per_token = -0.1"),
    ],
)
def test_a_length_penalty_is_a_penalty(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LengthPenalty(**options)


def test_an_answer_without_an_end_costs() -> None:
    record = row("Which?")
    answers = [*episodes(record, "red"), *episodes(record, "blue", ended=False)]
    assert MissingEndPenalty(penalty=-2.5)(answers) == [Judgement(0.0), Judgement(-2.5)]
    for penalty in (0.5, math.nan, -math.inf):
        with pytest.raises(UserError, match=r"penalty = "):
            MissingEndPenalty(penalty=penalty)


def test_a_pattern_must_match_the_whole_answer() -> None:
    reward = FormatReward(r"<think>.*</think>\s*\w+", right=1.0, wrong=-1.0)
    texts = ["<think>a\nb</think> yes", "<think>a</think> yes, it is", "yes", "", "<think></think>ñ"]
    found = reward(episodes(row("Which?"), *texts))
    assert [one.score for one in found] == [1.0, -1.0, -1.0, -1.0, 1.0]
    assert reward([]) == []


def test_a_hopeless_text_is_not_judged_and_takes_no_other_with_it() -> None:
    hopeless = "a" * 60 + "c"  # (a+)+b tries 2^59 ways
    start = time.monotonic()
    assert matches("(a+)+b", ["aab", hopeless, "c", hopeless, "ab"], 0.1) == [True, None, False, None, True]
    assert time.monotonic() - start < 10
    (found,) = FormatReward("(a+)+b", seconds=0.1)(episodes(row("Which?"), hopeless))
    assert math.isnan(found.score) and found.reason == "pattern_timeout"


@pytest.mark.parametrize(
    "options", [{"pattern": "(a"}, {"pattern": "a", "seconds": 0}, {"pattern": "a", "wrong": math.nan}]
)
def test_a_format_that_cannot_be_checked_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"FormatReward: "):
        FormatReward(**options)
