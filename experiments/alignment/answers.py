"""Answers of a policy to held-out prompts, judged by the rule of each row and by the learned reward."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import torch
from transformers import PreTrainedModel

from datamodules.conversion import Options
from datamodules.corpus import open_sets
from lit_ixc.answered import answer_logprobs, lay_out
from lit_ixc.backbone import Pretrained
from lit_ixc.batch import ChatProcessor, EncodedPrompt
from lit_ixc.decoding import Decoding
from lit_ixc.generation import Drawn, draw
from lit_ixc.processors import SavedProcessor
from lit_ixc.records import Comparison, RecordError, text_message
from lit_ixc.scoring import RewardScorer
from lit_ixc.verifiers import from_truth

MAX_NEW_TOKENS = 48
TOGETHER = 32  # prompts of one forward pass


class Judged(NamedTuple):
    """One answer.

    Args:
        right: Whether the rule of the row accepts it.
        tokens: Its tokens, the one that ends it included.
        ended: Whether the policy ended it.
        reward: The learned reward; NaN of an answer without text, which no reward model reads.
        log_ratio: Log-probability under the policy less that under the SFT policy, both at temperature 1.
    """

    right: bool
    tokens: int
    ended: bool
    reward: float
    log_ratio: float

    @property
    def empty(self) -> bool:
        """Whether it has no text."""
        return math.isnan(self.reward)


class Examiner:
    """Has policies answer the same prompts with the same random numbers, and judges what they say.

    Args:
        heldout: Data root of the held-out corpus; the sets of its pairs are used, those of SFT rows are not.
        sft: Export of the SFT policy, whose processor is everybody's.
        reward: Export of the reward model.
        prompts: Most prompts of a set; None: all.
        seed: Of the random numbers.
    """

    def __init__(self, heldout: Path, sft: Path, reward: Path, prompts: int | None = None, seed: int = 0) -> None:
        self.processor = cast(ChatProcessor, SavedProcessor(str(sft)).processor)
        self.sft = load_policy(sft)
        self.scorer, self.seed = RewardScorer.load(reward), seed
        self.rows: list[EncodedPrompt] = []
        for name, rows in open_sets(heldout, None, None, Options()).items():
            if not name.endswith("_sft"):
                chosen = range(len(rows) if prompts is None else min(prompts, len(rows)))
                self.rows += [self._encode(rows.read_comparison(k), name.rpartition("/")[2]) for k in chosen]
        self.verifiers = [from_truth(row.record.metadata["truth"]) for row in self.rows]

    def examine(self, policy: PreTrainedModel, samples: int, temperature: float = 1.0) -> list[list[Judged]]:
        """``samples`` judged answers to each prompt, in the order of ``rows``; temperature 0 is greedy."""
        decoding = Decoding(temperature=temperature, max_new_tokens=MAX_NEW_TOKENS)
        found = []
        for start in range(0, len(self.rows), TOGETHER):
            rows = self.rows[start : start + TOGETHER]
            names = [f"{row.source}/{row.record.id}" for row in rows]
            drawn = draw(policy, self.processor, rows, names, samples, decoding, self.seed, logprob_temperature=1.0)
            found += list(self._judge(rows, self.verifiers[start : start + TOGETHER], drawn))
        return found

    def _encode(self, record: Comparison, source: str) -> EncodedPrompt:
        media = self.processor.encode_media(record.prompt.media)
        return EncodedPrompt(record, self.processor.encode_prompt(record.prompt, media), media, source)

    def _judge(
        self, rows: Sequence[EncodedPrompt], verifiers: Sequence, drawn: Sequence[Sequence[Drawn]]
    ) -> Iterator[list[Judged]]:
        texts = [[self.processor.decode(answer.ids) for answer in answers] for answers in drawn]
        rewards = self._rewards(rows, texts)
        before = self._log_probabilities(rows, drawn)
        for number, answers in enumerate(drawn):
            yield [
                Judged(
                    verifiers[number](texts[number][k]).correct,
                    len(answer.ids),
                    answer.finish == "stop",
                    rewards[number][k],
                    sum(answer.logprobs) - before[number][k],
                )
                for k, answer in enumerate(answers)
            ]

    def _rewards(self, rows: Sequence[EncodedPrompt], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """Learned rewards; each distinct text of a prompt is scored once, an empty one is not."""
        known: list[dict[str, float]] = [{"": math.nan} for _ in rows]
        asked = {number: list(dict.fromkeys(filter(None, own))) for number, own in enumerate(texts) if any(own)}
        rewritten = [_with_answers(rows[number].record, own) for number, own in asked.items()]
        for (number, own), scores in zip(asked.items(), self.scorer.scores(rewritten), strict=True):
            if isinstance(scores, RecordError):
                raise scores
            known[number] |= zip(own, scores, strict=True)
        return [[score[text] for text in own] for score, own in zip(known, texts, strict=True)]

    @torch.no_grad()
    def _log_probabilities(self, rows: Sequence[EncodedPrompt], drawn: Sequence[Sequence[Drawn]]) -> list[list[float]]:
        """Log-probabilities of the answers under the SFT policy."""
        answers = [answer.ids for own in drawn for answer in own]
        answered = lay_out(rows, answers, max(map(len, answers)), self.processor.pad_token_id, torch.device("cpu"))
        logprobs, _ = answer_logprobs(self.sft, answered, temperature=1.0)
        return logprobs.double().sum(dim=1).view(len(rows), -1).tolist()


def load_policy(folder: Path) -> PreTrainedModel:
    """An exported policy, ready to answer."""
    return Pretrained(str(folder)).load(lm_head=True).eval().requires_grad_(False)


def _with_answers(record: Comparison, texts: Sequence[str]) -> Comparison:
    """The row with other answers, none better than another."""
    responses = tuple((text_message("assistant", text),) for text in texts)
    return replace(record, responses=responses, ranks=(0,) * len(texts), scores=None)
