"""Attention over prefix trees.

A query of comparison c and segment s sees the earlier keys of comparison c that stand in segment 0 or in s: for a
causal model this equals running each of the K sequences alone. Here is the dense mask, the reference for faster forms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_ixc.batch import ComparisonBatch


def tree_mask(batch: ComparisonBatch) -> Tensor:
    """Dense boolean mask (B, 1, T, T) of a batch of prefix trees, True where the query (dim 2) sees the key (dim 3).

    A padding query sees itself alone, so that its softmax is defined; no other query sees it.
    """
    query, key = batch.segment[:, :, None], batch.segment[:, None, :]  # (B, T, 1), (B, 1, T)
    same_tree = batch.comparison[:, :, None] == batch.comparison[:, None, :]
    counts = batch.comparison[:, :, None] >= 0
    columns = torch.arange(batch.segment.shape[1], device=batch.segment.device)
    earlier = columns[:, None] >= columns[None, :]
    itself = columns[:, None] == columns[None, :]
    return (((key == 0) | (key == query)) & same_tree & counts & earlier | itself).unsqueeze(1)
