"""The prefix-tree layout and the collation, on cases small enough to read."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_ixc.layout import collate, shared_prefix_length, tree_row
from tests.trees import comparison, random_comparison, sequence


def test_layout_of_two_answers_that_begin_alike() -> None:
    # prompt 10 11, answers (20 21) and (20 22 23): the prefix is 10 11 20, then "21 4 2 318" and "22 23 4 2 318"
    row = tree_row([sequence([10, 11], [20, 21]), sequence([10, 11], [20, 22, 23])])
    assert row.ids.tolist() == [10, 11, 20, 21, 4, 2, 318, 22, 23, 4, 2, 318]
    assert row.segment.tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2]
    assert row.position.tolist() == [0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 7]
    assert row.parent.tolist() == [-1, 0, 1, 2, 3, 4, 5, 2, 7, 8, 9, 10]
    assert row.response.tolist() == [False, False] + [True] * 10
    assert row.loss.tolist() == [False, False, True, True, True, True, False, True, True, True, True, False]


def test_single_sequence_splits_at_its_response() -> None:
    row = tree_row([sequence([10, 11], [20])])
    assert row.segment.tolist() == [0, 0, 1, 1, 1, 1]
    assert row.parent.tolist() == [-1, 0, 1, 2, 3, 4]


def test_equal_answers_keep_a_token_each() -> None:
    one = sequence([10], [20])
    assert shared_prefix_length([one, one]) == 4  # of 5 tokens: 10 20 4 2 | 318
    assert tree_row([one, one]).segment.tolist() == [0, 0, 0, 0, 1, 2]


def test_no_shared_token_at_all() -> None:
    row = tree_row([sequence([], [20]), sequence([], [30])])
    assert row.segment.tolist() == [1] * 4 + [2] * 4
    assert row.parent.tolist() == [-1, 0, 1, 2, -1, 4, 5, 6]


@pytest.mark.parametrize("side", ["right", "left"])
def test_collate_pads_and_names(side: str) -> None:
    batch = collate([comparison([10, 11], [[20], [21]], name="a"), comparison([10], [[20]], name="b")], 2, side)
    assert batch.input_ids.shape == (2, 10)  # 2 + 4 + 4 tokens; the second row has 1 + 4
    assert batch.ranks.tolist() == [[0, 1], [0, -1]]
    assert batch.lengths.tolist() == [[1, 1], [1, 0]]
    pads = batch.comparison[1] == -1
    assert pads.sum() == 5 and bool(pads[-1]) == (side == "right")
    assert (batch.segment[1][pads] == -1).all() and (batch.input_ids[1][pads] == 2).all()
    assert not (batch.visual | batch.response | batch.loss)[1][pads].any()
    assert batch.ids == ("a", "b")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 99), st.integers(1, 4), st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=4
    ),
    st.sampled_from(["right", "left"]),
)
def test_every_sequence_can_be_read_back(specs: list[tuple[int, int, int, int]], side: str) -> None:
    """Following parents from the last token of continuation k gives sequence k again, on either padding side."""
    made = [random_comparison(seed, k, prompt, shared, 4, 0) for seed, k, prompt, shared in specs]
    batch = collate(made, 2, side)
    for row, whole in enumerate(made):
        for k, one in enumerate(whole.sequences, start=1):
            column = int((batch.segment[row] == k).nonzero().max())
            ids, positions = [], []
            while column >= 0:
                ids.append(int(batch.input_ids[row, column]))
                positions.append(int(batch.position[row, column]))
                column = int(batch.parent[row, column])
            assert ids[::-1] == one.ids
            assert positions[::-1] == list(range(len(one.ids)))


def test_moves_as_a_whole() -> None:
    batch = collate([comparison([10], [[20], [21]])], 2)
    moved = batch.to("meta")
    assert moved.input_ids.device.type == moved.ranks.device.type == "meta" and moved.ids == batch.ids
    assert torch.equal(batch.exists, torch.tensor([[True, True]]))
