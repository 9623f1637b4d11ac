"""What every domain of the synthetic corpus makes: a question with a right and a wrong answer, always in twins.

Twins are two inputs whose right answers are each other's wrong answers: "What colour is the circle?" over a picture of
a red circle (right: red, wrong: blue) and over one of a blue circle (right: blue, wrong: red). So in every set each
answer is as often right as wrong, the longer answer is right as often as the shorter one, and whoever reads the answers
alone, or for pictures and clips the question and the answers, is right in half of the pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from PIL import Image

Frames = tuple[Image.Image, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """A question with a right and a wrong answer.

    Args:
        prompt: The question.
        right: The answer that holds.
        wrong: One of the same kind that does not.
        verifier: Name of the rule that an answer must meet.
        arguments: Arguments of the rule; JSON values.
        grade: How near the wrong answer is, 1 = nearest. Numbers: the distance. Else 1 when it is true of another part
            of the input, or would be true after one change of it, and 2 when it is further off.
        frames: No picture, one, or the frames of a clip, on the canvas of :mod:`datamodules.synthetic.drawing`.
    """

    prompt: str
    right: str
    wrong: str
    verifier: str
    arguments: dict[str, object]
    grade: int
    frames: Frames = field(default=(), repr=False)


Twins = tuple[Task, Task]


class Instruction(NamedTuple):
    """A prompt in text alone, an answer that meets it, and the rule by which that is checked."""

    prompt: str
    answer: str
    verifier: str
    arguments: dict[str, object]


def text_twins(first: Instruction, second: Instruction, grade: int) -> Twins:
    """Each prompt with its own answer as the right one and the other's as the wrong one."""
    return (
        Task(first.prompt, first.answer, second.answer, first.verifier, first.arguments, grade),
        Task(second.prompt, second.answer, first.answer, second.verifier, second.arguments, grade),
    )


def picture_twins(prompt: str, answers: tuple[str, str], draw: Callable[[str, str], tuple[Frames, int]]) -> Twins:
    """One question over two inputs.

    Args:
        prompt: The shared question.
        answers: The two answers.
        draw: Makes the frames on which the first of two answers is right and the second wrong, and the grade.
    """

    def task(right: str, wrong: str) -> Task:
        frames, grade = draw(right, wrong)
        return Task(prompt, right, wrong, *answer_rule(right), grade, frames)

    return task(*answers), task(*reversed(answers))


def answer_rule(answer: str) -> tuple[str, dict[str, object]]:
    """Verifier and arguments of a short answer: a whole number, yes or no, or a word."""
    if answer.isdecimal():
        return "number", {"value": int(answer)}
    return ("yes_no" if answer in ("yes", "no") else "exact_match"), {"answer": answer}


def near_numbers(rng: Random, low: int, high: int) -> tuple[int, int]:
    """Two different whole numbers from ``low`` to ``high``, neighbours in at least seven of ten cases."""
    first = rng.randint(low, high)
    if rng.random() < 0.7:
        return first, rng.choice([n for n in (first - 1, first + 1) if low <= n <= high])
    return first, rng.choice([n for n in range(low, high + 1) if n != first])
