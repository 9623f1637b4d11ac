"""The prefix-tree layout: K sequences that share a prefix as one row, several such trees as a batch.

A comparison's K token sequences share a prefix. The prefix stands once, the K continuations behind it::

    tokens    [ prefix (P) | continuation 1 | continuation 2 | ... ]
    segment   [ 0 0 0 0 0  | 1 1 1 1        | 2 2 2          | ... ]
    position  [ 0 .. P-1   | P ..           | P ..           | ... ]
    parent    [ -1 0 1 ..  | P-1 ..         | P-1 ..         | ... ]

Trees stand in rows of their own, padded to the longest, or are packed one behind the other.
Shapes: ``B`` rows, ``T`` tokens of a row, ``C`` comparisons, ``K`` responses of the largest comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_ixc.batch import ComparisonBatch, EncodedComparison, EncodedSequence, Tree

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


class TreeRow(NamedTuple):
    """The prefix-tree layout of one comparison; arrays have P + sum(R_k) entries (see the module's picture).

    Args:
        prefix: P.
        answers: R_1 .. R_K.
        axes: (A, P + sum(R_k)) multi-axis positions; None where ``position`` says all.
    """

    prefix: int
    answers: tuple[int, ...]
    ids: Ints
    segment: Ints
    position: Ints
    parent: Ints
    visual: Flags
    response: Flags
    loss: Flags
    axes: Ints | None

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.ids)


def shared_prefix_length(sequences: Sequence[EncodedSequence]) -> int:
    """Length of the longest common token prefix that leaves every sequence at least one token of its own.

    With one sequence the prefix is what stands before its response. Visual positions agree because all sequences of a
    comparison share their media.
    """
    if len(sequences) == 1:
        return sequences[0].response_start
    limit = min(len(sequence.ids) for sequence in sequences) - 1
    first = np.array(sequences[0].ids[:limit])
    for sequence in sequences[1:]:
        differs = first != np.array(sequence.ids[: len(first)])
        if differs.any():
            first = first[: int(differs.argmax())]
    return len(first)


def tree_row(sequences: Sequence[EncodedSequence]) -> TreeRow:
    """Lay K sequences out as prefix tree: the shared prefix once, then each continuation.

    A token of the shared prefix belongs to the answers if it does in every sequence (answers may begin alike).
    """
    prefix = shared_prefix_length(sequences)
    answers = tuple(len(sequence.ids) - prefix for sequence in sequences)
    lengths = (prefix, *answers)
    starts = np.cumsum([0, *lengths])  # column at which each segment begins
    segment = np.repeat(np.arange(len(lengths)), lengths)
    column = np.arange(len(segment))
    position = np.where(segment == 0, column, column - starts[segment] + prefix)
    parent = np.where((segment > 0) & (column == starts[segment]), prefix, column) - 1
    parts = [(sequences[0], 0, prefix), *((sequence, prefix, len(sequence.ids)) for sequence in sequences)]

    def joined(name: str, dtype: type) -> NDArray[Any]:
        return np.concatenate([np.array(getattr(s, name)[start:end], dtype) for s, start, end in parts])

    response = np.concatenate([s.response_start <= np.arange(start, end) for s, start, end in parts])
    axes = None
    if sequences[0].axes is not None:
        axes = np.concatenate([_axes(s)[:, start:end] for s, start, end in parts], axis=1)
    return TreeRow(
        prefix,
        answers,
        joined("ids", np.int64),
        segment,
        position,
        parent,
        joined("visual", np.bool_),
        response,
        joined("loss", np.bool_),
        axes,
    )


def pack(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Which trees share a row: first fit, longest first, so that no row holds more than ``row_tokens`` tokens.

    A tree that is longer stands alone. ``pack([5, 9, 4, 1], 10)``: 9 and 1, 5 and 4.

    Returns:
        Rows of indices, each row in ascending order.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((row for row, left in enumerate(room) if left >= lengths[index]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(row_tokens)
        rows[row].append(index)
        room[row] -= lengths[index]
    return [sorted(row) for row in rows]


def collate(
    comparisons: Sequence[EncodedComparison],
    pad_token_id: int,
    padding_side: Literal["right", "left"] = "right",
    pad_to_multiple_of: int = 1,
    row_tokens: int | None = None,
) -> ComparisonBatch:
    """Comparisons as one batch of prefix trees.

    Args:
        comparisons: C encoded comparisons; K may differ.
        pad_token_id: Id at padding; it may equal the end-of-sequence id, since masks come from the layout.
        padding_side: Where the padding stands. Scores do not depend on it.
        pad_to_multiple_of: Round T up, for kernels that like it.
        row_tokens: Pack comparisons into rows of at most so many tokens (one that is longer has its own row): with room
            for the whole batch nothing is padded. None: a row for each comparison.
    """
    trees = [tree_row(comparison.sequences) for comparison in comparisons]
    rows = [[index] for index in range(len(trees))]
    if row_tokens is not None:
        rows = pack([tree.length for tree in trees], row_tokens)
    used = [sum(trees[index].length for index in row) for row in rows]
    width = -(-max(used) // pad_to_multiple_of) * pad_to_multiple_of
    start = {}  # of each tree, in the flattened B * T columns
    for number, row in enumerate(rows):
        column = number * width + (width - used[number] if padding_side == "left" else 0)
        for index in row:
            start[index] = column
            column += trees[index].length

    def spread(columns: Iterable[NDArray[Any] | int], fill: int, dtype: type = np.int64) -> Tensor:
        flat: NDArray[Any] = np.full(len(rows) * width, fill, dtype)
        for index, values in enumerate(columns):
            flat[start[index] : start[index] + trees[index].length] = values
        return torch.from_numpy(flat.reshape(len(rows), width))

    in_row = [start[index] % width for index in range(len(trees))]  # parents are columns of the row
    visual = [start[index] + tree.visual.nonzero()[0] for index, tree in enumerate(trees)]
    targets = [start[index] + tree.loss.nonzero()[0] for index, tree in enumerate(trees)]
    most = max(len(comparison.ranks) for comparison in comparisons)
    missing = [most - len(comparison.ranks) for comparison in comparisons]
    graded = [c.scores if c.scores is not None else [float("nan")] * len(c.ranks) for c in comparisons]
    return ComparisonBatch(
        input_ids=spread((tree.ids for tree in trees), pad_token_id),
        comparison=spread(range(len(trees)), -1),
        segment=spread((tree.segment for tree in trees), -1),
        position=spread((tree.position for tree in trees), 0),
        parent=spread((np.where(t.parent < 0, -1, t.parent + at) for t, at in zip(trees, in_row, strict=True)), -1),
        axes=_spread_axes(trees, start, len(rows), width),
        visual=spread((tree.visual for tree in trees), 0, np.bool_),
        response=spread((tree.response for tree in trees), 0, np.bool_),
        loss=spread((tree.loss for tree in trees), 0, np.bool_),
        visual_rows=torch.from_numpy(np.concatenate(visual)),
        target_rows=torch.from_numpy(np.concatenate(targets)),
        ranks=torch.tensor([[*c.ranks, *[-1] * gap] for c, gap in zip(comparisons, missing, strict=True)]),
        scores=torch.tensor([[*s, *[float("nan")] * gap] for s, gap in zip(graded, missing, strict=True)]),
        lengths=torch.tensor([[*c.lengths, *[0] * gap] for c, gap in zip(comparisons, missing, strict=True)]),
        trees=tuple(Tree(start[index], tree.prefix, tree.answers) for index, tree in enumerate(trees)),
        media=tuple(c.media for c in comparisons),
        ids=tuple(c.id for c in comparisons),
        domains=tuple(c.domain for c in comparisons),
        sources=tuple(c.source for c in comparisons),
        modalities=tuple(c.modality for c in comparisons),
    )


class Separate(NamedTuple):
    """The S sequences of a batch one by one, for models that cannot run a tree.

    Args:
        batch: Rows (S, L) of one sequence each, padded on the right; only what a decoder reads is laid out anew.
        owner: S numbers of the comparisons that the sequences belong to.
        back: (B*T,) where in the flattened (S, L) each token of the whole batch is; a shared one in the first of its
            sequences, padding at 0.
    """

    batch: ComparisonBatch
    owner: tuple[int, ...]
    back: Tensor

    @property
    def counts(self) -> Tensor:
        """(S, L) 1 at tokens, 0 at padding."""
        return (self.batch.comparison >= 0).long()

    def restore(self, states: Tensor, whole: ComparisonBatch) -> Tensor:
        """States (S, L, H) of the sequences at the places (B, T, H) of the tokens in the whole batch."""
        return states.flatten(0, 1)[self.back].view(*whole.input_ids.shape, -1)


def separate(batch: ComparisonBatch) -> Separate:
    """Lay the sequences of a batch out without sharing."""
    paths = [path for tree in batch.trees for path in tree.sequences()]
    owner = [number for number, tree in enumerate(batch.trees) for _ in tree.answers]
    shapes = [(tree.prefix, length) for tree in batch.trees for length in tree.answers]
    width = max(map(len, paths))
    device = batch.input_ids.device
    rows = np.stack([np.pad(path, (0, width - len(path)), constant_values=path[0]) for path in paths])
    counts = on_device(np.arange(width) < np.array([[len(path)] for path in paths]), device)
    back = np.zeros(batch.input_ids.numel(), np.int64)
    for number in reversed(range(len(paths))):
        back[paths[number]] = number * width + np.arange(len(paths[number]))
    index = on_device(rows, device)  # (S, L)

    sizes = [sum(media.lengths) for media in batch.media]
    places = [rows - tree.start for rows, tree in zip(batch.visual_rows.split(sizes), batch.trees, strict=True)]
    laid_out = batch.replaced(
        input_ids=batch.input_ids.flatten()[index],
        comparison=torch.arange(len(paths), device=device)[:, None].where(counts, -1),
        segment=batch.segment.flatten()[index].clamp(max=1).where(counts, -1),
        position=batch.position.flatten()[index].where(counts, 0),
        axes=None if batch.axes is None else batch.axes.flatten(1)[:, index].where(counts, 0),
        visual_rows=torch.cat([places[o] + number * width for number, o in enumerate(owner)]),
        trees=tuple(Tree(number * width, prefix, (length,)) for number, (prefix, length) in enumerate(shapes)),
    )
    return Separate(laid_out, tuple(owner), on_device(back, device))


def on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array of the host as a tensor of a device; the host does not wait for the copy."""
    tensor = torch.from_numpy(array)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=device.type != "cpu")


def _axes(sequence: EncodedSequence) -> Ints:
    """Multi-axis positions of a sequence; the processor gives them for all sequences of a comparison or for none."""
    assert sequence.axes is not None
    return sequence.axes


def _spread_axes(trees: Sequence[TreeRow], start: dict[int, int], rows: int, width: int) -> Tensor | None:
    """(A, B, T) multi-axis positions; a tree without has its position on every axis."""
    axes = max((len(tree.axes) for tree in trees if tree.axes is not None), default=0)
    if not axes:
        return None
    flat = np.zeros((axes, rows * width), np.int64)
    for index, tree in enumerate(trees):
        flat[:, start[index] : start[index] + tree.length] = tree.position if tree.axes is None else tree.axes
    return torch.from_numpy(flat.reshape(axes, rows, width))
