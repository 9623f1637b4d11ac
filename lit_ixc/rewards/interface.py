"""What a reward is: it judges the answers that a policy gave; and how several rewards become one number."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import nn

from lit_ixc.batch import ChatProcessor, EncodedMedia
from lit_ixc.records import Comparison, Prompt, UserError


class Episode(NamedTuple):
    """An answer that a policy gave.

    Args:
        record: The row: its prompt, its known answers, and the metadata that rewards read.
        text: The answer without special tokens and without white space around it; it may be empty.
        ids: The policy's tokens, the one that ends the answer included.
        ended: Whether the policy ended it; False where the length limit did.
        media: The prompt's media as the policy's processor encodes them.
    """

    record: Comparison
    text: str
    ids: tuple[int, ...]
    ended: bool
    media: EncodedMedia


class Step(NamedTuple):
    """The reward of one step of an answer.

    Args:
        end: Index of the last of the policy's tokens that belongs to the step.
        value: The reward.
    """

    end: int
    value: float


class Judgement(NamedTuple):
    """What a reward says of an answer.

    Args:
        score: The reward of the whole answer; NaN where it could not be judged.
        reason: Why it could not, in snake case.
        steps: Rewards of its steps, beside that of the whole.
    """

    score: float
    reason: str = ""
    steps: tuple[Step, ...] = ()


class Reward(ABC):
    """Judges answers.

    Args:
        weight: Factor of the reward in the total. With 0 it is logged alone.

    Raises:
        UserError: The weight is not finite.
    """

    def __init__(self, weight: float = 1.0) -> None:
        if not math.isfinite(weight):
            raise UserError(f"{type(self).__name__}: weight = {weight}: choose a finite number")
        self.weight = weight

    def prepare(self, device: torch.device, processor: ChatProcessor) -> None:  # noqa: B027 - most need nothing
        """Load what it needs; called once, before the first answers come.

        Args:
            device: Where its models run.
            processor: The policy's.
        """

    def adopt_vision(self, policy: nn.Module) -> None:  # noqa: B027 - most look at no images
        """Look whether features that the policy's vision encoder computed may be used; called behind ``prepare``."""

    @abstractmethod
    def __call__(self, episodes: Sequence[Episode]) -> list[Judgement]:
        """A judgement of each answer; those to one prompt stand side by side and share the record."""


class Combined(NamedTuple):
    """The judgements of several rewards as one.

    Args:
        totals: For each answer the weighted sums of scores and of steps. Where a reward that counts could not judge it,
            the score is NaN, the reason is ``name:reason`` of the first such, and there are no steps.
        scores: Of each reward, by its name, the plain scores of all answers.
        reasons: Of each reward, by its name, the reasons of all answers; empty where it could judge.
    """

    totals: list[Judgement]
    scores: dict[str, list[float]]
    reasons: dict[str, list[str]]


def combine(judgements: Mapping[str, Sequence[Judgement]], weights: Mapping[str, float]) -> Combined:
    """Weighted sum of rewards: ``sum_i w_i * score_i``, steps that end at the same token likewise.

    A score or a step that is not finite counts as not judged. A reward of weight 0 has no part in the total, so that
    one which cannot judge every answer may be watched all the same.

    Args:
        judgements: By name, one for each answer.
        weights: By the same names.

    Raises:
        UserError: The rewards judged different numbers of answers, or none is given.
    """
    counts = {name: len(own) for name, own in judgements.items()}
    if len(set(counts.values())) != 1:
        found = ", ".join(f"{name} {count}" for name, count in counts.items()) or "no rewards"
        raise UserError(f"rewards: one judgement of each answer is needed from each reward, found {found}")
    checked = {name: [_checked(one) for one in own] for name, own in judgements.items()}
    counted = [name for name in checked if weights[name]]
    return Combined(
        [
            _total({name: checked[name][index] for name in counted}, weights)
            for index in range(next(iter(counts.values())))
        ],
        {name: [one.score for one in own] for name, own in checked.items()},
        {name: [one.reason for one in own] for name, own in checked.items()},
    )


def _checked(judgement: Judgement) -> Judgement:
    """The judgement, or one of NaN with a reason where a number in it is not finite."""
    if all(map(math.isfinite, (judgement.score, *(step.value for step in judgement.steps)))):
        return judgement._replace(reason="")
    return Judgement(math.nan, judgement.reason or "not_finite")


def _total(judgements: Mapping[str, Judgement], weights: Mapping[str, float]) -> Judgement:
    for name, judgement in judgements.items():
        if judgement.reason:
            return Judgement(math.nan, f"{name}:{judgement.reason}")
    steps: dict[int, float] = {}
    for name, judgement in judgements.items():
        for end, value in judgement.steps:
            steps[end] = steps.get(end, 0.0) + weights[name] * value
    total = sum(weights[name] * judgement.score for name, judgement in judgements.items())
    return Judgement(float(total), "", tuple(Step(end, steps[end]) for end in sorted(steps)))


def unjudged(reason: str) -> Judgement:
    """The judgement of an answer that cannot be judged."""
    return Judgement(math.nan, reason)


def by_prompt(episodes: Sequence[Episode]) -> Iterator[list[int]]:
    """Indices of the answers to one prompt after the other."""
    for _, group in groupby(range(len(episodes)), key=lambda index: id(episodes[index].record)):
        yield list(group)


def prompt_text(prompt: Prompt) -> str:
    """The text of a prompt for programs that take strings: its messages line by line, media left out."""
    return "\n".join(message.text for message in prompt.messages)
