"""Rewards by rules: right answers, lengths, ends, formats. None of them needs a model."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lit_ixc.batch import ChatProcessor
from lit_ixc.records import Comparison, RecordError, UserError
from lit_ixc.rewards.interface import Episode, Judgement, Reward, by_prompt, unjudged
from lit_ixc.verifiers import VERIFIERS, Verifier, build, from_reference, from_truth

_TRUTH = "truth"


class VerifierReward(Reward):
    """Whether an answer is right, by the rule that its row carries or by a named one.

    Args:
        weight: Factor of the reward in the total.
        right: Reward of a right answer.
        wrong: Reward of a wrong answer, an empty one included.
        verifier: Name of a verifier of ``lit_ixc.verifiers``; None for the rule in the row's metadata (``truth``).
        arguments: Arguments of the named verifier, the same for all rows. None builds it from each row's reference
            answer, the best of its responses.

    Raises:
        UserError: There is no such verifier, it cannot be built so, or a reward is not finite.
    """

    def __init__(
        self,
        weight: float = 1.0,
        right: float = 1.0,
        wrong: float = 0.0,
        verifier: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(weight)
        if not (math.isfinite(right) and math.isfinite(wrong)):
            raise UserError(f"VerifierReward: right = {right}, wrong = {wrong}: choose finite numbers")
        if verifier is None and arguments is not None:
            raise UserError(f"VerifierReward: arguments = {arguments}: name the verifier that takes them")
        self.right, self.wrong, self.name = right, wrong, verifier
        self.fixed = None if verifier is None or arguments is None else build(verifier, arguments)
        if verifier is not None and self.fixed is None and not hasattr(VERIFIERS.get(verifier), "from_reference"):
            able = ", ".join(name for name, kind in VERIFIERS.items() if hasattr(kind, "from_reference"))
            raise UserError(f"VerifierReward: verifier = {verifier}: give its arguments, or use one of {able}")

    def __call__(self, episodes: Sequence[Episode]) -> list[Judgement]:
        found = []
        for group in by_prompt(episodes):
            try:
                verifier = self._verifier(episodes[group[0]].record)
            except RecordError as error:
                found += [unjudged(error.reason)] * len(group)
                continue
            verdicts = [verifier(episodes[index].text) for index in group]
            found += [Judgement(self.right if verdict.correct else self.wrong) for verdict in verdicts]
        return found

    def _verifier(self, record: Comparison) -> Verifier:
        if self.fixed is not None:
            return self.fixed
        if self.name is not None:
            return from_reference(self.name, record.response_text(record.ranks.index(0)))
        truth = record.metadata.get(_TRUTH)
        if not isinstance(truth, Mapping):
            raise RecordError("no_truth", _TRUTH, truth, "give the rule that a right answer meets")
        return from_truth(truth)


class LengthPenalty(Reward):
    """``-per_token`` for each of the policy's tokens beyond a target, the end included; never positive.

    Args:
        weight: Factor of the reward in the total.
        target: Tokens of an answer that cost nothing; None where ``relative`` says it.
        relative: The target as a multiple of the tokens of the row's best response, by the policy's tokenizer.
        per_token: Penalty of each further token.

    Raises:
        UserError: Both targets are given or none, or a number is out of range.
    """

    def __init__(
        self,
        weight: float = 1.0,
        target: int | None = None,
        relative: float | None = None,
        per_token: float = 0.01,
    ) -> None:
        super().__init__(weight)
        if (target is None) == (relative is None):
            raise UserError(f"LengthPenalty: target = {target}, relative = {relative}: give exactly one of both")
        for name, value in (("target", target), ("relative", relative), ("per_token", per_token)):
            if value is not None and not (0 <= value < math.inf):
                raise UserError(f"LengthPenalty: {name} = {value}: choose a finite number from 0 upwards")
        self.target, self.relative, self.per_token = target, relative, per_token
        self.processor: ChatProcessor | None = None

    def prepare(self, device: torch.device, processor: ChatProcessor) -> None:
        self.processor = processor

    def __call__(self, episodes: Sequence[Episode]) -> list[Judgement]:
        found = []
        for group in by_prompt(episodes):
            try:
                target = self._target(episodes[group[0]])
            except RecordError as error:
                found += [unjudged(error.reason)] * len(group)
                continue
            excess = [max(0.0, len(episodes[index].ids) - target) for index in group]
            found += [Judgement(0.0 - self.per_token * tokens) for tokens in excess]
        return found

    def _target(self, episode: Episode) -> float:
        if self.relative is None:
            assert self.target is not None
            return self.target
        assert self.processor is not None, "prepare was not called"
        record = episode.record
        best = record.responses[record.ranks.index(0)]
        known = self.processor.encode_conversation(record.prompt, best, episode.media, "sft")
        return self.relative * (known.response_end - known.response_start + 1)  # its end of turn counts too


class MissingEndPenalty(Reward):
    """A penalty for answers that the length limit cut off.

    Args:
        weight: Factor of the reward in the total.
        penalty: Reward of such an answer; others have 0.

    Raises:
        UserError: The penalty is positive or not finite.
    """

    def __init__(self, weight: float = 1.0, penalty: float = -1.0) -> None:
        super().__init__(weight)
        if not -math.inf < penalty <= 0:
            raise UserError(f"MissingEndPenalty: penalty = {penalty}: choose a finite number of at most 0")
        self.penalty = penalty

    def __call__(self, episodes: Sequence[Episode]) -> list[Judgement]:
        return [Judgement(0.0 if episode.ended else self.penalty) for episode in episodes]


class FormatReward(Reward):
    """Whether an answer has a form: a regular expression that must match it as a whole.

    The expression is matched in a process of its own with a limit of time, since some expressions take exponential
    time. A form that a verifier checks (``json``, ``table``, ``list``) is a ``VerifierReward``.

    Args:
        pattern: A regular expression of Python; ``.`` matches line ends too.
        weight: Factor of the reward in the total.
        right: Reward of an answer that matches.
        wrong: Reward of one that does not.
        seconds: Processor time for one answer; one that takes longer is not judged (``pattern_timeout``).

    Raises:
        UserError: The pattern is no regular expression, or a number is out of range.
    """

    def __init__(
        self, pattern: str, weight: float = 1.0, right: float = 1.0, wrong: float = 0.0, seconds: float = 1.0
    ) -> None:
        super().__init__(weight)
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise UserError(f"FormatReward: pattern = {pattern!r}: no regular expression ({error})") from error
        if not (math.isfinite(right) and math.isfinite(wrong) and 0 < seconds < math.inf):
            raise UserError(f"FormatReward: right = {right}, wrong = {wrong}, seconds = {seconds}: choose finite ones")
        self.pattern, self.right, self.wrong, self.seconds = pattern, right, wrong, seconds

    def __call__(self, episodes: Sequence[Episode]) -> list[Judgement]:
        values = {True: Judgement(self.right), False: Judgement(self.wrong), None: unjudged("pattern_timeout")}
        return [values[match] for match in matches(self.pattern, [one.text for one in episodes], self.seconds)]


def matches(pattern: str, texts: Sequence[str], seconds: float) -> list[bool | None]:
    """Whether a pattern matches each text as a whole; None where that takes longer.

    Args:
        pattern: A regular expression.
        texts: What it is matched with.
        seconds: Processor time for one text.
    """
    found: list[bool | None] = []
    while len(found) < len(texts):
        request = {"pattern": pattern, "texts": texts[len(found) :], "seconds": seconds}
        # -P: the folder of the file stays out of the import path.
        command = [sys.executable, "-P", "-S", str(Path(__file__).with_name("pattern_worker.py"))]
        done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
        replies = [json.loads(line) for line in done.stdout.splitlines()]
        found += replies
        if len(found) < len(texts):
            if not done.returncode < 0:  # no signal ended it: that is a fault of this machine, not of the text
                raise RuntimeError(f"{command[-1]} failed: {done.stderr.strip()[-300:]}")
            found.append(None)
    return found
