"""A model of this package as judge: is ``A`` or ``B`` the more probable next token?"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_ixc.backbone import BackboneSource, hidden_states
from lit_ixc.batch import (
    ComparisonBatch,
    ConversationProcessor,
    EncodedComparison,
    EncodedMedia,
    EncodedSequence,
)
from lit_ixc.judges.interface import Judgement, OnFailure, Question, Usage, Vote, decide, vote_of
from lit_ixc.judges.prompts import ONE_LETTER, Template, load_template, pairwise_prompt
from lit_ixc.layout import collate, shared_prefix_length
from lit_ixc.records import Prompt, RecordError, UserError, text_message


class _Ask(NamedTuple):
    """A question in both orders, cut before the token that tells ``A`` from ``B``, and the two ids of that token."""

    encoded: EncodedComparison
    letters: tuple[tuple[int, int], tuple[int, int]]


class LocalJudge:
    """Compares the probabilities of ``A`` and ``B`` as the next token after a pairwise prompt, in both orders.

    Both orders stand in one prefix tree: the conversation with its images is computed once. The probabilities are those
    of the two letters alone, ``p(A) + p(B) = 1``.

    Args:
        backbone: The model, with its language-model head.
        processor: Its template, tokenizer and image path.
        margin: An order is a tie where ``|p(A) - p(B)|`` is not above it.
        batch_size: Questions of a forward pass.
        max_length: Most tokens of a prompt. A longer one fails, since a cut one would be another question.
        template: File of a pairwise prompt that asks for one letter; null for the built-in one.
        device: Where the model runs; null for a GPU if there is one.
        on_failure: What becomes of a question that is too long or whose image does not decode: an error, or a tie that
            is counted.
        name: What provenance calls the model.

    Raises:
        UserError: An option is out of range, or the template lacks a slot.
    """

    def __init__(
        self,
        backbone: BackboneSource,
        processor: ConversationProcessor,
        margin: float = 0.0,
        batch_size: int = 4,
        max_length: int = 16384,
        template: str | None = None,
        device: str | None = None,
        on_failure: OnFailure = "error",
        name: str = "local",
    ) -> None:
        if not 0 <= margin < 1:
            raise UserError(f"margin = {margin}: choose a difference of probabilities from 0 to below 1")
        for option, value in (("batch_size", batch_size), ("max_length", max_length)):
            if value < 1:
                raise UserError(f"{option} = {value}: choose at least 1")
        if on_failure not in get_args(OnFailure):
            raise UserError(f"on_failure = {on_failure}: use one of {', '.join(get_args(OnFailure))}")
        self.backbone, self.processor, self.margin = backbone, processor, margin
        self.batch_size, self.max_length, self.on_failure = batch_size, max_length, on_failure
        self.template = load_template(template, ONE_LETTER)
        _check_order(self.template)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.name = f"{name}/{self.template.name}"
        self.usage = Usage()

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model itself, loaded on first use."""
        return self.backbone.load(lm_head=True).to(self.device).eval()

    def judge(self, questions: Iterable[Question]) -> Iterator[Judgement]:
        """One judgement for each question, in order; ``batch_size`` questions are read ahead.

        Raises:
            UserError: With ``on_failure = error``, a question is too long or its image does not decode.
        """
        source = iter(questions)
        while chunk := list(itertools.islice(source, self.batch_size)):
            asks = [self._encode(question) for question in chunk]
            ready = [ask for ask in asks if isinstance(ask, _Ask)]
            probabilities = iter(self.probabilities(ready).tolist() if ready else [])
            for ask in asks:
                self.usage += Usage(questions=1)
                yield ask if isinstance(ask, Judgement) else self._decide(*next(probabilities))

    def probabilities(self, asks: Sequence[_Ask]) -> Tensor:
        """(C, 2) probability of ``A`` against ``B``, in the given order and in the swapped one."""
        batch = collate([ask.encoded for ask in asks], self.processor.pad_token_id).to(self.device)
        letters = torch.tensor([ask.letters for ask in asks], device=self.device)  # (C, 2, 2)
        with torch.inference_mode():
            hidden = hidden_states(self.model, batch)  # (C, T, H)
            rows = torch.arange(batch.size, device=self.device)[:, None]
            logits = self.model.get_output_embeddings()(hidden[rows, _last_columns(batch)]).float()  # (C, 2, V)
            return logits.gather(2, letters).softmax(dim=-1)[..., 0]

    def _encode(self, question: Question) -> _Ask | Judgement:
        """The question as model input, or the tie that stands for it where it cannot be put."""
        try:
            prompts = [pairwise_prompt(question, self.template, swapped) for swapped in (False, True)]
            media = self.processor.encode_media(prompts[0].media)
            (given, first_ids), (swapped, second_ids) = (self._cut(prompt, media) for prompt in prompts)
        except RecordError as error:
            self.usage += Usage(failures=2)
            if self.on_failure == "error":
                raise
            return Judgement("tie", f"failed: {error}", ("unparsed", "unparsed"))
        encoded = EncodedComparison(
            id="question",
            domain="judge",
            source="judge",
            modality=prompts[0].modality,
            sequences=[given, swapped],
            media=media,
            ranks=(0, 0),
            scores=None,
            lengths=(0, 0),
        )
        self.usage += Usage(calls=2, prompt_tokens=len(given.ids) + len(swapped.ids))
        return _Ask(encoded, (first_ids, second_ids))

    def _cut(self, prompt: Prompt, media: EncodedMedia) -> tuple[EncodedSequence, tuple[int, int]]:
        """The tokens before the one in which the replies ``A`` and ``B`` differ, and its ids for both."""
        a, b = (
            self.processor.encode_conversation(prompt, (text_message("assistant", letter),), media, "sft")
            for letter in ("A", "B")
        )
        length = shared_prefix_length([a, b])
        if a.ids[length] == b.ids[length]:
            raise UserError("the processor's tokenizer gives A and B the same tokens: train it on texts that hold both")
        if length > self.max_length:
            remedy = f"it has {length} tokens, more than max_length = {self.max_length}: raise that"
            raise RecordError("too_long", "pairwise prompt", prompt.messages[0].text, remedy)
        axes = None if a.axes is None else a.axes[:, :length]
        cut = EncodedSequence(a.ids[:length], a.visual[:length], a.loss[:length], length, length, axes)
        return cut, (a.ids[length], b.ids[length])

    def _decide(self, given: float, swapped: float) -> Judgement:
        words = f"p(A) = {given:.3f} in the given order, {swapped:.3f} in the swapped one"
        return decide(self._vote(given, False), self._vote(swapped, True), words)

    def _vote(self, probability: float, swapped: bool) -> Vote:
        if abs(2 * probability - 1) <= self.margin:
            return "tie"
        return vote_of("A" if probability > 0.5 else "B", swapped)


def _last_columns(batch: ComparisonBatch) -> Tensor:
    """(C, 2) column of the last token of each comparison's two continuations."""
    columns = torch.arange(batch.segment.shape[1], device=batch.segment.device)
    return torch.stack([(columns * (batch.segment == k)).amax(dim=1) for k in (1, 2)], dim=1)


def _check_order(template: Template) -> None:
    """Raise UserError where an answer precedes the conversation: its images would not be shared by both orders."""
    if template.text.index("{conversation}") > min(template.text.index(slot) for slot in ("{answer_a}", "{answer_b}")):
        raise UserError(f"template {template.name}: {{conversation}} must precede {{answer_a}} and {{answer_b}}")
