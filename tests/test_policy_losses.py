"""Policy losses, value loss and token weights against arithmetic done by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor

from lit_ixc.advantages import BestOfN
from lit_ixc.policy_losses import (
    PolicyLoss,
    PolicyTerms,
    PPOClip,
    Reinforce,
    SequencePPOClip,
    explained_variance,
    token_weights,
    value_loss,
)
from lit_ixc.records import UserError

NAN, INF = float("nan"), float("inf")


def one_token(loss: PolicyLoss, ratio: float, advantage: float) -> tuple[float, float, bool]:
    """Loss of a token whose probability changed by ``ratio``, its gradient to the log-probability, and the clip."""
    logprobs = tensor([[math.log(ratio) - 3.0]], requires_grad=True)
    mask = torch.ones(1, 1, dtype=torch.bool)
    terms = loss(logprobs, tensor([[-3.0]]), tensor([[advantage]]), mask)
    assert terms.ratio.item() == pytest.approx(ratio, rel=1e-5) and not terms.ratio.requires_grad
    terms.loss.sum().backward()
    assert logprobs.grad is not None
    return terms.loss.item(), logprobs.grad.item(), bool(terms.clipped)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient", "clipped"),
    [
        (1.1, 2.0, -2.2, -2.2, False),  # inside: -ratio A, and the same as gradient (d ratio / d log p = ratio)
        (0.9, -2.0, 1.8, 1.8, False),
        (1.5, 2.0, -2.4, 0.0, True),  # a good token that rose enough: -1.2 * 2
        (0.5, -2.0, 1.6, 0.0, True),  # a bad token that fell enough: 0.8 * 2
        (0.5, 2.0, -1.0, -1.0, False),  # a good token that fell: still pulled up
        (1.5, -2.0, 3.0, 3.0, False),  # a bad token that rose: still pushed down
        (5.0, -2.0, 10.0, 10.0, False),
        (1.5, 0.0, 0.0, 0.0, False),
    ],
)
def test_ppo_on_both_sides_of_the_clip(
    ratio: float, advantage: float, value: float, gradient: float, clipped: bool
) -> None:
    assert one_token(PPOClip(), ratio, advantage) == pytest.approx((value, gradient, clipped), abs=1e-5)


def test_unequal_bounds() -> None:
    loss = PPOClip(clip_low=0.1, clip_high=0.28)
    assert one_token(loss, 1.25, 1.0) == pytest.approx((-1.25, -1.25, False), abs=1e-6)  # below 1.28
    assert one_token(loss, 1.30, 1.0) == pytest.approx((-1.28, 0.0, True), abs=1e-6)
    assert one_token(loss, 0.85, -1.0) == pytest.approx((0.9, 0.0, True), abs=1e-6)  # below 1 - 0.1


def test_dual_clip_bounds_bad_tokens_that_rose() -> None:
    loss = PPOClip(dual_clip=3.0)
    assert one_token(loss, 2.5, -2.0) == pytest.approx((5.0, 5.0, False), abs=1e-5)
    assert one_token(loss, 5.0, -2.0) == pytest.approx((6.0, 0.0, True), abs=1e-5)  # 3 * 2 instead of 5 * 2
    assert one_token(loss, 5.0, 2.0) == pytest.approx((-2.4, 0.0, True), abs=1e-5)  # good tokens: the usual clip
    assert one_token(loss, 0.5, -2.0) == pytest.approx((1.6, 0.0, True), abs=1e-5)


def test_the_log_ratio_is_bounded() -> None:
    # 50 nats: the ratio is exp(20) = 4.85165e8 and not exp(50), and no gradient flows
    logprobs = tensor([[0.0, -100.0]], requires_grad=True)
    terms = PPOClip()(logprobs, tensor([[-50.0, -50.0]]), tensor([[-1.0, 1.0]]), torch.ones(1, 2, dtype=torch.bool))
    assert terms.loss.tolist()[0] == pytest.approx([math.exp(20), -math.exp(-20)], rel=1e-5)
    terms.loss.sum().backward()
    assert logprobs.grad is not None and logprobs.grad.tolist() == [[0.0, 0.0]]
    assert terms.clipped.tolist() == [[True, True]]


@settings(max_examples=100, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3).filter(lambda a: abs(a) > 1e-3), st.sampled_from([None, 1.5, 3.0]))
def test_clipped_is_where_the_gradient_ends(log_ratio: float, advantage: float, dual: float | None) -> None:
    _, gradient, clipped = one_token(PPOClip(dual_clip=dual), math.exp(log_ratio), advantage)
    assert clipped == (gradient == 0.0)
    assert clipped or math.copysign(1, gradient) == -math.copysign(1, advantage)


@pytest.mark.parametrize("loss", [PPOClip(), PPOClip(dual_clip=3.0), SequencePPOClip(), Reinforce()])
def test_nothing_outside_the_mask_counts(loss: PolicyLoss) -> None:
    mask = tensor([[1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    inside = [tensor([[-1.0, -2.0]]), tensor([[-1.1, -1.9]]), tensor([[1.0, -1.0]])]
    garbage = [tensor([[NAN, -INF]]), tensor([[1.0, -INF]]), tensor([[INF, NAN]])]
    rows = [torch.cat([torch.cat([a, b], 1), torch.full((1, 4), NAN)]) for a, b in zip(inside, garbage, strict=True)]
    logprobs = rows[0].requires_grad_()
    terms = loss(logprobs, rows[1], rows[2], mask)
    alone = inside[0].requires_grad_()
    expected = loss(alone, *inside[1:], torch.ones(1, 2, dtype=torch.bool))
    for name in PolicyTerms._fields:
        got = getattr(terms, name)
        assert torch.equal(got[:1, :2], getattr(expected, name))
        assert (got[~mask] == 0).all()
    terms.loss.sum().backward()
    expected.loss.sum().backward()
    assert logprobs.grad is not None and alone.grad is not None
    assert torch.equal(logprobs.grad[:1, :2], alone.grad) and (logprobs.grad[~mask] == 0).all()


def test_all_losses_share_the_first_gradient() -> None:
    # at ratio 1 every surrogate has the policy gradient -A
    advantages, mask = tensor([[2.0, -3.0]]), torch.ones(1, 2, dtype=torch.bool)
    for loss in (PPOClip(), PPOClip(dual_clip=3.0), SequencePPOClip(), Reinforce()):
        logprobs = tensor([[-1.0, -2.0]], requires_grad=True)
        terms = loss(logprobs, tensor([[-1.0, -2.0]]), advantages, mask)
        terms.loss.sum().backward()
        assert logprobs.grad is not None and logprobs.grad.tolist() == [[-2.0, 3.0]]
        assert terms.ratio.tolist() == [[1.0, 1.0]] and not terms.clipped.any()


def test_reinforce_and_distillation() -> None:
    # -A log p: -2 * -1.5 = 3 and gradient -2, however far the policy is from the one that sampled
    logprobs, mask = tensor([[-1.5]], requires_grad=True), torch.ones(1, 1, dtype=torch.bool)
    terms = Reinforce()(logprobs, tensor([[-2.5]]), tensor([[2.0]]), mask)
    terms.loss.sum().backward()
    assert (terms.loss.item(), terms.ratio.item()) == pytest.approx((3.0, math.e))
    assert logprobs.grad is not None and logprobs.grad.item() == -2.0
    # best of two answers (totals 1 and 5) of two tokens: the mean negative log-likelihood of the second's is
    # (0.5 + 0.7) / 2; weights are means over all four tokens here, so half of it
    rewards, mask = tensor([[1.0, 0.0], [2.0, 3.0]]), torch.ones(2, 2, dtype=torch.bool)
    weights = BestOfN()(rewards, None, mask, 2).advantages
    chosen = tensor([[-9.0, -9.0], [-0.5, -0.7]])
    total = (Reinforce()(chosen, chosen, weights, mask).loss * token_weights(mask)).sum()
    assert total.item() == pytest.approx(0.3)


def test_sequence_ratio() -> None:
    # log-ratios 0.2 and 0.4: mean 0.3, ratio 1.349859 for both tokens; own advantage, own gradient -ratio A_t
    mask = tensor([[1, 1, 0]], dtype=torch.bool)
    logprobs, old = tensor([[-0.8, -0.6, NAN]], requires_grad=True), tensor([[-1.0, -1.0, 7.0]])
    terms = SequencePPOClip(0.5, 0.5)(logprobs, old, tensor([[1.0, 2.0, NAN]]), mask)
    ratio = math.exp(0.3)
    assert terms.loss.tolist()[0] == pytest.approx([-ratio, -2 * ratio, 0.0], rel=1e-6)
    assert terms.ratio.tolist()[0] == pytest.approx([ratio, ratio, 0.0], rel=1e-6)
    terms.loss.sum().backward()
    assert logprobs.grad is not None and logprobs.grad.tolist()[0] == pytest.approx([-ratio, -2 * ratio, 0.0], rel=1e-6)
    # the paper's bounds stop this answer as a whole: 1 + 4e-4
    stopped = SequencePPOClip()(logprobs, old, tensor([[1.0, 1.0, NAN]]), mask)
    assert stopped.loss.tolist()[0] == pytest.approx([-1.0004, -1.0004, 0.0])
    assert stopped.clipped.tolist() == [[True, True, False]]


def test_sequence_ratio_is_gspo_where_the_advantage_is_constant() -> None:
    mask, old = tensor([[1, 1, 1], [1, 0, 0]], dtype=torch.bool), tensor([[-1.0, -1.2, -0.7], [-2.0, 0.0, 0.0]])
    given_by_us, by_formula = (tensor([[-0.9, -1.3, -0.5], [-2.1, 0.0, 0.0]], requires_grad=True) for _ in range(2))
    advantages = tensor([[1.5], [-0.5]])
    terms = SequencePPOClip(0.5, 0.5)(given_by_us, old, advantages.expand(2, 3), mask)
    (terms.loss * token_weights(mask, "sequence")).sum().backward()
    # eq. 5 and 7: the mean over answers of -A exp(mean log-ratio)
    means = ((by_formula - old) * mask).sum(1) / mask.sum(1)
    (-advantages.flatten() * means.exp()).mean().backward()
    torch.testing.assert_close(given_by_us.grad, by_formula.grad)


@pytest.mark.parametrize(
    ("value", "old", "target", "clip", "loss", "gradient"),
    [
        (1.0, 0.5, 2.0, None, 0.5, -1.0),  # (1 - 2)^2 / 2
        (1.0, 0.5, 2.0, 0.2, 0.845, 0.0),  # moved 0.5 towards 2: taken as 0.7, (0.7 - 2)^2 / 2
        (0.6, 0.5, 2.0, 0.2, 0.98, -1.4),  # within the clip: (0.6 - 2)^2 / 2
        (0.0, 0.5, 2.0, 0.2, 2.0, -2.0),  # moved away: max(4, (0.3 - 2)^2) / 2, with its gradient
        (3.0, 5.0, 2.0, 0.5, 3.125, 0.0),  # from above: taken as 4.5, (4.5 - 2)^2 / 2
    ],
)
def test_value_loss(value: float, old: float, target: float, clip: float | None, loss: float, gradient: float) -> None:
    values = tensor([[value]], requires_grad=True)
    result = value_loss(values, tensor([[old]]), tensor([[target]]), clip)
    result.sum().backward()
    assert values.grad is not None
    assert (result.item(), values.grad.item()) == pytest.approx((loss, gradient), abs=1e-6)


@pytest.mark.parametrize("clip", [None, 0.2])
def test_value_loss_outside_the_mask(clip: float | None) -> None:
    values, mask = tensor([[0.0, NAN, 3.0]], requires_grad=True), tensor([[1, 0, 0]], dtype=torch.bool)
    result = value_loss(values, tensor([[0.0, 1.0, NAN]]), tensor([[2.0, NAN, INF]]), clip, mask)
    assert result.tolist() == [[2.0, 0.0, 0.0]]
    result.sum().backward()
    assert values.grad is not None and values.grad.tolist() == [[-2.0, 0.0, 0.0]]


def test_token_weights() -> None:
    mask = tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    loss = tensor([[1.0, 2.0, 3.0], [10.0, 0.0, 0.0], [0.0, 0.0, 0.0]])

    def total(weights: Tensor) -> float:
        assert (weights[~mask] == 0).all()
        return (loss * weights).sum().item()

    assert total(token_weights(mask, "token")) == pytest.approx(4.0)  # 16 / 4 tokens
    assert total(token_weights(mask, "sequence")) == pytest.approx(6.0)  # (6/3 + 10/1) / 2 answers that have a token
    assert total(token_weights(mask, "fixed", 5)) == pytest.approx(16 / 15)  # R = 3 rows of length 5
    for how in ("token", "sequence", "fixed"):
        assert token_weights(torch.zeros_like(mask), how, 5).tolist() == [[0.0] * 3] * 3
    with pytest.raises(UserError, match="length = None"):
        token_weights(mask, "fixed")


def test_explained_variance() -> None:
    returns, mask = tensor([[1.0, 2.0, 3.0, NAN]]), tensor([[1, 1, 1, 0]], dtype=torch.bool)

    def explained(*values: float) -> float:
        return explained_variance(tensor([[*values, INF]]), returns, mask).item()

    assert explained(1.0, 2.0, 3.0) == 1.0
    assert explained(6.0, 7.0, 8.0) == pytest.approx(1.0)  # a constant offset is no unexplained variance
    assert explained(5.0, 5.0, 5.0) == 0.0
    # errors 0 0 -1: mean -1/3, variance (1/9 + 1/9 + 4/9) / 3 = 2/9 against 2/3: 1 - 1/3
    assert explained(1.0, 2.0, 4.0) == pytest.approx(2 / 3)
    assert explained(3.0, 2.0, 1.0) == pytest.approx(-3.0)  # errors -2 0 2: 8/3 against 2/3
    assert math.isnan(explained_variance(returns, torch.full_like(returns, 4.0), mask).item())


def test_what_is_refused() -> None:
    for options, message in (
        ({"clip_low": 0.0}, "clip_low = 0"),
        ({"clip_low": 1.0}, "clip_low = 1"),
        ({"clip_high": -0.2}, "clip_high = -0.2"),
        ({"dual_clip": 1.0}, "dual_clip = 1"),
    ):
        with pytest.raises(UserError, match=message):
            PPOClip(**options)
