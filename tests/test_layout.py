"""Packing, packed and padded batches read back token by token, and batches laid out again without sharing.

``test_batch`` holds the layouts of single trees, small enough to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lit_ixc.batch import ComparisonBatch, EncodedComparison, EncodedSequence, Tree
from lit_ixc.layout import collate, pack, separate, tree_row
from tests.trees import IMAGE_TOKEN, comparison, media, ragged_comparison

SHAPE = st.tuples(
    st.integers(0, 999),
    st.integers(0, 3),
    st.integers(0, 6),
    st.integers(0, 4),
    st.lists(st.integers(0, 6), min_size=1, max_size=5),
)
LAYOUT = st.tuples(
    st.sampled_from(["right", "left"]), st.sampled_from([1, 8]), st.sampled_from([None, 1, 40, 90, 1000])
)


def with_axes(whole: EncodedComparison) -> EncodedComparison:
    """Three axes: all visual tokens of a prompt at one time, their rows and columns counted, then text from there."""
    changed = []
    for one in whole.sequences:
        index, visual = np.arange(len(one.ids)), np.array(one.visual)
        axes = np.stack(
            [np.where(visual, 0, index), np.where(visual, index // 4, index), np.where(visual, index % 4, 7)]
        )
        changed.append(one._replace(axes=axes))
    return whole._replace(sequences=changed)


def made(shapes: Sequence[tuple[int, int, int, int, list[int]]]) -> list[EncodedComparison]:
    """Comparisons of the shapes; every second one has axes."""
    items = [ragged_comparison(*shape, name=str(number)) for number, shape in enumerate(shapes)]
    return [with_axes(item) if number % 2 else item for number, item in enumerate(items)]


def paths(batch: ComparisonBatch, number: int) -> list[list[int]]:
    """Flat columns of each sequence of a comparison, from its last token back along the parents."""
    width = batch.segment.shape[1]
    found = []
    for k in range(1, int(batch.exists[number].sum()) + 1):
        row, column = ((batch.comparison == number) & (batch.segment == k)).nonzero()[-1].tolist()
        path = []
        while column >= 0:
            path.append(row * width + column)
            column = int(batch.parent[row, column])
        found.append(path[::-1])
    return found


# Packing.


@pytest.mark.parametrize(
    ("lengths", "budget", "rows"),
    [
        ([5, 9, 4, 1], 10, [[1, 3], [0, 2]]),  # 9 + 1, 5 + 4
        ([3, 3, 3, 3], 6, [[0, 1], [2, 3]]),
        ([12, 2, 11], 10, [[0], [2], [1]]),  # two are longer than a row: each stands alone
        ([7], 7, [[0]]),
        ([4, 4, 2], 1, [[0], [1], [2]]),
    ],
)
def test_packing(lengths: list[int], budget: int, rows: list[list[int]]) -> None:
    assert pack(lengths, budget) == rows


def fewest_rows(lengths: list[int], budget: int) -> int:
    """The optimum, by trying every assignment of up to six trees to rows."""
    count = len(lengths)
    best = count
    for rows in product(range(count), repeat=count):
        loads = [sum(n for n, row in zip(lengths, rows, strict=True) if row == r) for r in set(rows)]
        alone = [rows.count(r) for r in set(rows)]
        if all(load <= budget or of_row == 1 for load, of_row in zip(loads, alone, strict=True)):
            best = min(best, len(loads))
    return best


@settings(max_examples=200)
@given(st.lists(st.integers(1, 120), min_size=1, max_size=40), st.integers(1, 100))
def test_packing_keeps_every_tree_within_the_budget(lengths: list[int], budget: int) -> None:
    rows = pack(lengths, budget)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    for row in rows:
        assert row == sorted(row)
        assert len(row) == 1 or sum(lengths[index] for index in row) <= budget
    # No two rows of trees that fit could be joined: such rows are on average more than half full.
    loads = sorted(sum(lengths[index] for index in row) for row in rows)
    assert len(loads) < 2 or loads[0] + loads[1] > budget
    fitting = [n for n in lengths if n <= budget]
    assert len(rows) - (len(lengths) - len(fitting)) <= max(1, 2 * sum(fitting) / budget)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(6, 14))
@example([6, 5, 4, 3, 2], 10)  # 6 + 4, 5 + 3 + 2: two rows
def test_packing_is_at_most_twice_the_optimum(lengths: list[int], budget: int) -> None:
    """In fact first fit, longest first, needs at most 11/9 of the optimum and two thirds of a row (Dosa 2007)."""
    optimum = fewest_rows(lengths, budget)
    assert optimum <= len(pack(lengths, budget)) <= (11 * optimum + 6) / 9


# Batches.


@settings(max_examples=60)
@given(st.lists(SHAPE, min_size=1, max_size=6), LAYOUT)
@example([(1, 0, 0, 0, [3, 5]), (2, 2, 0, 0, [4])], ("left", 1, 1000))  # no prefix, and a single answer after images
@example([(3, 0, 2, 4, [0, 0, 0]), (4, 1, 3, 0, [2])], ("right", 8, 40))  # equal answers
def test_every_token_of_a_packed_batch_can_be_read_back(
    shapes: list[tuple[int, int, int, int, list[int]]], how: tuple[str, int, int | None]
) -> None:
    side, multiple, row_tokens = how
    items = made(shapes)
    batch = collate(items, 2, side, multiple, row_tokens)  # type: ignore[arg-type]
    flat = {name: getattr(batch, name).flatten() for name in ("input_ids", "position", "visual", "response", "loss")}
    assert batch.segment.shape[1] % multiple == 0
    seen: set[int] = set()
    for number, item in enumerate(items):
        for one, path in zip(item.sequences, paths(batch, number), strict=True):
            seen.update(path)
            index = list(range(len(one.ids)))
            assert flat["input_ids"][path].tolist() == one.ids
            assert flat["position"][path].tolist() == index  # restarts with every sequence
            assert flat["visual"][path].tolist() == one.visual
            assert flat["loss"][path].tolist() == one.loss
            assert flat["response"][path].tolist() == [i >= one.response_start for i in index]
            if batch.axes is not None:
                axes = one.axes if one.axes is not None else np.tile(np.arange(len(one.ids)), (3, 1))
                assert batch.axes.flatten(1)[:, path].tolist() == axes.tolist()
    padding = (batch.comparison < 0).flatten()
    assert padding.nonzero().flatten().tolist() == sorted(set(range(len(padding))) - seen)
    assert (flat["input_ids"][padding] == 2).all() and not flat["position"][padding].any()
    assert not (flat["visual"] | flat["response"] | flat["loss"])[padding].any()
    assert (batch.parent.flatten()[padding] == -1).all() and (batch.segment.flatten()[padding] == -1).all()
    assert (batch.axes is None) == all(item.sequences[0].axes is None for item in items)


@settings(max_examples=60)
@given(st.lists(SHAPE, min_size=1, max_size=6), LAYOUT)
def test_rows_of_visual_tokens_and_of_targets(
    shapes: list[tuple[int, int, int, int, list[int]]], how: tuple[str, int, int | None]
) -> None:
    """Comparison by comparison, whatever row each is packed into."""
    side, multiple, row_tokens = how
    items = made(shapes)
    batch = collate(items, 2, side, multiple, row_tokens)  # type: ignore[arg-type]
    owner = batch.comparison.flatten()
    sizes = [sum(item.media.lengths) for item in items]
    assert owner[batch.visual_rows].tolist() == [n for n, size in enumerate(sizes) for _ in range(size)]
    for number, rows in enumerate(batch.visual_rows.split(sizes)):
        assert rows.tolist() == [column for column in paths(batch, number)[0] if batch.visual.flatten()[column]]
        assert (batch.input_ids.flatten()[rows] == IMAGE_TOKEN).all()
    assert batch.target_rows.unique().numel() == batch.target_rows.numel()
    assert sorted(batch.target_rows.tolist()) == batch.loss.flatten().nonzero().flatten().tolist()
    assert owner[batch.target_rows].diff().ge(0).all()


@settings(max_examples=60)
@given(st.lists(SHAPE, min_size=1, max_size=6), LAYOUT)
def test_places_of_the_trees(
    shapes: list[tuple[int, int, int, int, list[int]]], how: tuple[str, int, int | None]
) -> None:
    """The host's numbers say what the tensors say, and packing keeps to its budget with no gap between trees."""
    side, multiple, row_tokens = how
    items = made(shapes)
    batch = collate(items, 2, side, multiple, row_tokens)  # type: ignore[arg-type]
    width = batch.segment.shape[1]
    for number, tree in enumerate(batch.trees):
        columns = (batch.comparison.flatten() == number).nonzero().flatten()
        assert columns.tolist() == list(range(tree.start, tree.start + tree.prefix + sum(tree.answers)))
        segments = np.repeat(range(len(tree.answers) + 1), (tree.prefix, *tree.answers))
        assert batch.segment.flatten()[columns].tolist() == segments.tolist()
        assert tree.longest == max(len(one.ids) for one in items[number].sequences)
    per_row = [[tree for tree in batch.trees if tree.start // width == row] for row in range(len(batch.segment))]
    used = (batch.comparison >= 0).sum(1).tolist()
    if row_tokens is None:
        assert [len(row) for row in per_row] == [1] * len(items)
    else:
        assert all(tokens <= row_tokens or len(row) == 1 for tokens, row in zip(used, per_row, strict=True))
    for counts in batch.comparison >= 0:  # padding at one side alone
        edge = counts if side == "right" else counts.flip(0)
        assert edge.int().diff().le(0).all()


def test_room_for_the_whole_batch_leaves_no_padding() -> None:
    # 2 + 4 + 4 = 10 tokens and 1 + 4 = 5
    batch = collate([comparison([10, 11], [[20], [21]]), comparison([10], [[20]])], 2, row_tokens=15)
    assert batch.comparison.tolist() == [[0] * 10 + [1] * 5]
    assert batch.parent.tolist() == [[-1, 0, 1, 2, 3, 4, 1, 6, 7, 8, -1, 10, 11, 12, 13]]
    assert batch.trees == (Tree(0, 2, (4, 4)), Tree(10, 1, (4,)))


def test_a_batch_of_text_has_no_axes_and_a_mixed_one_has() -> None:
    text, image = comparison([10], [[20]]), with_axes(comparison([10], [[20]], images=media([(1, 1)])))
    assert collate([text], 2).axes is None
    mixed = collate([text, image], 2)
    assert mixed.axes is not None and mixed.axes.shape == (3, 2, 18)  # 13 visual tokens and five; text has five
    assert mixed.axes[:, 0].tolist() == [[0, 1, 2, 3, 4] + [0] * 13] * 3


def test_axes_of_a_tree_follow_each_sequence() -> None:
    """Positions may differ from the column: a continuation goes on from the prefix, on every axis."""
    positions = np.array([[0, 5, 6, 7], [0, 7, 8, 9]])
    one = EncodedSequence([9, 20, 4], [False] * 3, [False, True, True], 1, 2, positions[:, :3])
    other = EncodedSequence([9, 21, 22, 4], [False] * 4, [False, True, True, True], 1, 3, positions)
    axes = tree_row([one, other]).axes
    assert axes is not None and axes.tolist() == [[0, 5, 6, 5, 6, 7], [0, 7, 8, 7, 8, 9]]


# Without sharing.


@settings(max_examples=60)
@given(st.lists(SHAPE, min_size=1, max_size=5), LAYOUT)
@example([(1, 0, 0, 0, [3, 5]), (2, 2, 0, 0, [4])], ("left", 1, 1000))
def test_sequences_laid_out_one_by_one(
    shapes: list[tuple[int, int, int, int, list[int]]], how: tuple[str, int, int | None]
) -> None:
    side, multiple, row_tokens = how
    items = made(shapes)
    batch = collate(items, 2, side, multiple, row_tokens)  # type: ignore[arg-type]
    rows = separate(batch)
    alone = [(number, one) for number, item in enumerate(items) for one in item.sequences]
    assert rows.owner == tuple(number for number, _ in alone)
    lengths = tuple(tree.longest for tree in rows.batch.trees)
    assert lengths == tuple(len(one.ids) for _, one in alone)
    width = max(lengths)
    assert rows.batch.input_ids.shape == (len(alone), width)
    visual = []
    for row, (number, one) in enumerate(alone):
        length = len(one.ids)
        assert rows.batch.input_ids[row, :length].tolist() == one.ids
        assert rows.batch.position[row].tolist() == [*range(length), *[0] * (width - length)]
        assert rows.batch.comparison[row].tolist() == [row] * length + [-1] * (width - length)
        assert rows.batch.segment[row, length:].tolist() == [-1] * (width - length)
        tree = rows.batch.trees[row]
        assert tree == Tree(row * width, batch.trees[number].prefix, (length - tree.prefix,))
        assert (rows.batch.segment[row, :length] == 0).sum() == tree.prefix
        if rows.batch.axes is not None:
            axes = one.axes if one.axes is not None else np.tile(np.arange(length), (3, 1))
            assert rows.batch.axes[:, row, :length].tolist() == axes.tolist()
        visual += [row * width + column for column, flag in enumerate(one.visual) if flag]
    assert rows.batch.visual_rows.tolist() == visual  # those of a comparison once for each of its sequences

    # Back: a token of the whole batch finds itself, a shared one in the first of its sequences.
    first = 0
    for number, item in enumerate(items):
        for k, path in enumerate(paths(batch, number)):
            prefix = batch.trees[number].prefix
            expected = [(first + (k if index >= prefix else 0)) * width + index for index in range(len(path))]
            assert rows.back[path].tolist() == expected
        first += len(item.sequences)
    assert not rows.back[(batch.comparison < 0).flatten()].any()


def test_states_come_back_to_their_tokens() -> None:
    """What is computed from a token and its position alone is the same by either way."""
    items = made([(1, 1, 2, 1, [2, 3]), (2, 0, 3, 2, [1]), (3, 2, 1, 0, [4, 4, 4])])
    batch = collate(items, 2, "left", row_tokens=60)
    rows = separate(batch)
    states = rows.batch.input_ids * 1000 + rows.batch.position
    back = states.flatten()[rows.back].view_as(batch.input_ids)
    counts = batch.comparison >= 0
    assert torch.equal(back[counts], (batch.input_ids * 1000 + batch.position)[counts])
