"""Comparisons as tensors: the one batch type, and the interface of a processor. ``layout`` makes batches.

Shapes: ``B`` rows, ``T`` tokens of a row, ``C`` comparisons, ``K`` responses of the largest comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_ixc.records import Comparison, MediaPart, Message, Modality, Prompt

Ending = Literal["reward", "sft"]


class EncodedMedia(NamedTuple):
    """Images and videos of one prompt, ready for the vision encoder.

    Args:
        lengths: Number of visual tokens of each item, in the order of ``Prompt.media``.
        tensors: Inputs of the vision encoder by name. Those of several prompts are joined along dimension 0.
        key: Names content and preprocessing, for a cache of features; empty without one.
        features: (sum of ``lengths``, F) what the vision encoder makes of it, where that is known already.
    """

    lengths: tuple[int, ...]
    tensors: dict[str, Tensor]
    key: str = ""
    features: Tensor | None = None

    @property
    def awaited(self) -> bool:
        """Whether a cache will have the features that are not known yet."""
        return bool(self.key) and self.features is None

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in (*self.tensors.values(), self.features) if tensor is not None)

    def copy(self) -> EncodedMedia:
        """The media with tensors of its own."""
        tensors = {name: tensor.clone() for name, tensor in self.tensors.items()}
        return self._replace(tensors=tensors, features=None if self.features is None else self.features.clone())

    def map(self, function: Callable[[Tensor], Tensor]) -> EncodedMedia:
        """The media with every floating-point tensor replaced. Grids stay on the host, where their numbers are read."""
        tensors = {name: function(t) if t.is_floating_point() else t for name, t in self.tensors.items()}
        return self._replace(tensors=tensors, features=None if self.features is None else function(self.features))


class EncodedSequence(NamedTuple):
    """One conversation as token ids, before any truncation. All lists have the length of the sequence.

    Args:
        ids: Token ids; a visual position holds the processor's ``image_token_id``.
        visual: True at visual positions.
        loss: True at the tokens that supervised fine-tuning predicts: every assistant answer with its end of turn.
        response_start: Index of the first content token of the response (behind the assistant header).
        response_end: Index behind the last content token; end of turn, ``</s>`` and reward token follow.
        axes: (A, L) positions on several axes (A = 3 for the Qwen-VL family); None where the index is the position.
    """

    ids: list[int]
    visual: list[bool]
    loss: list[bool]
    response_start: int
    response_end: int
    axes: NDArray[np.int64] | None = None


class ConversationProcessor(Protocol):
    """What data modules need of a model family: its template, its tokenizer and its image path."""

    @property
    def pad_token_id(self) -> int:
        """Id at padding."""

    @property
    def image_token_id(self) -> int:
        """Id at visual positions."""

    def encode_media(self, media: Sequence[MediaPart]) -> EncodedMedia:
        """Preprocess images and videos. Raises RecordError when one cannot be decoded."""

    def save_pretrained(self, folder: Path) -> Any:
        """Write the processor, so that ``from_pretrained`` of its class reads it."""

    def encode_conversation(
        self, prompt: Prompt, response: Sequence[Message], media: EncodedMedia, ending: Ending
    ) -> EncodedSequence:
        """Tokenise prompt and response with the model's template; ``media`` is of encode_media."""


class ChatProcessor(ConversationProcessor, Protocol):
    """What sampling answers needs of a model family beside it."""

    @property
    def media_settings(self) -> str:
        """JSON of everything besides the media that decides what ``encode_media`` gives."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens each of which ends an answer."""

    def encode_prompt(self, prompt: Prompt, media: EncodedMedia) -> EncodedSequence:
        """Token ids of a prompt up to and including the header of the answer."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer's tokens, without special tokens and without white space around it."""

    def unwritable(self, vocabulary: int) -> Tensor:
        """(V,) True at ids that are no text: visual positions, and rows of the embedding without a piece."""


@runtime_checkable
class TrainableProcessor(Protocol):
    """A processor that makes its tokenizer from the corpus; a data module offers it the texts before training."""

    def prepare(self, texts: Callable[[], Iterable[str]]) -> None:
        """Train from the texts of the training rows, or keep what an earlier run made."""


class EncodedComparison(NamedTuple):
    """A comparison as K token sequences, cut to length, on its way into a batch.

    Args:
        id, domain, source, modality: As in the record.
        sequences: The K conversations.
        media: Vision inputs of the shared prompt.
        ranks: Rank of each response, 0 = best.
        scores: Graded scores or None.
        lengths: Characters of each answer.
    """

    id: str
    domain: str
    source: str
    modality: Modality
    sequences: list[EncodedSequence]
    media: EncodedMedia
    ranks: tuple[int, ...]
    scores: tuple[float, ...] | None
    lengths: tuple[int, ...]


class EncodedPrompt(NamedTuple):
    """A prompt on its way to a policy that answers it.

    Args:
        record: The row: its prompt, its known answers, and the metadata that rewards read.
        sequence: Tokens up to and including the header of the answer.
        media: Vision inputs of the prompt.
        source: Name under which metrics count it.
        critic_media: The same with the features of a critic whose vision encoder is not the policy's.
    """

    record: Comparison
    sequence: EncodedSequence
    media: EncodedMedia
    source: str
    critic_media: EncodedMedia | None = None


class Tree(NamedTuple):
    """Where a comparison lies in a batch, in numbers of the host.

    Args:
        start: Column of its first token in the flattened ``B * T`` columns.
        prefix: P, tokens of the shared prefix.
        answers: R_1 .. R_K, tokens of each continuation; they follow the prefix without gaps.
    """

    start: int
    prefix: int
    answers: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Tokens of its longest sequence."""
        return self.prefix + max(self.answers)

    def sequences(self) -> list[NDArray[np.int64]]:
        """Flat columns of each of the K sequences: the prefix, then its own continuation."""
        own = self.start + np.cumsum([self.prefix, *self.answers])  # where each continuation begins
        shared = np.arange(self.start, self.start + self.prefix)
        return [np.concatenate([shared, np.arange(own[k], own[k + 1])]) for k in range(len(self.answers))]


class ComparisonBatch(SimpleNamespace):
    """C comparisons laid out as prefix trees in B rows. Every mask is True where the token counts.

    No dataclass, on purpose: under half precision Lightning would copy one and round all its floating-point fields,
    the graded scores too.

    Args:
        input_ids: (B, T) token ids; padding holds the pad id.
        comparison: (B, T) index of the comparison that owns the token; -1 at padding.
        segment: (B, T) 0 = shared prefix, k = continuation of response k (from 1); -1 at padding.
        position: (B, T) position of the token in its own sequence; 0 at padding.
        parent: (B, T) column of the token before it in its sequence; -1 for the first token and at padding.
        axes: (A, B, T) positions on several axes; None where ``position`` says all.
        visual: (B, T) visual positions.
        response: (B, T) tokens of an answer, its end of turn, ``</s>`` and reward token included.
        loss: (B, T) tokens that supervised fine-tuning predicts.
        visual_rows: (N,) flat column (of ``B * T``) of each visual token, comparison by comparison.
        target_rows: (M,) flat column of each token of ``loss``, comparison by comparison.
        ranks: (C, K) rank of each response, 0 = best; -1 where a comparison has fewer responses.
        scores: (C, K) graded scores, NaN where there are none.
        lengths: (C, K) characters of each answer, 0 where there is none.
        trees: C places in the rows.
        media: images and videos of each comparison.
        ids, domains, sources, modalities: C strings each.
    """

    input_ids: Tensor
    comparison: Tensor
    segment: Tensor
    position: Tensor
    parent: Tensor
    axes: Tensor | None
    visual: Tensor
    response: Tensor
    loss: Tensor
    visual_rows: Tensor
    target_rows: Tensor
    ranks: Tensor
    scores: Tensor
    lengths: Tensor
    trees: tuple[Tree, ...]
    media: tuple[EncodedMedia, ...]
    ids: tuple[str, ...]
    domains: tuple[str, ...]
    sources: tuple[str, ...]
    modalities: tuple[Modality, ...]

    @property
    def exists(self) -> Tensor:
        """(C, K) True where the comparison has a k-th response."""
        return self.ranks >= 0

    @property
    def size(self) -> int:
        """Number of comparisons C."""
        return len(self.ids)

    def to(self, device: torch.device | str) -> ComparisonBatch:
        """The batch on another device; the host waits for copies to itself alone."""
        queued = torch.device(device).type != "cpu"
        return self._map(lambda tensor: tensor.to(device, non_blocking=queued))

    def pin_memory(self) -> ComparisonBatch:
        """The batch in page-locked host memory."""
        return self._map(lambda tensor: tensor.pin_memory())

    def replaced(self, **fields: Any) -> ComparisonBatch:
        """The batch with other values in some fields."""
        return ComparisonBatch(**vars(self) | fields)

    def _map(self, function: Callable[[Tensor], Tensor]) -> ComparisonBatch:
        moved = {name: function(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return self.replaced(**moved, media=tuple(media.map(function) for media in self.media))


class PromptBatch(SimpleNamespace):
    """Prompts to be answered.

    Args:
        prompts: P of them.
        demonstrations: SFT rows for a supervised loss beside that of the policy; None without them.
    """

    prompts: tuple[EncodedPrompt, ...]
    demonstrations: ComparisonBatch | None

    @property
    def sources(self) -> tuple[str, ...]:
        """P names under which metrics count them."""
        return tuple(prompt.source for prompt in self.prompts)

    def to(self, device: torch.device | str) -> PromptBatch:
        """The batch with its demonstrations on another device.

        The prompts' media stay where they are: each goes to the device when it is encoded.
        """
        return self._with(self.demonstrations and self.demonstrations.to(device))

    def pin_memory(self) -> PromptBatch:
        """The batch with its demonstrations in page-locked host memory."""
        return self._with(self.demonstrations and self.demonstrations.pin_memory())

    def _with(self, demonstrations: ComparisonBatch | None) -> PromptBatch:
        return PromptBatch(prompts=self.prompts, demonstrations=demonstrations)
