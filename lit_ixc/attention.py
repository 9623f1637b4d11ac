"""Attention over prefix trees: four kernels that compute the same thing.

A query of comparison c and segment s sees the earlier keys of comparison c that stand in segment 0 or in s: for a
causal model this equals running each of the K sequences alone.

    dense     scaled_dot_product_attention under a (T, T) mask: the reference, for any model and any attention function
    sdpa      scaled_dot_product_attention segment by segment: no (T, T) anything; the fastest on CPUs. Batches of
              single sequences (supervised rows, one answer of each prompt) are one plain causal call
    xformers  memory_efficient_attention over blocks: queries [P, R1 .. RK] of all trees against keys [P, P+R1 .. P+RK]
    flex      flex_attention with a block mask, compiled on GPUs

All but ``dense`` reach the layers of a model as its attention function ``prefix_tree``, registered with transformers,
which without a tree does what ``sdpa`` of transformers does.

Shapes: B rows, T tokens, n query heads, m key/value heads, d width of a head.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lit_ixc.batch import ComparisonBatch, Tree
from lit_ixc.layout import on_device
from lit_ixc.records import UserError

log = logging.getLogger(__name__)

FUNCTION = "prefix_tree"  # the name among transformers' attention functions
Kernel = Literal["auto", "xformers", "sdpa", "dense", "flex"]


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


class TreeKernel(ABC):
    """Attention of the layers of one forward pass; what depends on the batch alone is prepared once."""

    def __init__(self, batch: ComparisonBatch) -> None:
        self.longest = max(tree.longest for tree in batch.trees)

    @abstractmethod
    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float) -> Tensor:
        """query (B, n, T, d), key and value (B, m, T, d) -> (B, T, n, d); finite at padding."""


class SegmentKernel(TreeKernel):
    """One call for each prefix and for each continuation: the prefix causal, a continuation against [P, R_k].

    Keys and values of the prefix are joined to each continuation's; scores of tokens that do not see each other are
    computed nowhere but in the triangle of the continuation itself.
    """

    def __init__(self, batch: ComparisonBatch) -> None:
        super().__init__(batch)
        device = batch.input_ids.device
        self.trees = sorted(batch.trees)
        self.sizes: list[int] = []  # of consecutive pieces of the flattened columns: gap, prefix, continuations, ...
        end = 0
        for start, prefix, answers in self.trees:
            self.sizes += [start - end, prefix, *answers]
            end = start + prefix + sum(answers)
        self.sizes.append(batch.input_ids.numel() - end)
        shapes = {(prefix, length) for _, prefix, answers in self.trees for length in answers}
        self.masks = {
            (prefix, length): torch.ones(length, prefix + length, dtype=torch.bool, device=device).tril(prefix)
            for prefix, length in shapes
        }

    @torch.compiler.disable
    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float) -> Tensor:
        rows, heads, width, depth = query.shape
        groups = heads // key.shape[1]

        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
            if groups > 1 and mask is not None and q.is_cuda:  # a mask would send grouped heads to the slow kernel
                k, v = repeat_kv(k, groups), repeat_kv(v, groups)
            shared = k.shape[1] < heads
            return scaled_dot_product_attention(q, k, v, mask, dropout, mask is None, scale=scaling, enable_gqa=shared)

        # (1, heads, B*T, d), cut into pieces
        queries, keys, values = (
            x.transpose(0, 1).flatten(1, 2)[None].split(self.sizes, dim=2) for x in (query, key, value)
        )
        mixed, piece = [], 0
        for _, prefix, answers in self.trees:
            mixed.append(queries[piece].new_zeros(queries[piece].shape))  # padding
            p = piece + 1
            mixed.append(attend(queries[p], keys[p], values[p]) if prefix else queries[p])
            for r, length in enumerate(answers, start=p + 1):
                k, v = torch.cat([keys[p], keys[r]], dim=2), torch.cat([values[p], values[r]], dim=2)
                mixed.append(attend(queries[r], k, v, self.masks[prefix, length]))
            piece = p + 1 + len(answers)
        mixed.append(queries[piece].new_zeros(queries[piece].shape))
        return torch.cat(mixed, dim=2).view(heads, rows, width, depth).permute(1, 2, 0, 3)


class CausalKernel(TreeKernel):
    """Single sequences, each in a row of its own from the first column on: one plain causal call for all rows.

    Padding stands behind a sequence, so that none of its tokens sees it.
    """

    @staticmethod
    def fits(batch: ComparisonBatch) -> bool:
        """Whether a batch is of this form."""
        width = batch.input_ids.shape[1]
        return all(len(tree.answers) == 1 and tree.start % width == 0 for tree in batch.trees)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float) -> Tensor:
        grouped = key.shape[1] < query.shape[1]
        mixed = scaled_dot_product_attention(query, key, value, None, dropout, True, scale=scaling, enable_gqa=grouped)
        return mixed.transpose(1, 2)


class XformersKernel(TreeKernel):
    """Every prefix and every continuation of all trees is a block of one call; padding enters no block."""

    def __init__(self, batch: ComparisonBatch) -> None:
        super().__init__(batch)
        device = batch.input_ids.device
        trees = sorted(batch.trees)
        queries, keys = tree_blocks(trees)
        self.bias = block_bias(queries, keys).to(device)
        query_rows, key_rows = block_rows(trees)
        self.query_rows, self.key_rows = (on_device(rows, device) for rows in (query_rows, key_rows))

    @torch.compiler.disable
    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float) -> Tensor:
        from xformers.ops import memory_efficient_attention

        rows, heads, width, depth = query.shape
        groups = heads // key.shape[1]
        # (blocks' tokens, heads, d)
        q, k, v = (
            x.transpose(1, 2).flatten(0, 1)[index]
            for x, index in ((query, self.query_rows), (key, self.key_rows), (value, self.key_rows))
        )
        if groups > 1:  # (tokens, m, n/m, d): keys and values are the same memory for all heads of a group
            k, v = (x[:, :, None].expand(-1, -1, groups, -1) for x in (k, v))
            q = q.unflatten(1, (-1, groups))
            needs_gradient = q.requires_grad or k.requires_grad or v.requires_grad
            if torch.is_grad_enabled() and needs_gradient:  # the backward kernels take plain heads alone
                q, k, v = (x.flatten(1, 2) for x in (q, k, v))
        mixed = memory_efficient_attention(q[None], k[None], v[None], self.bias, dropout, scaling)
        out = query.new_zeros(rows * width, heads, depth)
        return out.index_copy(0, self.query_rows, mixed.reshape(-1, heads, depth)).view(rows, width, heads, depth)


class FlexKernel(TreeKernel):
    """flex_attention; blocks of 128 tokens that see nothing of each other are skipped.

    Compiled on GPUs. On CPUs it has no backward pass and runs as written: slow, for checks of scores.
    """

    def __init__(self, batch: ComparisonBatch) -> None:
        super().__init__(batch)
        comparison, segment = batch.comparison, batch.segment
        rows, width = segment.shape

        def sees(b: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            shared = (segment[b, k] == 0) | (segment[b, k] == segment[b, q])
            own = (comparison[b, q] == comparison[b, k]) & (comparison[b, q] >= 0)
            return (shared & own & (q >= k)) | (q == k)

        make_mask, self.attend = _compiled_flex() if segment.is_cuda else (create_block_mask, flex_attention)
        self.mask = make_mask(sees, rows, None, width, width, device=segment.device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float) -> Tensor:
        if dropout:
            raise UserError("attention = flex: has no dropout; set the model's attention_dropout to 0 or use sdpa")
        grouped = query.shape[1] != key.shape[1]
        try:
            mixed = self.attend(query, key, value, block_mask=self.mask, scale=scaling, enable_gqa=grouped)
        except NotImplementedError as error:  # gradients on a CPU
            raise UserError(f"attention = flex: {error}; choose sdpa") from error
        return mixed.transpose(1, 2)


def tree_blocks(trees: list[Tree]) -> tuple[list[int], list[int]]:
    """Lengths of the blocks of queries [P, R1 .. RK, ..] and keys [P, P+R1 .. P+RK, ..]; an empty prefix has none."""
    queries, keys = [], []
    for _, prefix, answers in trees:
        own = [prefix] if prefix else []
        queries += [*own, *answers]
        keys += [*own, *(prefix + length for length in answers)]
    return queries, keys


def block_bias(queries: list[int], keys: list[int]) -> Any:
    """The bias of xformers in which query i of R sees the first ``keys - R + i + 1`` keys of its block."""
    from xformers.ops.fmha.attn_bias import BlockDiagonalCausalFromBottomRightMask

    return BlockDiagonalCausalFromBottomRightMask.from_seqlens(queries, keys, device=torch.device("cpu"))


def block_rows(trees: list[Tree]) -> tuple[np.ndarray, np.ndarray]:
    """Flat columns of the queries and of the keys of all blocks, in their order."""
    queries = [np.arange(tree.start, tree.start + tree.prefix + sum(tree.answers)) for tree in trees]
    keys = [[np.arange(tree.start, tree.start + tree.prefix), *tree.sequences()] for tree in trees]
    return np.concatenate(queries), np.concatenate([block for blocks in keys for block in blocks])


def _sdpa_kernel(batch: ComparisonBatch) -> TreeKernel:
    return CausalKernel(batch) if CausalKernel.fits(batch) else SegmentKernel(batch)


_KERNELS: dict[str, Callable[[ComparisonBatch], TreeKernel]] = {
    "sdpa": _sdpa_kernel,
    "xformers": XformersKernel,
    "flex": FlexKernel,
}


def choose_kernel(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> Kernel:
    """What ``auto`` means on a device: xformers where its kernels run, else sdpa.

    Raises:
        UserError: xformers was asked for where it cannot run.
    """
    if kernel not in ("auto", "xformers"):
        return kernel
    reason = _xformers_missing(device.type, dtype)
    if reason is None:
        return "xformers"
    if kernel == "xformers":
        raise UserError(f"attention = xformers: {reason}; choose auto or sdpa")
    if device.type == "cuda":
        _say_once(f"attention: sdpa, since {reason}")
    return "sdpa"


def attention_inputs(batch: ComparisonBatch, kernel: Kernel, dtype: torch.dtype) -> dict[str, Any]:
    """Keyword arguments that make a decoder attend over the batch's trees.

    Args:
        batch: On its device.
        kernel: Which of the four.
        dtype: Floating-point type of the queries, which decides what ``auto`` may choose.

    Returns:
        ``attention_mask``, and but for ``dense`` the ``tree`` that the attention function ``prefix_tree`` reads. The
        mask is then a NaN: an attention function that does not know trees must not pass unnoticed.
    """
    chosen = choose_kernel(kernel, batch.input_ids.device, dtype)
    if chosen == "dense":
        return {"attention_mask": tree_mask(batch)}
    marker = torch.full((1, 1, 1, 1), torch.nan, device=batch.input_ids.device)
    return {"attention_mask": marker, "tree": _KERNELS[chosen](batch)}


def prefix_tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: TreeKernel | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function: over a tree where one is given, else as ``sdpa`` of transformers.

    Raises:
        UserError: The layer asks for what a tree kernel does not compute (sliding windows, capped scores, biases,
            sinks), or the model did not hand the tree on.
    """
    if tree is None:
        if attention_mask is not None and attention_mask.numel() == 1 and attention_mask.is_floating_point():
            raise UserError(f"{type(module).__name__} was not given the prefix tree; set attention to separate")
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    asked = [name for name in ("softcap", "position_bias", "s_aux") if kwargs.get(name) is not None]
    window = kwargs.get("sliding_window")
    if window is not None and window < tree.longest:  # a shorter sequence lies within it
        asked.append("sliding_window")
    if asked:
        raise UserError(f"{type(module).__name__} asks for {', '.join(asked)}; set attention to separate")
    return tree(query, key, value, scaling, dropout).contiguous(), None


AttentionInterface.register(FUNCTION, prefix_tree_attention)
AttentionMaskInterface.register(FUNCTION, sdpa_mask)


@cache
def _xformers_missing(device: str, dtype: torch.dtype) -> str | None:
    """Why xformers cannot run there; None if it can."""
    if device != "cuda":
        return "the kernels of xformers run on NVIDIA GPUs alone"
    try:
        from xformers.ops import fmha
    except ImportError as error:
        return f"xformers cannot be imported ({error})"
    sample = torch.zeros(1, 16, 4, 64, device=device, dtype=dtype)
    try:
        fmha.memory_efficient_attention(sample, sample, sample, block_bias([16], [16]).to(sample.device))
    except (NotImplementedError, RuntimeError, ValueError) as error:
        return f"xformers has no kernel here ({str(error).strip().splitlines()[0]})"
    return None


@cache
def _say_once(message: str) -> None:
    log.warning(message)


@cache
def _compiled_flex() -> tuple[Any, Any]:
    """Compiled, neither the mask of a whole row nor its scores are ever in memory."""
    return torch.compile(create_block_mask, dynamic=True), torch.compile(flex_attention, dynamic=True)
