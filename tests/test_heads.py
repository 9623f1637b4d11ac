"""Poolings on hand-made hidden states: one number a token, so that each result can be checked by eye."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_ixc.batch import ComparisonBatch
from lit_ixc.heads import (
    AttentionPooling,
    LastToken,
    LinearHead,
    MeanAllTokens,
    MLPHead,
    Pooling,
    ResponseMean,
    RewardToken,
)
from lit_ixc.layout import collate
from lit_ixc.records import UserError
from tests.trees import REWARD_TOKEN, comparison


@pytest.fixture
def batch() -> ComparisonBatch:
    # row 0: 10 11 | 20 4 2 318 | 21 22 4 2 318   (columns 0 1 | 2..5 | 6..10)
    # row 1: 10 | 20 4 2 318   (columns 0 | 1..4)
    return collate([comparison([10, 11], [[20], [21, 22]]), comparison([10], [[20]])], 2)


def numbered(batch: ComparisonBatch) -> Tensor:
    """Hidden states (B, T, 2): the column's number and its square."""
    columns = torch.arange(batch.input_ids.shape[1], dtype=torch.float32).expand(batch.input_ids.shape)
    return torch.stack([columns, columns**2], dim=-1)


def pooled(pooling: Pooling, batch: ComparisonBatch) -> list[list[float]]:
    """First hidden component of the pooled vectors, existing responses only."""
    values = pooling(numbered(batch), batch)[..., 0]
    return [
        [round(v, 5) for v, e in zip(r, x, strict=True) if e]
        for r, x in zip(values.tolist(), batch.exists, strict=True)
    ]


def test_last_and_reward_token(batch: ComparisonBatch) -> None:
    assert pooled(LastToken(), batch) == [[5.0, 10.0], [4.0]]
    assert pooled(RewardToken(REWARD_TOKEN), batch) == [[5.0, 10.0], [4.0]]
    assert pooled(RewardToken(4), batch) == [[3.0, 8.0], [2.0]]  # any id can mark the place


def test_reward_token_must_be_there(batch: ComparisonBatch) -> None:
    with pytest.raises(UserError, match="no token 92527"):
        RewardToken()(numbered(batch), batch)


def test_means(batch: ComparisonBatch) -> None:
    # all: (0+1+2+3+4+5)/6, (0+1+6+7+8+9+10)/7, (0+1+2+3+4)/5
    assert pooled(MeanAllTokens(), batch) == [[2.5, round(41 / 7, 5)], [2.0]]
    # answers: (2+3+4+5)/4, (6+..+10)/5, (1+2+3+4)/4
    assert pooled(ResponseMean(), batch) == [[3.5, 8.0], [2.5]]


def test_answers_that_begin_alike_share_the_mean() -> None:
    # 10 | 20 in the prefix, then 21 4 2 318 | 22 4 2 318: columns 0 1 | 2..5 | 6..9; answers are {1} + own tokens
    batch = collate([comparison([10], [[20, 21], [20, 22]])], 2)
    assert pooled(ResponseMean(), batch) == [[3.0, 6.2]]  # (1+2+3+4+5)/5, (1+6+7+8+9)/5


def test_attention_pooling_is_a_softmax_over_the_own_sequence(batch: ComparisonBatch) -> None:
    pooling = AttentionPooling()
    pooling.prepare(2)
    assert pooled(pooling, batch) == pooled(MeanAllTokens(), batch)  # starts as the mean
    with torch.no_grad():
        pooling.query.copy_(torch.tensor([30.0, 3.0]))  # extreme logits: 30 c + 3 c^2, up to 424 at column 10
    logits = (numbered(batch)[0] @ pooling.query) / 2**0.5
    own = torch.tensor([0, 1, 6, 7, 8, 9, 10])
    expected = (logits[own].softmax(0) * own).sum().item()
    assert pooled(pooling, batch)[0][1] == pytest.approx(expected, abs=1e-4)


def test_heads_project_and_mask(batch: ComparisonBatch) -> None:
    head = LinearHead(2, LastToken())
    with torch.no_grad():
        head.v_head.weight.copy_(torch.tensor([[1.0, -0.5]]))
    # 5 - 12.5, 10 - 50, 4 - 8; the missing response scores 0
    assert head(numbered(batch), batch).tolist() == [[-7.5, -40.0], [-4.0, 0.0]]
    mlp = MLPHead(2, LastToken(), width=1)
    with torch.no_grad():
        mlp.inner.weight.copy_(torch.tensor([[1.0, 0.0]]))
        mlp.inner.bias.fill_(-5.0)
        mlp.outer.weight.fill_(2.0)
    # 2 silu(5 - 5) = 0, 2 silu(10 - 5) = 10 sigmoid(5) = 9.93307
    assert mlp(numbered(batch), batch)[0].tolist() == pytest.approx([0.0, 9.93307], abs=1e-5)
