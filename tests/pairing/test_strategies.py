"""Each strategy on cases small enough to see all pairs."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_ixc.pairing.cases import Answer, Case, Label, NoPair, Pair
from lit_ixc.pairing.labels import LabelRule, make_labeller
from lit_ixc.pairing.pipeline import SetRun
from lit_ixc.pairing.plan import Plan
from lit_ixc.pairing.strategies import (
    BestAgainstWorst,
    CorruptedImage,
    PerturbedAnswer,
    Posed,
    Ranking,
    ReferenceAgainstWorst,
    RightAnswers,
    Strategy,
    VerifiedAgainstFailed,
)
from lit_ixc.records import Comparison, ImagePart, UserError, text_message
from tests.datamodules.fakes import png
from tests.pairing.helpers import ListRows, LongerJudge, ScriptedPolicy, image_row, row

RULE, JUDGE = "verifier:math", "judge:j"


def case(reference: float | None, *scores: float | None, by: str = RULE, seed: str = "") -> Case:
    """Answers named by their place (0, 1, ...), the reference by R; None: no label."""

    def answer(name: str, score: float | None) -> Answer:
        label = None if score is None else Label(score, by, "because")
        return Answer((text_message("assistant", name),), {"number": name}, label)

    return Case(row("a"), answer("R", reference), tuple(answer(str(k), s) for k, s in enumerate(scores)), seed)


def names(pair: Pair) -> str:
    return "".join(answer.messages[0].text for answer in pair.answers)


def found(strategy: Strategy, one: Case) -> list[str] | str:
    """The pairs by the names of their answers, best first, or the reason for none."""
    pairs = strategy.pairs(one)
    return pairs.reason if isinstance(pairs, NoPair) else [names(pair) for pair in pairs]


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (case(1, 1, 0, 1), ["R1"]),
        (case(1, 1, 1), "all_correct"),
        (case(0, 1, 0), "reference_wrong"),
        (case(0, 1, 1), "reference_wrong"),
        (case(0.5, 0.5, 0, 1, by=JUDGE), ["R1"]),
        (case(0.5, 0.5, 0.5, by=JUDGE), "tie"),
        (case(0.5, 0.5, 1, by=JUDGE), "none_worse"),
    ],
)
def test_reference_against_worst(one: Case, expected: object) -> None:
    assert found(ReferenceAgainstWorst(), one) == expected


def test_scores_go_along() -> None:
    pairs = ReferenceAgainstWorst().pairs(case(0.5, 0, by=JUDGE))
    assert not isinstance(pairs, NoPair) and pairs[0].scores == (0.5, 0)


def test_which_of_equally_bad_answers_is_drawn_by_the_seed() -> None:
    drawn = [found(ReferenceAgainstWorst(), case(1, 0, 1, 0, 0, seed=str(seed)))[0] for seed in range(40)]
    assert set(drawn) == {"R0", "R2", "R3"}  # never the right one
    assert drawn == [found(ReferenceAgainstWorst(), case(1, 0, 1, 0, 0, seed=str(seed)))[0] for seed in range(40)]


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (case(1, 0, 1), ["10"]),
        (case(0, 0, 1), ["10"]),  # what the reference says is no matter
        (case(1, 1, 1), "all_correct"),
        (case(1, 0, 0), "all_wrong"),
        (case(0.5, 0.5, by=JUDGE), "tie"),
        (case(0.5, 0, 0, by=JUDGE), "all_worse"),
        (case(0.5, 0.5, 1, by=JUDGE), ["10"]),
    ],
)
def test_best_against_worst(one: Case, expected: object) -> None:
    assert found(BestAgainstWorst(), one) == expected


@pytest.mark.parametrize(
    ("strategy", "one", "expected"),
    [
        (VerifiedAgainstFailed(9), case(1, 0, 1, 1, 0), ["10", "13", "20", "23"]),
        (VerifiedAgainstFailed(9, with_reference=True), case(1, 0, 1), ["R0", "10"]),
        (VerifiedAgainstFailed(9, with_reference=True), case(0, 0, 1), ["1R", "10"]),
        (VerifiedAgainstFailed(9), case(1, 0, 0), "all_wrong"),
        (VerifiedAgainstFailed(9, with_reference=True), case(1, 0, 0), ["R0", "R1"]),
        (VerifiedAgainstFailed(9, with_reference=True), case(0, 0, 0), "reference_wrong"),
        (VerifiedAgainstFailed(9), case(1, 1, 1), "all_correct"),
        (VerifiedAgainstFailed(9), case(0.5, 0, 0.5, 1, by=JUDGE), ["10", "20"]),  # a tie with the reference is right
        (VerifiedAgainstFailed(9), case(0.5, 0.5, 1, by=JUDGE), "none_worse"),
    ],
)
def test_verified_against_failed(strategy: Strategy, one: Case, expected: object) -> None:
    assert found(strategy, one) == expected


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=8), st.integers(1, 6), st.text(max_size=3))
def test_the_cap_draws_among_all_pairs(scores: list[float], cap: int, seed: str) -> None:
    capped = found(VerifiedAgainstFailed(cap), case(1, *scores, seed=seed))
    everything = found(VerifiedAgainstFailed(100), case(1, *scores, seed=seed))
    right, wrong = scores.count(1.0), scores.count(0.0)
    if right * wrong == 0:
        assert capped == everything == ("all_correct" if right else "all_wrong")
    else:
        assert len(everything) == right * wrong and len(capped) == min(cap, right * wrong)
        assert set(capped) <= set(everything) and len(set(capped)) == len(capped)


def test_the_cap_reaches_every_pair() -> None:
    drawn = {found(VerifiedAgainstFailed(1), case(1, 1, 0, 1, 0, seed=str(seed)))[0] for seed in range(60)}
    assert drawn == {"01", "03", "21", "23"}


@pytest.mark.parametrize(
    ("strategy", "one", "expected"),
    [
        (Ranking(), case(0.5, 0, 1, 0.5, by=JUDGE), ["1R20"]),
        (Ranking(with_reference=False), case(1, 0, 1), ["10"]),
        (Ranking(), case(1, 1, 1), "all_correct"),
        (Ranking(), case(0, 0), "reference_wrong"),
        (Ranking(with_reference=False), case(0, 0), "all_wrong"),
        (Ranking(), case(0.5, 0.5, by=JUDGE), "tie"),
    ],
)
def test_ranking(strategy: Strategy, one: Case, expected: object) -> None:
    assert found(strategy, one) == expected


@pytest.mark.parametrize(
    ("strategy", "one", "expected"),
    [
        (RightAnswers(), case(1, 1, 0, 1), ["02"]),
        (RightAnswers(), case(1, 0, 1), ["1"]),  # a row of one
        (RightAnswers(), case(0, 0, 1), ["1"]),  # what the reference says is no matter
        (RightAnswers(), case(1, 0, 0), "all_wrong"),
        (RightAnswers(with_reference=True), case(1, 1, 0), ["R0"]),
        (RightAnswers(with_reference=True), case(1, 0, 0), ["R"]),
        (RightAnswers(with_reference=True), case(0, 1, 0), ["0"]),
        (RightAnswers(with_reference=True), case(0, 0), "reference_wrong"),
        (RightAnswers(), case(0.5, 0, 0.5, 1, by=JUDGE), ["12"]),  # a tie with the reference is right
        (RightAnswers(), case(0.5, 0, by=JUDGE), "all_worse"),
    ],
)
def test_right_answers(strategy: Strategy, one: Case, expected: object) -> None:
    assert found(strategy, one) == expected


def test_right_answers_are_equals_whatever_a_judge_says() -> None:
    pairs = RightAnswers().pairs(case(0.5, 0.5, 1, by=JUDGE))
    assert not isinstance(pairs, NoPair) and pairs[0].scores == (1, 1)


def test_which_right_answers_are_taken_is_drawn_by_the_seed() -> None:
    drawn = {found(RightAnswers(2), case(1, 1, 0, 1, 1, seed=str(seed)))[0] for seed in range(40)}
    assert drawn == {"02", "03", "23"}


def right_rows(folder: Path, rule: LabelRule, strategy: Strategy, script: dict[str, list[str]]) -> list[object]:
    """The responses and ranks of the row made of each prompt, or why there is none."""
    truth = {"truth": {"verifier": "final_number", "arguments": {"value": 4}}}
    rows = [row(name, "It is 4.", metadata=truth) for name in script]
    policy = ScriptedPolicy({f"made/{name}": list(texts) for name, texts in script.items()})
    plan = Plan(strategy, make_labeller({"default": rule}, {"j": LongerJudge()}), policy, samples=4)
    run = SetRun(plan, ListRows(rows), folder, {"set": "made"})
    run.draw()
    run.label()
    return [shown(result.outcome) for result in run.results()]


def shown(outcome: list[Comparison] | NoPair) -> object:
    if isinstance(outcome, NoPair):
        return outcome.reason
    (one,) = outcome
    return [one.response_text(k) for k in range(len(one.responses))], one.ranks


def test_a_sample_that_says_what_the_reference_says_is_a_right_answer_once(tmp_path: Path) -> None:
    script = {
        "a": ["It is 5.", " It is 4. ", "So 4", "It is 4."],
        "b": ["It is 4."] * 4,
        "c": ["5", "6", "7", "8"],
    }
    by_rule = LabelRule(verifier="truth")
    expected = [(["It is 4.", "So 4"], (0, 0)), (["It is 4."], (0,)), "all_wrong"]
    assert right_rows(tmp_path / "r", by_rule, RightAnswers(), script) == expected
    # with the reference, which is no second copy of a sample that says the same
    expected[2] = (["It is 4."], (0,))
    assert right_rows(tmp_path / "w", by_rule, RightAnswers(with_reference=True), script) == expected
    # a judge that takes the longer one: 5 is as long as the reference, and so is not worse
    judged = right_rows(tmp_path / "j", LabelRule(judge="j"), RightAnswers(), script)
    assert judged == [(["It is 5.", "It is 4."], (0, 0)), (["It is 4."], (0,)), "all_worse"]
    # other strategies leave copies out
    others = right_rows(tmp_path / "o", by_rule, ReferenceAgainstWorst(), script)
    assert others[:2] == [(["It is 4.", "It is 5."], (0, 1)), "same_answer"]


def test_answers_to_a_damaged_image_are_rejected_unseen_or_by_their_labels() -> None:
    assert found(CorruptedImage(pairs_per_prompt=2), case(None, None, None, None)) == ["R0", "R1"]
    assert found(CorruptedImage(labelled=True), case(1, 1, 0)) == ["R1"]
    assert found(CorruptedImage(labelled=True), case(1, 1)) == "all_correct"
    unscored = CorruptedImage().pairs(case(None, None))
    assert not isinstance(unscored, NoPair) and unscored[0].scores is None


def other_image(random: Random) -> ImagePart:
    return ImagePart("other.png", b"other")


def test_what_the_policy_is_asked_about_a_damaged_image() -> None:
    one = image_row("a", png((200, 0, 0), (40, 40)))
    posed = CorruptedImage(["swap"]).pose(one, Random(0), other_image)
    assert isinstance(posed, Posed) and posed.note == {"corruption": "swap"}
    assert posed.prompt.media == (ImagePart("other.png", b"other"),)
    kinds = {CorruptedImage().pose(one, Random(seed), other_image).note["corruption"] for seed in range(60)}  # type: ignore[union-attr]
    assert kinds == {"crop", "blur", "swap", "colour", "low_resolution"}


def test_what_cannot_be_damaged() -> None:
    def reason(one: object) -> str:
        assert isinstance(one, NoPair)
        return one.reason

    def nobody(random: Random) -> None:
        return None

    assert reason(CorruptedImage().pose(row("a"), Random(0), other_image)) == "no_image"
    image = image_row("a", png((1, 2, 3)))
    assert reason(CorruptedImage(["swap"]).pose(image, Random(0), nobody)) == "no_other_image"
    broken = CorruptedImage(["blur"]).pose(image_row("a", b"broken"), Random(0), other_image)
    assert reason(broken) == "unreadable_image"


def test_written_answers_differ_from_the_reference_in_one_fact() -> None:
    one = row("a", "There are 12 red circles on the left.")
    written = PerturbedAnswer(["colour", "direction"], pairs_per_prompt=9).write(one, Random(0))
    assert {candidate.origin["kind"] for candidate in written} == {"colour", "direction"}
    assert all(candidate.origin["old"] in ("red", "left") and "12" in candidate.text for candidate in written)
    assert [candidate.number for candidate in written] == [0, 1, 2]  # two for the colour, one for the direction
    assert len(PerturbedAnswer().write(one, Random(0))) == 1
    assert PerturbedAnswer().write(row("a", "Nothing to see."), Random(0)) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: CorruptedImage(["rotate"]),  # type: ignore[list-item]
        lambda: CorruptedImage([]),
        lambda: PerturbedAnswer(["name"]),  # type: ignore[list-item]
        lambda: VerifiedAgainstFailed(0),
        lambda: RightAnswers(0),
        lambda: PerturbedAnswer(pairs_per_prompt=0),
    ],
)
def test_arguments_are_checked(make: object) -> None:
    with pytest.raises(UserError, match="give"):
        make()  # type: ignore[operator]
