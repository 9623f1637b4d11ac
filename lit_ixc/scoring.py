"""Scores of a trained reward model, from the folder that its training exported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from lit_ixc.backbone import Attention, BackboneSource, Dtype, Pretrained, family_of, hidden_states, refusal
from lit_ixc.batch import ConversationProcessor, EncodedComparison, EncodedMedia, EncodedSequence
from lit_ixc.head_files import HeadFactory, load_head, need_folder
from lit_ixc.heads import RewardHead
from lit_ixc.layout import collate, shared_prefix_length
from lit_ixc.modes import evaluating
from lit_ixc.processors import SavedProcessor
from lit_ixc.records import Comparison, RecordError, UserError


class RewardScorer:
    """Scores the responses of comparisons; each prompt with its images is computed once for all of them.

    Args:
        model: The backbone.
        head: The reward head.
        processor: The reward model's own.
        max_length: Longest sequence in tokens, the prompt included; None: the model's window.
        batch_tokens: Most tokens of one forward pass. A prompt with one response that has more stands alone.
        attention: How the decoder attends over prefix trees.

    Raises:
        UserError: A number is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        head: RewardHead,
        processor: ConversationProcessor,
        max_length: int | None = None,
        batch_tokens: int = 16384,
        attention: Attention = "auto",
    ) -> None:
        for name, value in (("max_length", max_length), ("batch_tokens", batch_tokens)):
            if value is not None and value < 1:
                raise UserError(f"{name} = {value}: choose a positive number of tokens")
        self.model, self.head, self.processor = model, head, processor
        self.batch_tokens, self.attention = batch_tokens, attention
        limits = [limit for limit in (max_length, family_of(model).window(model)) if limit is not None]
        self.max_length = min(limits) if limits else None

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: torch.device | str | None = None,
        dtype: Dtype = "float32",
        head: HeadFactory | None = None,
        backbone: BackboneSource | None = None,
        processor: ConversationProcessor | None = None,
        **options: Any,
    ) -> RewardScorer:
        """The reward model in the export folder of a ``RewardModule``, in evaluation mode and frozen.

        Args:
            path: The folder.
            device: Where it runs; the CPU if None.
            dtype: Floating-point type of the backbone read from the folder, and of the head.
            head: Makes the head of a hidden size, for classes that are not of ``lit_ixc.heads``.
            backbone: Where the backbone comes from; the folder if None.
            processor: The model's processor; that in the folder if None.
            options: ``max_length``, ``batch_tokens`` and ``attention`` of the scorer.

        Raises:
            UserError: Something is missing in the folder, or the head does not fit the backbone.
        """
        need_folder(path)
        model = (backbone or Pretrained(str(path), dtype)).load(lm_head=False)
        built = load_head(path, model.get_input_embeddings().weight.shape[1], head)
        if processor is None:
            processor = saved_processor(path)
        for module in (model, built):
            module.to(device or "cpu").eval().requires_grad_(False)
        return cls(model, built.to(next(model.parameters()).dtype), processor, **options)

    def scores(self, comparisons: Sequence[Comparison]) -> list[list[float] | RecordError]:
        """The scores of each comparison's K responses, or why it has none; in order."""
        found: list[list[float] | RecordError] = []
        for comparison, outcomes in zip(comparisons, self.score_responses(comparisons), strict=True):
            errors = ((k, one) for k, one in enumerate(outcomes) if isinstance(one, RecordError))
            k, error = next(errors, (0, None))
            found.append(cast(list[float], outcomes) if error is None else error.at(f"{comparison.id}: response {k}"))
        return found

    def score_responses(
        self, comparisons: Sequence[Comparison], media: Sequence[EncodedMedia | None] | None = None
    ) -> list[list[float | RecordError]]:
        """The score of each response, or why it has none: a response that cannot be scored takes no other with it.

        Args:
            comparisons: What is scored.
            media: What the processor's ``encode_media`` gives for each prompt, where that is known.

        Returns:
            Of each comparison K outcomes. Reasons are those of the processor, ``too_long`` and ``not_finite``.
        """
        found: list[list[float | RecordError]] = []
        batch: list[_Piece] = []
        for number, comparison in enumerate(comparisons):
            outcomes, pieces = self._encode(number, comparison, None if media is None else media[number])
            found.append(outcomes)
            for piece in pieces:
                if batch and sum(one.tokens for one in batch) + piece.tokens > self.batch_tokens:
                    self._score(batch, found)
                    batch = []
                batch.append(piece)
        if batch:
            self._score(batch, found)
        return found

    def _encode(
        self, number: int, comparison: Comparison, media: EncodedMedia | None
    ) -> tuple[list[float | RecordError], list[_Piece]]:
        """Outcomes of the responses, NaN where there is none yet, and the responses that are to be computed."""
        outcomes: list[float | RecordError] = [math.nan] * len(comparison.responses)
        try:
            if media is None:
                media = self.processor.encode_media(comparison.prompt.media)
        except RecordError as error:
            return [error] * len(outcomes), []
        sequences: dict[int, EncodedSequence] = {}
        for k, response in enumerate(comparison.responses):
            try:
                one = self.processor.encode_conversation(comparison.prompt, response, media, "reward")
                if self.max_length is not None and len(one.ids) > self.max_length:
                    remedy = f"the reward model takes {self.max_length}; shorten it, or raise max_length where that is"
                    raise RecordError("too_long", "sequence", f"{len(one.ids)} tokens", remedy)
                sequences[k] = one
            except RecordError as error:
                outcomes[k] = error
        groups = _split(sequences, self.batch_tokens)
        if len(groups) > 1:
            media = self._with_features(media)
        return outcomes, [_piece(number, comparison, group, media) for group in groups]

    def _with_features(self, media: EncodedMedia) -> EncodedMedia:
        """The media with their features, so that several forward passes encode them once."""
        if not media.lengths or media.features is not None or refusal(self.model) is not None:
            return media
        tensors = media.map(lambda tensor: tensor.to(self._device)).tensors
        with torch.no_grad(), evaluating(self.model):
            return media._replace(features=family_of(self.model).features(self.model, tensors))

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _score(self, pieces: Sequence[_Piece], found: list[list[float | RecordError]]) -> None:
        """One forward pass; its scores go to their places in ``found``."""
        room = sum(piece.tokens for piece in pieces)  # one row without padding
        batch = collate([piece.encoded for piece in pieces], self.processor.pad_token_id, row_tokens=room)
        batch = batch.to(self._device)
        with torch.no_grad(), evaluating(self.model, self.head):
            scores = self.head(hidden_states(self.model, batch, attention=self.attention), batch).tolist()
        for piece, row in zip(pieces, scores, strict=True):
            for k, score in zip(piece.responses, row, strict=False):  # a row is as long as the longest
                remedy = "the model overflows; load it as bfloat16 or float32, or look for NaN among its weights"
                outcome = score if math.isfinite(score) else RecordError("not_finite", "score", score, remedy)
                found[piece.comparison][k] = outcome


class _Piece(NamedTuple):
    """Responses of one comparison that are computed together: its number, theirs, and the tokens of the tree."""

    comparison: int
    responses: tuple[int, ...]
    encoded: EncodedComparison
    tokens: int


def _split(sequences: dict[int, EncodedSequence], room: int) -> list[dict[int, EncodedSequence]]:
    """Responses in groups of at most ``room`` tokens, as if the prompt were all that they share; one at least."""
    groups: list[dict[int, EncodedSequence]] = []
    used = 0
    for k, sequence in sequences.items():
        own = len(sequence.ids) - sequence.response_start
        if not groups or used + own > room:
            groups.append({})
            used = sequence.response_start
        groups[-1][k] = sequence
        used += own
    return groups


def _piece(number: int, comparison: Comparison, sequences: dict[int, EncodedSequence], media: EncodedMedia) -> _Piece:
    rows = list(sequences.values())
    encoded = EncodedComparison(
        id=comparison.id,
        domain=comparison.domain,
        source=comparison.source,
        modality=comparison.modality,
        sequences=rows,
        media=media,
        ranks=(0,) * len(rows),
        scores=None,
        lengths=tuple(len(comparison.response_text(k)) for k in sequences),
    )
    shared = shared_prefix_length(rows)
    return _Piece(number, tuple(sequences), encoded, shared + sum(len(row.ids) - shared for row in rows))


def saved_processor(path: str | Path) -> ConversationProcessor:
    """The processor in an export folder, read now.

    Raises:
        UserError: There is none.
    """
    found = cast(ConversationProcessor, SavedProcessor(str(path)))
    _ = found.pad_token_id
    return found
