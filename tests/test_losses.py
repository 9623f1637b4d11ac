"""Preference losses against arithmetic done by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from lit_ixc import losses
from lit_ixc.losses import BradleyTerry, PlackettLuce, ScoreRegression
from lit_ixc.records import UserError

NAN = float("nan")
PAIR = tensor([[0, 1]])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_bradley_terry_of_one_pair() -> None:
    # -log sigmoid(2 - 0.5) = log(1 + e^-1.5) = 0.201413
    assert losses.bradley_terry(tensor([[2.0, 0.5]]), PAIR).item() == pytest.approx(0.201413, abs=1e-6)
    # the other way round: log(1 + e^1.5) = 1.701413
    assert losses.bradley_terry(tensor([[2.0, 0.5]]), tensor([[1, 0]])).item() == pytest.approx(1.701413, abs=1e-6)


def test_margin_and_smoothing() -> None:
    scores = tensor([[2.0, 0.5]])
    assert losses.bradley_terry(scores, PAIR, margin=1.0).item() == pytest.approx(softplus(-0.5), abs=1e-6)
    # 0.9 log(1+e^-1.5) + 0.1 log(1+e^1.5) = 0.181272 + 0.170141
    assert losses.bradley_terry(scores, PAIR, label_smoothing=0.1).item() == pytest.approx(0.351413, abs=1e-6)


def test_three_responses_with_a_tie_and_a_missing_one() -> None:
    # ranks 0 1 1: pairs (0,1) and (0,2) with gaps 1 and 3; the second comparison has one response and no pair
    scores, ranks = tensor([[3.0, 2.0, 0.0], [9.0, 0.0, 0.0]]), tensor([[0, 1, 1], [0, -1, -1]])
    expected = (softplus(-1) + softplus(-3)) / 2
    assert losses.bradley_terry(scores, ranks).item() == pytest.approx(expected, abs=1e-6)
    assert losses.ties_squared(scores, ranks).item() == pytest.approx(4.0)  # (2 - 0)^2
    assert losses.ties_half(scores, ranks).item() == pytest.approx((softplus(-2) + softplus(2)) / 2, abs=1e-6)
    assert losses.centring(scores, ranks).item() == pytest.approx((25 + 9) / 2)  # (3+2)^2, (3+0)^2


def test_every_comparison_weighs_the_same() -> None:
    # one pair with gap 0 (log 2) and a comparison of three pairs with gaps 1, 2, 1
    scores, ranks = tensor([[0.0, 0.0, 0.0], [2.0, 1.0, 0.0]]), tensor([[0, 1, -1], [0, 1, 2]])
    expected = (math.log(2) + (2 * softplus(-1) + softplus(-2)) / 3) / 2
    assert losses.bradley_terry(scores, ranks).item() == pytest.approx(expected, abs=1e-6)


def test_focal() -> None:
    # d = 1.5: sigmoid 0.817574, ease 2 * 0.317574 = 0.635149, (1 - ease)^2 = 0.133117, times 0.201413
    value = losses.focal_bradley_terry(tensor([[2.0, 0.5]]), PAIR).item()
    assert value == pytest.approx(0.133117 * 0.201413, abs=1e-6)
    wrong = losses.focal_bradley_terry(tensor([[0.5, 2.0]]), PAIR).item()
    assert wrong == pytest.approx(1.701413, abs=1e-6)  # no discount on a wrong pair


def test_plackett_luce() -> None:
    # scores 2 1 0, ranked 0 1 2: -[2 - lse(2,1,0)] - [1 - lse(1,0)], over 2 stages
    lse3, lse2 = math.log(math.exp(2) + math.e + 1), math.log(math.e + 1)
    expected = ((lse3 - 2) + (lse2 - 1)) / 2
    assert losses.plackett_luce(tensor([[2.0, 1.0, 0.0]]), tensor([[0, 1, 2]])).item() == pytest.approx(
        expected, abs=1e-6
    )
    # a tie at the top (Breslow): both compared with all three
    tied = ((lse3 - 2) + (lse3 - 1)) / 2
    assert losses.plackett_luce(tensor([[2.0, 1.0, 0.0]]), tensor([[0, 0, 1]])).item() == pytest.approx(tied, abs=1e-6)


def test_all_tied_or_alone_gives_zero_with_a_gradient() -> None:
    for loss in (losses.bradley_terry, losses.plackett_luce):
        scores = tensor([[1.0, 2.0], [3.0, 0.0]], requires_grad=True)
        value = loss(scores, tensor([[0, 0], [0, -1]]))
        value.backward()
        assert value.item() == 0 and scores.grad is not None and not scores.grad.any()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=2, max_size=2), st.booleans())
def test_listwise_of_two_is_bradley_terry(values: list[float], swap: bool) -> None:
    scores, ranks = tensor([values]), tensor([[1, 0]]) if swap else PAIR
    assert losses.plackett_luce(scores, ranks).item() == pytest.approx(
        losses.bradley_terry(scores, ranks).item(), abs=1e-4
    )


def test_regression_skips_unknown_scores() -> None:
    # (1-0)^2 and (2-4)^2; the third is unknown
    assert losses.score_regression(tensor([[1.0, 2.0, 9.0]]), tensor([[0.0, 4.0, NAN]])).item() == pytest.approx(2.5)
    both = ScoreRegression(bradley_terry_weight=1.0)(tensor([[1.0, 0.0]]), PAIR, tensor([[1.0, 0.0]]))
    assert both.item() == pytest.approx(softplus(-1), abs=1e-6)


def test_options_of_the_class() -> None:
    scores, graded = tensor([[2.0, 0.5]]), tensor([[5.0, 3.0]])
    nothing = torch.full((1, 2), NAN)
    assert BradleyTerry(graded_margin=0.5)(scores, PAIR, graded).item() == pytest.approx(softplus(-0.5), abs=1e-6)
    assert BradleyTerry(graded_margin=0.5)(scores, PAIR, nothing).item() == pytest.approx(softplus(-1.5), abs=1e-6)
    centred = BradleyTerry(centring=0.01)(scores, PAIR, nothing)
    assert centred.item() == pytest.approx(softplus(-1.5) + 0.0625, abs=1e-6)  # 0.01 * 2.5^2
    tied = BradleyTerry(ties="square", tie_weight=2.0)(scores, tensor([[0, 0]]), nothing)
    assert tied.item() == pytest.approx(4.5)  # 2 * 1.5^2
    assert PlackettLuce()(scores, PAIR, nothing).item() == pytest.approx(softplus(-1.5), abs=1e-6)
    with pytest.raises(UserError, match="label_smoothing = 0.5"):
        BradleyTerry(label_smoothing=0.5)
    with pytest.raises(UserError, match="focal"):
        BradleyTerry(focal=2.0, margin=1.0)


def test_sft_loss_weighs_shared_tokens() -> None:
    # one shared token of two answers at -1, two own ones at -2 and -3: (2*1 + 2 + 3) / 4
    assert losses.sft_loss(tensor([-1.0, -2.0, -3.0]), tensor([2, 1, 1])).item() == pytest.approx(1.75)
