"""From rows to comparisons in three steps, each of which a later run takes up where a killed one stopped.

1. ``draw``: the policy answers every prompt; a journal keeps its answers.
2. ``label``: rules and judges label every answer; a second journal keeps the labels.
3. ``results``: the strategy makes pairs of what the journals hold. Equal journals give equal pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tqdm import tqdm

from lit_ixc.pairing.cases import (
    Answer,
    Candidate,
    Case,
    Label,
    NoPair,
    RowSource,
    Sampling,
    name_of,
    reference_of,
    text_of,
    usable,
)
from lit_ixc.pairing.comparisons import build
from lit_ixc.pairing.journal import Journal, Record
from lit_ixc.pairing.labels import Marker, ask, label_of_reference, marker_of
from lit_ixc.pairing.plan import Plan
from lit_ixc.pairing.strategies import Posed
from lit_ixc.records import Comparison, ImagePart, text_message

_LABELS_AT_ONCE = 256  # of rules: to make one again costs less than to wait for the disk
_DONOR_TRIES = 16


class Result(NamedTuple):
    """What became of a row: comparisons, or the reason why there are none."""

    number: int
    row: Comparison
    outcome: list[Comparison] | NoPair


class SetRun:
    """The pairing of one set.

    Args:
        plan: What is done.
        rows: The set.
        folder: Where the journals lie.
        identity: JSON values that identify the rows.
        overwrite: Begin journals anew that were written with other settings.
        write: False opens the journals for reading alone, and leaves the disk as it is.

    Attributes:
        answers: What became of the answers, filled by ``results``; see ``usable``.

    Raises:
        UserError: The journals were written with other settings, or cannot be used.
    """

    def __init__(
        self,
        plan: Plan,
        rows: RowSource,
        folder: Path,
        identity: Mapping[str, Any],
        overwrite: bool = False,
        write: bool = True,
    ) -> None:
        self.plan, self.rows, self.name, self.answers = plan, rows, folder.name, Counter[str]()
        self.prompts = len(rows) if plan.limit is None else min(plan.limit, len(rows))
        self.samples = self.labels = None
        if plan.policy is not None:
            self.samples = Journal(folder / "samples.jsonl", plan.sample_settings(identity), overwrite, write)
        if plan.strategy.labelled:
            self.labels = Journal(folder / "labels.jsonl", plan.label_settings(identity), overwrite, write)

    def draw(self) -> None:
        """Have the policy answer the prompts that the journal lacks.

        Prompts are answered in batches of fixed rows, so that a later run meets the same batches: one with an answer
        missing is answered again as a whole.
        """
        policy, journal = self.plan.policy, self.samples
        if policy is None or journal is None:
            return
        for start in self._bar("sample", policy.prompts_per_batch):
            numbers = range(start, min(start + policy.prompts_per_batch, self.prompts))
            if all(str(number) in journal for number in numbers):
                continue
            rows = {number: self.rows.read(number) for number in numbers}
            rows = {number: row for number, row in rows.items() if not isinstance(self.marker(row), NoPair)}
            if any(str(number) not in journal for number in rows):
                records = self._answered(rows)
                journal.add({key: record for key, record in records.items() if key not in journal})

    def label(self) -> None:
        """Have rules and judges label the answers that the journal lacks."""
        if self.labels is None:
            return
        judged: dict[str, list[int]] = {}
        fresh: dict[str, Record] = {}
        for number in self._bar("label"):
            rule = self.plan.labeller.rule(self.rows.domain(number))
            if rule is None:
                continue
            if rule.judge is not None:
                judged.setdefault(rule.judge, []).append(number)
                continue
            for key, marker, answer in self._unlabelled(number):
                fresh[key] = marker.label(answer).as_json()
            if len(fresh) >= _LABELS_AT_ONCE:
                self.labels.add(fresh)
                fresh = {}
        self.labels.add(fresh)
        for name, numbers in judged.items():
            self._judge(name, numbers)

    def results(self) -> Iterator[Result]:
        """What becomes of every row, in their order; takes what ``draw`` and ``label`` have left in the journals."""
        self.answers.clear()
        for number in self._bar("pair"):
            row = self.rows.read(number)
            yield Result(number, row, self._outcome(number, row))

    def marker(self, row: Comparison) -> Marker | NoPair:
        """Who labels the row's answers, or why nobody can."""
        return marker_of(row, self.plan.labeller) if self.plan.strategy.labelled else Marker(None, None)

    def pose(self, row: Comparison) -> Posed | NoPair:
        """What the policy is asked about a row."""
        return self.plan.strategy.pose(row, Random(self._seed(row, "pose")), lambda random: self._donor(row, random))

    def candidates(self, number: int, row: Comparison) -> list[Candidate] | NoPair:
        """The answers to a row, as far as they are there."""
        if self.plan.strategy.writes_answers:
            written = self.plan.strategy.write(row, Random(self._seed(row, "write")))
            return written or NoPair("nothing_to_change", "the reference has no fact of the kinds that may be changed")
        if self.plan.responses is not None:
            return self.plan.responses.of(row)
        record = None if self.samples is None else self.samples.get(str(number))
        if record is None:
            return NoPair("not_sampled", "the policy has not answered yet")
        if "refused" in record:
            return NoPair(record["refused"], record["message"])
        sampler = {**self._sampler(), **record["note"]}
        return [
            Candidate(
                sample["text"],
                k,
                {"from": "policy", "sampler": sampler, **{n: v for n, v in sample.items() if n != "text"}},
                sample["finish"],
            )
            for k, sample in enumerate(record["samples"])
        ]

    def close(self) -> None:
        """Close the journals."""
        for journal in (self.samples, self.labels):
            if journal is not None:
                journal.close()

    def _answered(self, rows: Mapping[int, Comparison]) -> dict[str, Record]:
        """Journal records of a batch of rows."""
        assert self.plan.policy is not None
        posed = {number: self.pose(row) for number, row in rows.items()}
        asked = {number: one for number, one in posed.items() if isinstance(one, Posed)}
        prompts = [(name_of(rows[number]), one.prompt) for number, one in asked.items()]
        drawn = self.plan.policy.sample(prompts, self.plan.samples, self.plan.seed) if prompts else []
        sampled = dict(zip(asked, drawn, strict=True))
        records = {}
        for number, row in rows.items():
            one = posed[number]
            done = Sampling([], one) if isinstance(one, NoPair) else sampled[number]
            record: Record = {"samples": done.samples, "note": one.note if isinstance(one, Posed) else {}}
            if done.refusal is not None:
                record = {"refused": done.refusal.reason, "message": done.refusal.message}
            records[str(number)] = {"id": row.id, **record}
        return records

    def _unlabelled(self, number: int) -> Iterator[tuple[str, Marker, Answer]]:
        """Key, marker and answer of the labels that a row still needs."""
        assert self.labels is not None
        row = self.rows.read(number)
        marker, candidates = self.marker(row), self.candidates(number, row)
        if isinstance(marker, NoPair) or isinstance(candidates, NoPair):
            return
        for answer in usable(row, candidates, self.plan.keep_unfinished, Counter()):
            key = _label_key(number, answer)
            if key not in self.labels:
                yield key, marker, answer

    def _judge(self, name: str, numbers: Sequence[int]) -> None:
        assert self.labels is not None
        bar = tqdm(numbers, desc=f"judge {self.name} ({name})", unit="prompt", disable=None)
        items = ((key, self.rows.read(number), answer) for number in bar for key, _, answer in self._unlabelled(number))
        for key, label, used in ask(self.plan.labeller.judges[name], items):
            self.labels.add({key: {**label.as_json(), "judge": name, "used": used}})

    def _outcome(self, number: int, row: Comparison) -> list[Comparison] | NoPair:
        marker, candidates = self.marker(row), self.candidates(number, row)
        if isinstance(marker, NoPair):
            return marker
        if isinstance(candidates, NoPair):
            return candidates
        before = self.answers["same_as_reference"]
        answers = usable(row, candidates, self.plan.keep_unfinished, self.answers)
        if not candidates:
            return NoPair("no_responses", "there is no answer to this prompt")
        reference = Answer(reference_of(row), {"from": "reference"}, label_of_reference(row, marker))
        labelled = [answer._replace(label=self._label(number, answer)) for answer in answers]
        copied = self.answers["same_as_reference"] > before
        if copied and self.plan.strategy.keeps_copies:
            labelled.append(self._copy(candidates, reference))
            labelled.sort(key=lambda answer: answer.origin["number"])
        if not labelled:
            return NoPair("same_answer" if copied else "no_usable_answer", "no answer that differs can stand in a pair")
        pairs = self.plan.strategy.pairs(Case(row, reference, tuple(labelled), self._seed(row, "pairs")))
        if isinstance(pairs, NoPair):
            return pairs
        return [build(row, pair, k, self.plan.strategy.describe()) for k, pair in enumerate(pairs)]

    def _copy(self, candidates: Sequence[Candidate], reference: Answer) -> Answer:
        """The first usable candidate that says what the reference says, with the label of the reference."""
        text = text_of(reference.messages).strip()
        finished = (one for one in candidates if self.plan.keep_unfinished or one.finish != "length")
        copy = next(one for one in finished if one.text.strip() == text)
        return Answer((text_message("assistant", text),), {**copy.origin, "number": copy.number}, reference.label)

    def _label(self, number: int, answer: Answer) -> Label | None:
        if self.labels is None:
            return None
        record = self.labels.get(_label_key(number, answer))
        assert record is not None, f"row {number} has an answer without a label"
        return Label(record["score"], record["by"], record["reason"], tuple(record.get("votes", ())))

    def _donor(self, row: Comparison, random: Random) -> ImagePart | None:
        """An image of another row that is not one of this row's own."""
        numbers = self.rows.image_rows()
        own = {part.data for part in row.prompt.media}
        for _ in range(_DONOR_TRIES if numbers else 0):
            media = self.rows.read(random.choice(numbers)).prompt.media
            images = [part for part in media if isinstance(part, ImagePart) and part.data not in own]
            if images:
                return random.choice(images)
        return None

    def _sampler(self) -> dict[str, Any]:
        assert self.plan.policy is not None
        return {**self.plan.policy.describe(), "seed": self.plan.seed}

    def _seed(self, row: Comparison, use: str) -> str:
        return f"{self.plan.seed}/{use}/{name_of(row)}"

    def _bar(self, what: str, step: int = 1) -> Iterator[int]:
        yield from tqdm(
            range(0, self.prompts, step), desc=f"{what} {self.name}", unit="prompt", unit_scale=step, disable=None
        )


def _label_key(number: int, answer: Answer) -> str:
    return f"{number}/{answer.origin['number']}"
