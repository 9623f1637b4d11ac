"""How labelled answers become pairs. Each strategy is a class of one method; configs name it by its path."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, ClassVar, NamedTuple

from lit_ixc.pairing.cases import Answer, Candidate, Case, NoPair, Pair, reference_of, text_of
from lit_ixc.pairing.corruption import KINDS as CORRUPTIONS
from lit_ixc.pairing.corruption import Corruption, corrupt_prompt
from lit_ixc.pairing.perturbation import KINDS as PERTURBATIONS
from lit_ixc.pairing.perturbation import Perturbation, edits
from lit_ixc.records import Comparison, ImagePart, Prompt, RecordError, UserError

Donor = Callable[[Random], ImagePart | None]


class Posed(NamedTuple):
    """A prompt as the policy sees it, and what provenance says of the change (JSON values)."""

    prompt: Prompt
    note: dict[str, Any]


class Strategy(ABC):
    """Makes pairs of a case.

    Args:
        labelled: Whether the answers need labels.
        writes_answers: Whether the strategy writes the answers itself; then neither policy nor file is asked.
        changes_prompt: Whether the policy sees another prompt than the row's.
        keeps_copies: Whether an answer may be a copy of the reference. It has the label of the reference, and is the
            only one of its text.
    """

    labelled: bool = True
    writes_answers: ClassVar[bool] = False
    changes_prompt: ClassVar[bool] = False
    keeps_copies: ClassVar[bool] = False

    @abstractmethod
    def pairs(self, case: Case) -> list[Pair] | NoPair:
        """The pairs, or why there are none."""

    def pose(self, row: Comparison, random: Random, donor: Donor) -> Posed | NoPair:
        """What the policy is asked, or why it cannot be: the row's own prompt, unless the strategy changes it.

        Args:
            row: The row.
            random: What the strategy draws from.
            donor: Draws an image of another row.
        """
        return Posed(row.prompt, {})

    def write(self, row: Comparison, random: Random) -> list[Candidate]:
        """The answers of a strategy that writes them itself."""
        return []

    def describe(self) -> dict[str, Any]:
        """Name and arguments, JSON values for provenance."""
        return {"name": type(self).__name__, **vars(self)}


class ReferenceAgainstWorst(Strategy):
    """The reference against the worst answer, one pair: the paper's (arXiv 2501.12368, section 3.1).

    Of several that are equally bad, one is drawn.
    """

    def pairs(self, case: Case) -> list[Pair] | NoPair:
        worst = _drawn(case, min)
        if worst.score < case.reference.score:
            return [_scored(case.reference, worst)]
        return _no_pair(case, [*case.answers, case.reference])


class BestAgainstWorst(Strategy):
    """The best answer against the worst one, one pair; the reference serves the labels alone."""

    def pairs(self, case: Case) -> list[Pair] | NoPair:
        best, worst = _drawn(case, max), _drawn(case, min)
        return [_scored(best, worst)] if worst.score < best.score else _no_pair(case, case.answers)


class VerifiedAgainstFailed(Strategy):
    """All right answers against all wrong ones. Before a judge, an answer is wrong that loses to the reference.

    Args:
        pairs_per_prompt: Most pairs of a prompt; which ones is drawn.
        with_reference: Count the reference among the answers.
    """

    def __init__(self, pairs_per_prompt: int = 4, with_reference: bool = False) -> None:
        _check_count(pairs_per_prompt)
        self.pairs_per_prompt, self.with_reference = pairs_per_prompt, with_reference

    def pairs(self, case: Case) -> list[Pair] | NoPair:
        answers = [case.reference, *case.answers] if self.with_reference else case.answers
        right, wrong = ([answer for answer in answers if (answer.score > 0) == good] for good in (True, False))
        product = list(itertools.product(right, wrong))
        if not product:
            return _no_pair(case, answers)
        order = case.random.sample(range(len(product)), min(self.pairs_per_prompt, len(product)))
        return [_scored(*product[index]) for index in sorted(order)]


class Ranking(Strategy):
    """One comparison of all answers, ranked by their scores.

    Args:
        with_reference: Count the reference among the answers.
    """

    def __init__(self, with_reference: bool = True) -> None:
        self.with_reference = with_reference

    def pairs(self, case: Case) -> list[Pair] | NoPair:
        answers = [case.reference, *case.answers] if self.with_reference else list(case.answers)
        ordered = sorted(answers, key=lambda answer: -answer.score)
        return [_scored(*ordered)] if ordered[0].score > ordered[-1].score else _no_pair(case, ordered)


class RightAnswers(Strategy):
    """Right answers as an SFT row, one and all of rank 0: rejection-sampling data (RFT, arXiv 2308.01825).

    Before a judge, an answer is right that does not lose to the reference. Equal answers count once.

    Args:
        answers_per_prompt: Most answers of a row; which ones is drawn.
        with_reference: Count the reference among the answers.
    """

    keeps_copies = True

    def __init__(self, answers_per_prompt: int = 4, with_reference: bool = False) -> None:
        if answers_per_prompt < 1:
            raise UserError(f"answers_per_prompt = {answers_per_prompt}: give at least 1")
        self.answers_per_prompt, self.with_reference = answers_per_prompt, with_reference

    def pairs(self, case: Case) -> list[Pair] | NoPair:
        answers = list(case.answers)
        sampled = {text_of(answer.messages).strip() for answer in answers}
        if self.with_reference and text_of(case.reference.messages).strip() not in sampled:
            answers.insert(0, case.reference)
        right = [answer for answer in answers if answer.score > 0]
        if not right:
            return _no_pair(case, answers)
        order = case.random.sample(range(len(right)), min(self.answers_per_prompt, len(right)))
        return [Pair(tuple(right[index] for index in sorted(order)), (1.0,) * len(order))]


class CorruptedImage(Strategy):
    """The reference against answers that the policy gave to a damaged image (STIC, arXiv 2405.19716).

    The pair carries the image as it is. All images of a prompt are damaged in one way, which is drawn for each row.

    Args:
        kinds: Ways to draw from.
        pairs_per_prompt: Most pairs of a prompt, the first answers that differ.
        labelled: Label the answers, and reject only those that are worse than the reference. STIC rejects all of them.
    """

    changes_prompt = True

    def __init__(
        self, kinds: Sequence[Corruption] = CORRUPTIONS, pairs_per_prompt: int = 1, labelled: bool = False
    ) -> None:
        _check_kinds(kinds, CORRUPTIONS)
        _check_count(pairs_per_prompt)
        self.kinds, self.pairs_per_prompt, self.labelled = tuple(kinds), pairs_per_prompt, labelled

    def pose(self, row: Comparison, random: Random, donor: Donor) -> Posed | NoPair:
        if not any(isinstance(part, ImagePart) for part in row.prompt.media):
            return NoPair("no_image", "the prompt has no image that could be damaged")
        kind = random.choice(self.kinds)
        other = donor(random) if kind == "swap" else None
        if kind == "swap" and other is None:
            return NoPair("no_other_image", "the set has no other image to swap this one with")
        try:
            return Posed(corrupt_prompt(row.prompt, kind, random, other), {"corruption": kind})
        except RecordError as error:
            return NoPair(error.reason, str(error))

    def pairs(self, case: Case) -> list[Pair] | NoPair:
        return _reference_against(case, self.labelled, self.pairs_per_prompt)


class PerturbedAnswer(Strategy):
    """The reference against copies of itself in which one fact was changed; needs no policy.

    What is changed is a number, a colour, yes and no, a direction or the name of a thing, wherever the answer has it,
    so that the copy does not contradict itself. English alone. ``metadata.grade`` says how near the change is, from 1.

    Args:
        kinds: Facts that may be changed.
        pairs_per_prompt: Most pairs of a prompt, each with a change of its own; which ones is drawn.
        labelled: Label the copies, and reject only those that are worse than the reference.
    """

    writes_answers = True

    def __init__(
        self, kinds: Sequence[Perturbation] = PERTURBATIONS, pairs_per_prompt: int = 1, labelled: bool = False
    ) -> None:
        _check_kinds(kinds, PERTURBATIONS)
        _check_count(pairs_per_prompt)
        self.kinds, self.pairs_per_prompt, self.labelled = tuple(kinds), pairs_per_prompt, labelled

    def write(self, row: Comparison, random: Random) -> list[Candidate]:
        found = edits(text_of(reference_of(row)), self.kinds, random)
        chosen = random.sample(found, min(self.pairs_per_prompt, len(found)))
        return [
            Candidate(edit.text, number, {"from": "perturbation", **edit.note}) for number, edit in enumerate(chosen)
        ]

    def pairs(self, case: Case) -> list[Pair] | NoPair:
        return _reference_against(case, self.labelled, self.pairs_per_prompt)


def _drawn(case: Case, extreme: Callable[[Sequence[float]], float]) -> Answer:
    """The answer with the least or greatest score; one of several is drawn, so that no place among them is favoured."""
    score = extreme([answer.score for answer in case.answers])
    return case.random.choice([answer for answer in case.answers if answer.score == score])


def _scored(*answers: Answer) -> Pair:
    return Pair(answers, tuple(answer.score for answer in answers))


def _reference_against(case: Case, labelled: bool, most: int) -> list[Pair] | NoPair:
    """The reference against each answer; only against worse ones where they are labelled."""
    if not labelled:
        return [Pair((case.reference, answer)) for answer in case.answers[:most]]
    worse = [answer for answer in case.answers if answer.score < case.reference.score][:most]
    return [_scored(case.reference, answer) for answer in worse] or _no_pair(case, [*case.answers, case.reference])


def _no_pair(case: Case, answers: Sequence[Answer]) -> NoPair:
    """Why answers with these scores give no pair."""
    label = case.reference.label
    verified = label is not None and label.by.startswith("verifier:")
    if verified and label is not None and label.score == 0 and case.reference in answers:
        return NoPair("reference_wrong", f"the reference fails its verifier: {label.reason}")
    scores = {answer.score for answer in answers}
    if scores == {0.0}:
        return NoPair("all_wrong" if verified else "all_worse")
    if verified:
        return NoPair("all_correct")
    return NoPair("tie" if len(scores) == 1 else "none_worse")


def _check_kinds(kinds: Sequence[str], known: Sequence[str]) -> None:
    unknown = [kind for kind in kinds if kind not in known]
    if unknown or not kinds:
        raise UserError(f"kinds = {list(kinds)}: give one or more of {', '.join(known)}")


def _check_count(pairs_per_prompt: int) -> None:
    if pairs_per_prompt < 1:
        raise UserError(f"pairs_per_prompt = {pairs_per_prompt}: give at least 1")
