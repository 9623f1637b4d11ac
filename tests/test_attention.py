"""The kernels of prefix-tree attention, in double precision, against a softmax over each sequence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lit_ixc import attention
from lit_ixc.attention import (
    FlexKernel,
    SegmentKernel,
    TreeKernel,
    XformersKernel,
    attention_inputs,
    block_bias,
    block_rows,
    choose_kernel,
    prefix_tree_attention,
    tree_blocks,
    tree_mask,
)
from lit_ixc.batch import ComparisonBatch
from lit_ixc.records import UserError
from tests.trees import (
    ALL_SHARED,
    EMPTY_PREFIX,
    MANY_IMAGES,
    Case,
    cases,
    flex_on_cpu,
    materialised,
    xformers_on_cpu,
)


def attention_alone(query: Tensor, key: Tensor, value: Tensor, batch: ComparisonBatch, scaling: float) -> Tensor:
    """query (B, n, T, d), key and value (B, m, T, d) -> (B, T, n, d): a softmax for each sequence; 0 at padding."""
    rows, heads, width, depth = query.shape
    key, value = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (key, value))
    flat = [x.transpose(0, 1).flatten(1, 2) for x in (query, key, value)]  # (n, B*T, d)
    out = query.new_zeros(rows * width, heads, depth)
    for start, prefix, answers in batch.trees:
        own = start + prefix
        for length in answers:
            path = [*range(start, start + prefix), *range(own, own + length)]
            q, k, v = (x[:, path] for x in flat)
            later = torch.ones(len(path), len(path), dtype=torch.bool).triu(1)
            mixed = (q @ k.mT * scaling).masked_fill(later, -torch.inf).softmax(-1) @ v
            out = out.index_put((torch.tensor(path),), mixed.transpose(0, 1))
            own += length
    return out.view(rows, width, heads, depth)


class DenseKernel(TreeKernel):
    """What ``dense`` makes a model compute."""

    def __init__(self, batch: ComparisonBatch) -> None:
        self.mask = tree_mask(batch)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float) -> Tensor:
        mixed = scaled_dot_product_attention(query, key, value, self.mask, dropout, scale=scaling, enable_gqa=True)
        return mixed.transpose(1, 2)


def draw_qkv(batch: ComparisonBatch, kv_heads: int, seed: int, dtype: torch.dtype = torch.double) -> list[Tensor]:
    """Queries of four heads, keys and values of ``kv_heads``, 8 wide; padding holds numbers too."""
    draw = torch.Generator().manual_seed(seed)
    rows, width = batch.segment.shape
    return [torch.randn(rows, n, width, 8, generator=draw, dtype=dtype) for n in (4, kv_heads, kv_heads)]


def with_gradients(attend: Any, tensors: list[Tensor], batch: ComparisonBatch) -> list[Tensor]:
    """The output at tokens, and the gradients of queries, keys and values for random weights on it."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    out = attend(*leaves)
    assert out.isfinite().all()
    counts = (batch.comparison >= 0)[..., None, None]
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=torch.double).to(out)
    return [(out * counts).detach(), *torch.autograd.grad((out * weights * counts).sum(), leaves)]


@settings(max_examples=15)
@given(cases(images=0), st.sampled_from([1, 2, 4]), st.sampled_from([None, 0.7]), st.integers(0, 99))
@example(EMPTY_PREFIX, 2, None, 0)
@example(ALL_SHARED, 1, None, 0)
@example(MANY_IMAGES, 4, 0.7, 0)
@flex_on_cpu()
@xformers_on_cpu()
def test_kernels_are_a_softmax_over_each_sequence(case: Case, kv_heads: int, scaling: float | None, seed: int) -> None:
    """Values, and gradients of queries, keys and values, with grouped heads and without, padding inert and finite."""
    batch = case.batch()
    tensors = draw_qkv(batch, kv_heads, seed)
    expected = with_gradients(lambda q, k, v: attention_alone(q, k, v, batch, scaling or 8**-0.5), tensors, batch)
    for kind in (DenseKernel, SegmentKernel, FlexKernel, XformersKernel):
        kernel = kind(batch)  # type: ignore[abstract]
        found = with_gradients(lambda q, k, v: kernel(q, k, v, scaling, 0.0), tensors, batch)  # noqa: B023
        for name, one, other in zip(("output", "query", "key", "value"), found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12, msg=lambda m: f"{kind} {name}: {m}")  # noqa: B023
        with torch.no_grad():  # another path of xformers: keys and values are not repeated
            found = kernel(*tensors, scaling, 0.0)
        torch.testing.assert_close(found * (batch.comparison >= 0)[..., None, None], expected[0], atol=1e-12, rtol=0)


@settings(max_examples=30)
@given(cases())
@example(EMPTY_PREFIX)
@example(ALL_SHARED)
def test_the_mask_shows_each_token_its_ancestors(case: Case) -> None:
    batch = case.batch()
    mask = tree_mask(batch)[:, 0]
    for row, parents in enumerate(batch.parent.tolist()):
        for column in range(len(parents)):
            ancestors, at = [], column
            while at >= 0:
                ancestors.append(at)
                at = parents[at]
            assert mask[row, column].nonzero().flatten().tolist() == ancestors[::-1]


@settings(max_examples=30)
@given(cases())
@example(EMPTY_PREFIX)
@example(ALL_SHARED)
def test_blocks_of_xformers_are_the_tree_mask(case: Case) -> None:
    """The bias, materialised, lets each token see each of its keys in one place, and no other key."""
    pytest.importorskip("xformers.ops", reason="needs xformers", exc_type=ImportError)
    batch = case.batch()
    trees = sorted(batch.trees)
    bias = block_bias(*tree_blocks(trees))
    queries, keys = (torch.from_numpy(rows) for rows in block_rows(trees))
    sees = bias.materialize((len(queries), len(keys))) == 0
    block, place = sees.nonzero().unbind(1)
    total = batch.segment.numel()
    times = torch.zeros(total, total, dtype=torch.long)
    times.index_put_((queries[block], keys[place]), torch.tensor(1), accumulate=True)
    expected = torch.block_diag(*tree_mask(batch)[:, 0].long())
    expected[(batch.comparison < 0).flatten()] = 0  # padding enters no block
    assert torch.equal(times, expected)
    assert queries.unique().numel() == queries.numel() == int((batch.comparison >= 0).sum())


def test_xformers_shares_keys_among_the_heads_of_a_group() -> None:
    """Without gradients the keys of a group are handed over once: (1, tokens, m, n/m, d) with stride 0."""
    seen: list[tuple[Any, ...]] = []

    def spy(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> Tensor:
        seen.append((query.shape[1:4], key.stride(3), value.stride(3)))
        return materialised(query, key, value, *rest)

    batch = EMPTY_PREFIX.batch()  # answers of 3, 5 and 4 tokens, each with three of the ending
    with torch.no_grad(), xformers_on_cpu(spy):
        XformersKernel(batch)(*draw_qkv(batch, 2, 0), None, 0.0)
    assert seen == [((21, 2, 2), 0, 0)]


def _no_gpu_kernel(kind: str) -> str | None:
    if not torch.cuda.is_available():
        return "no GPU here"
    return attention._xformers_missing("cuda", torch.bfloat16) if kind == "xformers" else None


@pytest.mark.parametrize("kind", ["xformers", "sdpa", "flex"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_kernels_on_a_gpu(kind: str, kv_heads: int) -> None:
    """In bf16, values and gradients are about as close to fp64 as those of the dense mask; runs on a GPU.

    Kernels round at places of their own, hence the factor 2. A key too many or too few is off by hundreds.
    """
    if reason := _no_gpu_kernel(kind):
        pytest.skip(f"runs on a GPU with {kind} kernels: {reason}")
    case = Case([(1, 0, 90, 3, [40, 0, 70]), (2, 0, 0, 0, [30, 9]), (3, 0, 200, 0, [1])], "left", 700)
    batch = case.batch()
    draw = torch.Generator().manual_seed(0)
    rows, width = batch.segment.shape
    tensors = [torch.randn(rows, n, width, 64, generator=draw).bfloat16() for n in (4, kv_heads, kv_heads)]
    exact = with_gradients(
        lambda q, k, v: attention_alone(q, k, v, batch, 64**-0.5), [t.double() for t in tensors], batch
    )
    batch, tensors = batch.to("cuda"), [tensor.cuda() for tensor in tensors]
    errors = []
    for kernel in (DenseKernel(batch), attention._KERNELS[kind](batch)):
        found = with_gradients(lambda q, k, v: kernel(q, k, v, None, 0.0), tensors, batch)  # noqa: B023
        errors.append([float((one.cpu().double() - other).norm()) for one, other in zip(found, exact, strict=True)])
    for dense, tree in zip(*errors, strict=True):
        assert tree <= 2 * dense


def test_auto_takes_sdpa_on_a_cpu() -> None:
    assert choose_kernel("auto", torch.device("cpu"), torch.float32) == "sdpa"
    inputs = attention_inputs(EMPTY_PREFIX.batch(), "auto", torch.float32)
    assert isinstance(inputs["tree"], SegmentKernel) and inputs["attention_mask"].isnan().all()
    assert attention_inputs(EMPTY_PREFIX.batch(), "dense", torch.float32).keys() == {"attention_mask"}


@pytest.mark.parametrize("name", ["sliding_window", "softcap", "position_bias", "s_aux"])
def test_what_a_kernel_does_not_compute_is_refused(name: str) -> None:
    batch = EMPTY_PREFIX.batch()
    tensors = draw_qkv(batch, 2, 0)
    with pytest.raises(UserError, match=f"Linear asks for {name}"):
        prefix_tree_attention(nn.Linear(1, 1), *tensors, None, tree=SegmentKernel(batch), **{name: 4})
    harmless = max(tree.longest for tree in batch.trees) if name == "sliding_window" else None  # no shorter than any
    out, _ = prefix_tree_attention(nn.Linear(1, 1), *tensors, None, tree=SegmentKernel(batch), **{name: harmless})
    assert out.shape == (*batch.segment.shape, 4, 8)


def test_what_flex_cannot_do() -> None:
    batch = EMPTY_PREFIX.batch()
    with pytest.raises(UserError, match="attention = flex: .*CPU.*; choose sdpa"):
        FlexKernel(batch)(*(x.requires_grad_() for x in draw_qkv(batch, 2, 0)), None, 0.0)
    with pytest.raises(UserError, match="attention = flex: .*attention_dropout to 0 or use sdpa"):
        FlexKernel(batch)(*draw_qkv(batch, 2, 0), None, 0.1)
