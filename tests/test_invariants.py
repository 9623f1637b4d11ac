"""Invariants 1-4 of the design on the test model: what a score may depend on, and prefix sharing being exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_ixc.backbone import hidden_states, without_lm_head
from lit_ixc.batch import EncodedComparison
from lit_ixc.heads import AttentionPooling, LastToken, LinearHead, MeanAllTokens, Pooling, ResponseMean, RewardToken
from lit_ixc.ixc25.miniature import build, tiny_config
from lit_ixc.ixc25.model import IXC25Model
from lit_ixc.layout import collate
from lit_ixc.losses import bradley_terry, centring
from tests.trees import REWARD_TOKEN, comparison, media, random_comparison, separately

POOLINGS: list[Callable[[], Pooling]] = [
    LastToken,
    lambda: RewardToken(REWARD_TOKEN),
    MeanAllTokens,
    ResponseMean,
    AttentionPooling,
]
SHAPES = st.tuples(
    st.integers(0, 999), st.integers(1, 4), st.integers(1, 6), st.integers(0, 4), st.integers(1, 6), st.integers(0, 2)
)


@pytest.fixture(scope="module")
def model() -> IXC25Model:
    return without_lm_head(build(tiny_config(), seed=0))


def make_head(pooling: Callable[[], Pooling] = LastToken) -> LinearHead:
    torch.manual_seed(1)
    head = LinearHead(64, pooling())
    if isinstance(head.pooling, AttentionPooling):
        torch.nn.init.normal_(head.pooling.query, std=3.0)
    return head


def scores_of(model: IXC25Model, head: LinearHead, items: Sequence[EncodedComparison], side: str = "right") -> Tensor:
    batch = collate(items, 2, side)  # type: ignore[arg-type]
    return head(hidden_states(model, batch), batch)


@settings(max_examples=25)
@given(st.lists(SHAPES, min_size=1, max_size=3), st.sampled_from(range(len(POOLINGS))))
def test_shared_prefix_equals_separate_sequences(model: IXC25Model, shapes: list[tuple[int, ...]], which: int) -> None:
    """Invariant 2 for scores: any K, prompt, shared beginning and image count, every pooling."""
    items = [random_comparison(*shape) for shape in shapes]
    head = make_head(POOLINGS[which])
    with torch.no_grad():
        together = scores_of(model, head, items)
        for row, item in enumerate(items):
            alone = torch.cat([scores_of(model, head, [one])[0] for one in separately(item)])
            torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("images", [0, 2])
def test_shared_prefix_has_the_same_loss_and_gradients(pooling: Callable[[], Pooling], images: int) -> None:
    """Invariant 2 for the loss and the gradient of every parameter, vision tower and separators included."""
    item = random_comparison(seed=3, responses=3, prompt=4, shared=2, longest=5, images=images)
    gradients = []
    for shared in (True, False):
        model, head = without_lm_head(build(tiny_config(), seed=0)), make_head(pooling)
        if shared:
            scores = scores_of(model, head, [item])
        else:
            scores = torch.cat([scores_of(model, head, [one]) for one in separately(item)], dim=1)
        ranks = torch.tensor([[0, 1, 2]])
        loss = bradley_terry(scores, ranks) + centring(scores, ranks)
        loss.backward()
        named = {**dict(model.named_parameters()), **dict(head.named_parameters())}
        gradients.append((loss.item(), {name: p.grad for name, p in named.items() if p.grad is not None}))
    (loss, tree), (expected, apart) = gradients
    assert loss == pytest.approx(expected, rel=1e-5)
    assert tree.keys() == apart.keys() and len(tree) > (30 if images else 15)
    # Relative to the whole gradient: where the pairs' gradients cancel (the shared prefix under a mean), a parameter's
    # own gradient is rounding noise of both computations. Centring keeps the whole from cancelling.
    whole = torch.cat([gradient.flatten() for gradient in apart.values()]).norm().item()
    for name, gradient in tree.items():
        assert (gradient - apart[name]).norm().item() <= 1e-5 * whole, name


@settings(max_examples=25)
@given(st.lists(SHAPES, min_size=2, max_size=4), st.sampled_from(["right", "left"]))
def test_score_ignores_batch_mates_and_padding(model: IXC25Model, shapes: list[tuple[int, ...]], side: str) -> None:
    """Invariant 1."""
    items, head = [random_comparison(*shape) for shape in shapes], make_head()
    with torch.no_grad():
        together = scores_of(model, head, items, side)
        for row, item in enumerate(items):
            alone = scores_of(model, head, [item])[0]
            torch.testing.assert_close(together[row, : alone.numel()], alone, atol=1e-5, rtol=1e-5)


def test_a_score_is_read_from_its_own_answer(model: IXC25Model) -> None:
    """Changing response 2 moves score 2 and leaves score 1 alone: the check that the tests above could fail."""
    head = make_head()
    with torch.no_grad():
        first = scores_of(model, head, [comparison([10, 11], [[20], [21]])])[0]
        other = scores_of(model, head, [comparison([10, 11], [[20], [22]])])[0]
    assert first[0] == other[0] and abs(first[1] - other[1]) > 1e-3


def test_each_image_is_encoded_once(model: IXC25Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 3: K answers about two images send 3 + 2 views through the vision tower, in one call."""
    calls: list[int] = []
    forward = model.vit.forward
    monkeypatch.setattr(model.vit, "forward", lambda views: (calls.append(len(views)), forward(views))[1])
    item = comparison([10], [[20], [21], [22]], images=media([(1, 2), (1, 1)]))
    scores_of(model, make_head(), [item])
    assert calls == [5]


def test_answers_that_end_in_end_of_sequence(model: IXC25Model) -> None:
    """Invariant 4: pad = eos = 2; an answer whose text ends in several </s> is scored at its own last token."""
    head = make_head()
    items = [comparison([10, 11], [[20, 2, 2], [20]]), comparison([10, 11, 12, 13, 14], [[20] * 9, [21]])]
    with torch.no_grad():
        padded = scores_of(model, head, items)[0]
        alone = torch.cat([scores_of(model, head, [one])[0] for one in separately(items[0])])
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)
    assert abs(padded[0] - padded[1]) > 1e-3
