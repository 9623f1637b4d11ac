"""What pairing speaks in: answers to a row's prompt, their labels, and the pairs made of them. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple, Protocol

from lit_ixc.records import Comparison, Message, Prompt, text_message

# An answer that holds one is refused by the processors: they would take it for a place of an image.
_PLACEHOLDERS = ("<ImageHere>", "<VideoHere>")


class RowSource(Protocol):
    """The rows of a set, by number."""

    def __len__(self) -> int:
        """Number of rows."""

    def read(self, number: int) -> Comparison:
        """A row's record."""

    def domain(self, number: int) -> str:
        """A row's domain, without reading its record."""

    def image_rows(self) -> Sequence[int]:
        """Numbers of the rows with images and without videos."""


class Candidate(NamedTuple):
    """An answer somebody gave to a row's prompt.

    Args:
        text: The answer.
        number: Its number among the answers to the prompt.
        origin: Where it comes from, JSON values for provenance.
        finish: ``length`` where a limit cut it off.
    """

    text: str
    number: int
    origin: Mapping[str, Any]
    finish: str = "stop"


class NoPair(NamedTuple):
    """Why a prompt gives no pair.

    Args:
        reason: Short snake_case reason, the key under which the prompt is counted.
        message: The reason in this row's words.
    """

    reason: str
    message: str = ""


class Label(NamedTuple):
    """What is known of an answer.

    Args:
        score: Rule: 1 right, 0 wrong. Judge: 1 better than the reference, 0.5 as good, 0 worse.
        by: ``verifier:NAME`` or ``judge:NAME``.
        reason: In the words of whoever labelled it.
        votes: Of a judge, one for each order of the answers.
    """

    score: float
    by: str
    reason: str
    votes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For journal and provenance."""
        votes = {"votes": list(self.votes)} if self.votes else {}
        return {"score": self.score, "by": self.by, "reason": self.reason, **votes}


class Answer(NamedTuple):
    """An answer as a strategy sees it.

    Args:
        messages: The continuation of the prompt.
        origin: JSON values for provenance.
        label: Its label; None where the strategy asks for none.
    """

    messages: tuple[Message, ...]
    origin: Mapping[str, Any]
    label: Label | None = None

    @property
    def score(self) -> float:
        """Score of the label.

        Raises:
            ValueError: There is no label.
        """
        if self.label is None:
            raise ValueError("this answer has no label")
        return self.label.score


class Case(NamedTuple):
    """A row, its reference, and other answers to its prompt that differ from it and from one another.

    Args:
        row: The row.
        reference: Its best response.
        answers: The other ones, in the order of their numbers.
        seed: What draws about this row are seeded by.
    """

    row: Comparison
    reference: Answer
    answers: tuple[Answer, ...]
    seed: str = ""

    @property
    def random(self) -> Random:
        """A generator for this row, fresh at every use."""
        return Random(self.seed)


class Pair(NamedTuple):
    """A comparison in the making.

    Args:
        answers: Two or more, the best one first; of an SFT row one or more, all as good as one another.
        scores: Their scores, or None where nothing was scored: then the order is the ranking.
    """

    answers: tuple[Answer, ...]
    scores: tuple[float, ...] | None = None


class Sampling(NamedTuple):
    """What a policy did with one prompt: its samples as JSON objects (``text``, ``finish`` and more), or a refusal."""

    samples: list[dict[str, Any]]
    refusal: NoPair | None = None


class Policy(ABC):
    """Somebody who answers prompts.

    Args:
        prompts_per_batch: Prompts answered together.
    """

    prompts_per_batch: int

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Model and sampling settings, JSON values for provenance."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What the samples depend on besides, e.g. digests of the weights' files."""

    @abstractmethod
    def sample(self, prompts: Sequence[tuple[str, Prompt]], n: int, seed: int) -> list[Sampling]:
        """Answer each prompt n times; the name beside it enters its seed, its batch mates do not."""

    def release(self) -> None:  # noqa: B027 - most policies hold nothing
        """Free what the policy holds; it may be asked again."""


def reference_of(row: Comparison) -> tuple[Message, ...]:
    """The best response of a row, the first of equals."""
    return row.responses[row.ranks.index(0)]


def text_of(messages: Iterable[Message]) -> str:
    """The assistant text of a response."""
    return "".join(message.text for message in messages if message.role == "assistant")


def name_of(row: Comparison) -> str:
    """What seeds and messages call a row."""
    return f"{row.source}/{row.id}"


def usable(
    row: Comparison, candidates: Iterable[Candidate], keep_unfinished: bool, counts: Counter[str]
) -> list[Answer]:
    """The candidates that can stand in a pair, each text once; what becomes of every one is counted in ``counts``.

    A candidate is counted as ``kept``, or as what keeps it out: ``empty``, ``unfinished``, ``placeholder``,
    ``no_unicode`` (half of a surrogate pair), ``same_as_reference`` or ``duplicate``.
    """
    known = {text_of(reference_of(row)).strip(): "same_as_reference"}
    answers = []
    for candidate in candidates:
        text = candidate.text.strip()
        if not text:
            verdict = "empty"
        elif candidate.finish == "length" and not keep_unfinished:
            verdict = "unfinished"
        elif any(placeholder in text for placeholder in _PLACEHOLDERS):
            verdict = "placeholder"
        elif not is_unicode(text):
            verdict = "no_unicode"
        else:
            verdict = known.get(text, "kept")
        counts[verdict] += 1
        if verdict == "kept":
            known[text] = "duplicate"
            origin = {**candidate.origin, "number": candidate.number}
            answers.append(Answer((text_message("assistant", text),), origin))
    return answers


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
