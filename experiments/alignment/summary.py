"""Numbers of judged answers: pure functions of what ``answers.Examiner`` gives.

``answers[p][k]`` is answer k to prompt p.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from answers import Judged

Answers = Sequence[Sequence[Judged]]


def summarise(answers: Answers, modalities: Sequence[str], sources: Sequence[str]) -> dict[str, Any]:
    """Shares and means over all answers, and the share of right ones by modality and by set.

    Args:
        answers: Of one policy.
        modalities: Of the prompts.
        sources: Sets of the prompts.
    """
    truth = [mean(own, lambda answer: answer.right) for own in answers]
    groups = {"modality": modalities, "set": sources}
    return {
        "truth": statistics.fmean(truth),
        **{f"by {name}": _by(truth, labels) for name, labels in groups.items()},
        "reward": statistics.fmean(answer.reward for own in answers for answer in own if not answer.empty),
        "empty": over(answers, lambda answer: answer.empty),
        "kl": over(answers, lambda answer: answer.log_ratio),
        "tokens": over(answers, lambda answer: answer.tokens),
        "ended": over(answers, lambda answer: answer.ended),
    }


def mean(answers: Sequence[Judged], value: Callable[[Judged], float]) -> float:
    """Mean over the answers to one prompt."""
    return statistics.fmean(map(value, answers))


def over(answers: Answers, value: Callable[[Judged], float]) -> float:
    """Mean over all answers; every prompt has as many."""
    return statistics.fmean(mean(own, value) for own in answers)


def _by(values: Sequence[float], labels: Sequence[str]) -> dict[str, float]:
    return {
        label: statistics.fmean(value for value, own in zip(values, labels, strict=True) if own == label)
        for label in sorted(set(labels))
    }


def duels(answers: Answers, others: Answers) -> dict[str, float]:
    """How answers stand against another policy's to the same prompts, by the rule: answer k against answer k.

    Returns:
        ``won`` and ``lost``: shares of the duels that one side alone answers right; ``rate``: share won, ties half.
    """
    pairs = [pair for own, other in zip(answers, others, strict=True) for pair in zip(own, other, strict=True)]
    won = sum(a.right and not b.right for a, b in pairs) / len(pairs)
    lost = sum(b.right and not a.right for a, b in pairs) / len(pairs)
    return {"won": won, "lost": lost, "rate": 0.5 + (won - lost) / 2}


def best_of(answers: Answers, n: int) -> dict[str, float]:
    """What the answer with the highest learned reward out of n would be like, for n of at most N known answers.

    The mean over all choices of n out of N: the answer of rank i from below (from 1) is the best of
    ``C(i - 1, n - 1)`` of them. Its divergence from the policy is at most ``log n - (n - 1) / n``.
    """
    truth, reward, tokens = [], [], []
    for own in answers:
        ordered = sorted(own, key=lambda answer: -math.inf if answer.empty else answer.reward)
        chances = [math.comb(i, n - 1) / math.comb(len(own), n) for i in range(len(own))]
        truth.append(sum(p * answer.right for p, answer in zip(chances, ordered, strict=True)))
        reward.append(sum(p * answer.reward for p, answer in zip(chances, ordered, strict=True) if not answer.empty))
        tokens.append(sum(p * answer.tokens for p, answer in zip(chances, ordered, strict=True)))
    return {
        "n": n,
        "truth": statistics.fmean(truth),
        "reward": statistics.fmean(reward),
        "tokens": statistics.fmean(tokens),
        "kl": math.log(n) - (n - 1) / n,
    }


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over the seeds; 0 for one seed."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
