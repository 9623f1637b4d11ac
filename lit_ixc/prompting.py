"""Prompts as what a model takes: tokens padded on the left, positions, and the features of their images.

Shapes: P prompts, T tokens of the longest, A axes of positions, N visual tokens of all prompts, F width of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_ixc.backbone import family_of
from lit_ixc.batch import EncodedMedia, EncodedSequence
from lit_ixc.features import features_of


class Answerable(Protocol):
    """A prompt as tokens: an ``EncodedPrompt``, or what else has these two."""

    @property
    def sequence(self) -> EncodedSequence: ...

    @property
    def media(self) -> EncodedMedia: ...


class Prefix(NamedTuple):
    """P prompts padded on the left, so that the next token of all stands in one column.

    Args:
        ids: (P, T)
        position: (P, T) or (A, P, T); 0 at padding.
        mask: (P, T) 1 at tokens.
        full: No prompt is padded.
        visual_rows: (N,) flat columns (of ``P * T``) of the visual tokens, prompt by prompt.
        next: (P, 1) or (A, P, 1) position of the answers' first tokens.
    """

    ids: Tensor
    position: Tensor
    mask: Tensor
    full: bool
    visual_rows: Tensor
    next: Tensor


def left_padded(prompts: Sequence[Answerable], pad: int, device: torch.device) -> Prefix:
    """Prompts side by side; ``pad`` is the id at padding."""
    sequences = [prompt.sequence for prompt in prompts]
    lengths = np.array([len(sequence.ids) for sequence in sequences])
    rows, width = len(sequences), int(lengths.max())
    axes = sequences[0].axes
    shape = (rows, width) if axes is None else (len(axes), rows, width)
    ids, visual = np.full((rows, width), pad), np.zeros((rows, width), np.bool_)
    position = np.zeros(shape, np.int64)
    for row, (sequence, length) in enumerate(zip(sequences, lengths, strict=True)):
        ids[row, width - length :] = sequence.ids
        visual[row, width - length :] = sequence.visual
        position[..., row, width - length :] = np.arange(length) if sequence.axes is None else sequence.axes
    mask = np.arange(width) >= width - lengths[:, None]
    following = np.broadcast_to(position.max(axis=(0, -1) if axes is not None else -1)[:, None] + 1, (*shape[:-1], 1))
    arrays = (ids, position, mask.astype(np.int64), visual.ravel().nonzero()[0], following.copy())
    ids_, position_, mask_, rows_, next_ = (torch.from_numpy(array).to(device) for array in arrays)
    return Prefix(ids_, position_, mask_, bool(mask.all()), rows_, next_)


def prompt_features(model: PreTrainedModel, prompts: Sequence[Answerable]) -> Tensor | None:
    """(N, F) what stands at the visual positions; media that several prompts share are encoded once."""
    encode = partial(family_of(model).features, model)
    found: dict[str | int, Tensor] = {}
    names = []
    for media in (prompt.media for prompt in prompts if prompt.media.lengths):
        names.append(name := media.key or id(media))
        if name not in found:
            moved = media.map(lambda tensor: tensor.to(model.device))
            found[name] = features_of(moved, encode, device=model.device)
    return torch.cat([found[name] for name in names]) if names else None


def next_position(sequence: EncodedSequence) -> int:
    """Position of what follows a sequence."""
    return len(sequence.ids) if sequence.axes is None else int(sequence.axes.max()) + 1
