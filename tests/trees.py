"""Small comparisons for tests: random prefix trees and the same sequences one by one."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from lit_ixc.batch import ComparisonBatch, EncodedComparison, EncodedMedia, EncodedSequence
from lit_ixc.layout import collate

IMAGE_TOKEN = 319
REWARD_TOKEN = 318


def sequence(prompt: Sequence[int], answer: Sequence[int], visual: int = 0) -> EncodedSequence:
    """``visual`` image tokens, the prompt, the answer, end of turn (4), ``</s>`` (2) and the reward token."""
    head = [IMAGE_TOKEN] * visual + list(prompt)
    ids = [*head, *answer, 4, 2, REWARD_TOKEN]
    loss = [False] * len(head) + [True] * (len(answer) + 2) + [False]
    flags = [index < visual for index in range(len(ids))]
    return EncodedSequence(ids, flags, loss, len(head), len(head) + len(answer))


def media(grid: Sequence[tuple[int, int]] = (), seed: int = 0, tile: int = 56) -> EncodedMedia:
    """Random images of h x w tiles; an image of the test configuration gives 4(hw+1) + 1 + 2(h+1) visual tokens."""
    if not grid:
        return EncodedMedia((), {})
    views = sum(1 + h * w for h, w in grid)
    pixels = torch.randn(views, 3, tile, tile, generator=torch.Generator().manual_seed(seed))
    lengths = tuple(4 * (h * w + 1) + 1 + 2 * (h + 1) for h, w in grid)
    return EncodedMedia(lengths, {"pixel_values": pixels, "image_grid": torch.tensor(grid)})


def comparison(
    prompt: Sequence[int],
    answers: Sequence[Sequence[int]],
    ranks: Sequence[int] | None = None,
    images: EncodedMedia | None = None,
    name: str = "c",
) -> EncodedComparison:
    """A comparison of hand-made sequences; ranks default to 0, 1, 2, ..."""
    images = images or media()
    return EncodedComparison(
        id=name,
        domain="general",
        source="made",
        modality="image" if images.lengths else "text",
        sequences=[sequence(prompt, answer, sum(images.lengths)) for answer in answers],
        media=images,
        ranks=tuple(ranks if ranks is not None else range(len(answers))),
        scores=None,
        lengths=tuple(len(answer) for answer in answers),
    )


def separately(whole: EncodedComparison) -> list[EncodedComparison]:
    """Each sequence as a comparison of its own, nothing shared."""
    return [
        whole._replace(sequences=[one], ranks=(0,), lengths=(length,))
        for one, length in zip(whole.sequences, whole.lengths, strict=True)
    ]


def random_comparison(
    seed: int, responses: int, prompt: int, shared: int, longest: int, images: int
) -> EncodedComparison:
    """K answers that begin with ``shared`` equal tokens and go on for 1..longest random ones."""
    draw = random.Random(seed)
    tokens = lambda n: [draw.randrange(10, 300) for _ in range(n)]  # noqa: E731
    start = tokens(shared)
    answers = [start + tokens(draw.randint(1, longest)) for _ in range(responses)]
    grid = [(draw.randint(1, 2), draw.randint(1, 2)) for _ in range(images)]
    return comparison(tokens(prompt), answers, images=media(grid, seed), name=f"c{seed}")


def ragged_comparison(
    seed: int, images: int, prompt: int, shared: int, own: Sequence[int], name: str = ""
) -> EncodedComparison:
    """Answer k is ``shared`` equal tokens and ``own[k]`` random ones; equal counts of 0 make equal answers."""
    draw = random.Random(seed)
    tokens = lambda n: [draw.randrange(10, 300) for _ in range(n)]  # noqa: E731
    start = tokens(shared)
    grid = [(draw.randint(1, 2), draw.randint(1, 2)) for _ in range(images)]
    answers = [start + tokens(count) for count in own]
    return comparison(tokens(prompt), answers, images=media(grid, seed), name=name or f"c{seed}")


def states_alone(model: nn.Module, whole: EncodedComparison) -> list[Tensor]:
    """Hidden states (L_k, H) of each sequence by the model's own forward pass: unbatched, with its own images."""
    tensors = whole.media.map(lambda tensor: tensor.to(next(model.parameters()).dtype)).tensors
    return [model(torch.tensor([one.ids]), use_cache=False, **tensors).last_hidden_state[0] for one in whole.sequences]


def states_in_tree(hidden: Tensor, batch: ComparisonBatch) -> list[list[Tensor]]:
    """Of each comparison, the hidden states (L_k, H) of each sequence, out of (B, T, H), by following parents."""
    rows, width = batch.segment.shape
    found = []
    for number, exists in enumerate(batch.exists):
        own = batch.comparison == number
        states = []
        for k in range(1, int(exists.sum()) + 1):
            row, column = (own & (batch.segment == k)).nonzero()[-1].tolist()
            path = []
            while column >= 0:
                path.append(row * width + column)
                column = int(batch.parent[row, column])
            states.append(hidden.flatten(0, 1)[path[::-1]])
        found.append(states)
    return found


def backward(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every trainable parameter, zeros where the loss does not reach it."""
    model.zero_grad()
    loss.backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def assert_equal_gradients(
    found: dict[str, Tensor], expected: dict[str, Tensor], case: str = "", tolerance: float = 1e-5
) -> None:
    """Each parameter's own gradient agrees relative to its norm.

    A bias is measured against its layer's whole gradient: that of keys vanishes whatever the data, since a softmax does
    not see a shift, and is rounding noise of both computations.
    """
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        weight = expected.get(name.removesuffix("bias") + "weight")
        scale = expected[name].norm()
        if weight is not None and name.endswith("bias"):
            scale = torch.hypot(scale, weight.norm())
        error = (gradient - expected[name]).norm()
        assert error <= tolerance * scale, f"{case} {name}: {error:.1e} of {scale:.1e}"


class Case(NamedTuple):
    """A batch: (seed, images, prompt, shared, own lengths) of each comparison, and how it is laid out."""

    shapes: list[tuple[int, int, int, int, list[int]]]
    side: str = "right"
    row_tokens: int | None = None
    multiple: int = 1

    def items(self) -> list[EncodedComparison]:
        return [ragged_comparison(*shape, name=str(number)) for number, shape in enumerate(self.shapes)]

    def batch(self) -> ComparisonBatch:
        """Padding holds the end-of-sequence id, which the sequences hold too."""
        return collate(self.items(), 2, self.side, self.multiple, self.row_tokens)  # type: ignore[arg-type]


def cases(images: int = 3) -> st.SearchStrategy[Case]:
    shape = st.tuples(
        st.integers(0, 999),
        st.integers(0, images),
        st.integers(0, 6),
        st.integers(0, 4),
        st.lists(st.integers(0, 6), min_size=1, max_size=5),
    )
    return st.builds(
        Case,
        st.lists(shape, min_size=1, max_size=4),
        st.sampled_from(["right", "left"]),
        st.sampled_from([None, 1, 60, 120, 1000]),
        st.sampled_from([1, 16]),
    )


# Corners: no prefix at all, one token each behind a shared beginning, padding before and behind, two trees in a row.
EMPTY_PREFIX = Case([(1, 0, 0, 0, [3, 5]), (2, 0, 0, 0, [4])], "left", 1000)
ALL_SHARED = Case([(3, 0, 2, 4, [0, 0, 0]), (4, 1, 3, 0, [2, 2, 1, 6, 3])], "left", None, 16)
MANY_IMAGES = Case([(5, 3, 4, 2, [1, 5]), (6, 0, 5, 1, [3]), (7, 1, 0, 0, [0, 4, 2])], "right", 120)


@contextlib.contextmanager
def flex_on_cpu() -> Iterator[None]:
    """Let flex_attention run as written with gradients, which torch forbids on CPUs since it has no kernel for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *args: None)
        yield


def materialised(
    query: Tensor, key: Tensor, value: Tensor, bias: Any, p: float = 0.0, scale: float | None = None
) -> Tensor:
    """``memory_efficient_attention`` written out, of (1, tokens, heads, d) or (1, tokens, groups, heads each, d)."""
    assert p == 0
    mask = bias.materialize((query.shape[1], key.shape[1]), dtype=query.dtype)
    scores = torch.einsum("bq...d,bk...d->b...qk", query, key) * (scale or query.shape[-1] ** -0.5) + mask
    return torch.einsum("b...qk,bk...d->bq...d", scores.softmax(-1), value)


@contextlib.contextmanager
def xformers_on_cpu(kernel: Any = materialised) -> Iterator[None]:
    """Stand ``materialised`` in for the kernel of xformers, which runs on GPUs alone."""
    ops = pytest.importorskip("xformers.ops", reason="needs xformers", exc_type=ImportError)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "memory_efficient_attention", kernel)
        yield
