"""The losses of direct preference optimisation, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lit_ixc.dpo_losses import DPO, IPO, DPOLoss, RobustDPO, SimPO, chosen_nll, pair_means
from lit_ixc.records import UserError

# One comparison of two: log-ratios 2 and -1, a gap of 3.
POLICY, REFERENCE = torch.tensor([[-4.0, -9.0]]), torch.tensor([[-6.0, -8.0]])
TOKENS, RANKS = torch.tensor([[2, 5]]), torch.tensor([[0, 1]])


def logsig(x: float) -> float:
    return -math.log(1 + math.exp(-x))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (DPO(beta=0.5), -logsig(1.5)),  # 0.5 * 3
        (DPO(beta=0.5, label_smoothing=0.2), -0.8 * logsig(1.5) - 0.2 * logsig(-1.5)),
        (RobustDPO(beta=0.5, flip_rate=0.2), (-0.8 * logsig(1.5) + 0.2 * logsig(-1.5)) / 0.6),
        (IPO(tau=0.25), (3 - 2) ** 2),  # 1 / (2 tau) = 2
        (IPO(tau=0.25, length_averaged=True), (2 / 2 - -1 / 5 - 2) ** 2),
        (SimPO(beta=2.0, gamma_ratio=0.25), -logsig(2 * (-4 / 2 - -9 / 5) - 0.5)),  # -0.4 - 0.5: not met
    ],
)
def test_one_pair(loss: DPOLoss, expected: float) -> None:
    found = loss(POLICY, REFERENCE if loss.needs_reference else None, TOKENS, RANKS)
    assert found.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "rewards"),
    [
        (DPO(beta=0.5), [1.0, -0.5]),
        (RobustDPO(beta=0.5), [1.0, -0.5]),
        (IPO(tau=0.25), [0.5, -0.25]),
        (IPO(tau=0.25, length_averaged=True), [0.25, -0.05]),
        (SimPO(beta=2.0), [-4.0, -3.6]),
    ],
)
def test_implicit_rewards(loss: DPOLoss, rewards: list[float]) -> None:
    torch.testing.assert_close(loss.rewards(POLICY, REFERENCE, TOKENS), torch.tensor([rewards]))


def test_the_start_is_the_log_of_two() -> None:
    assert DPO()(POLICY, POLICY, TOKENS, RANKS).item() == pytest.approx(math.log(2))
    assert DPO(label_smoothing=0.3)(POLICY, POLICY, TOKENS, RANKS).item() == pytest.approx(math.log(2))
    assert RobustDPO()(POLICY, POLICY, TOKENS, RANKS).item() == pytest.approx(math.log(2))
    assert IPO(tau=0.5)(POLICY, POLICY, TOKENS, RANKS).item() == pytest.approx(1.0)  # (0 - 1)^2


def test_all_pairs_of_three_ranks_and_a_tie() -> None:
    """Rewards 3 1 0 with ranks 0 1 2, rewards 2 1 5 with ranks 0 0 1, and a comparison of ties alone."""
    policy = torch.tensor([[3.0, 1.0, 0.0], [2.0, 1.0, 5.0], [7.0, 9.0, 0.0]])
    ranks = torch.tensor([[0, 1, 2], [0, 0, 1], [0, 0, -1]])
    zeros, tokens = torch.zeros(3, 3), torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0]])
    first = -(logsig(2) + logsig(3) + logsig(1)) / 3
    second = -(logsig(-3) + logsig(-4)) / 2
    assert DPO(beta=1.0)(policy, zeros, tokens, ranks).item() == pytest.approx((first + second) / 2)
    # a missing response has no tokens: nothing is divided by 0
    simpo = -(logsig(1) + logsig(2) + logsig(0)) / 3, -(logsig(-4) + logsig(-5)) / 2  # gamma 1
    assert SimPO(beta=1.0, gamma_ratio=1.0)(policy, None, tokens, ranks).item() == pytest.approx(sum(simpo) / 2)
    chosen, rejected = pair_means(policy, ranks)
    # pairs 3>1 3>0 1>0: chosen 7 / 3, rejected 1 / 3; pairs 2>5 1>5: chosen 3 / 2, rejected 5
    assert chosen.item() == pytest.approx((7 / 3 + 3 / 2) / 2) and rejected.item() == pytest.approx((1 / 3 + 5) / 2)


def test_likelihood_of_the_better_answers() -> None:
    """K = 2: 4 nats in 2 tokens. K = 3: the pairs 0>1, 0>2, 1>2 count response 0 twice and 1 once."""
    assert chosen_nll(POLICY, TOKENS, RANKS).item() == pytest.approx(2.0)
    policy, tokens = torch.tensor([[-6.0, -2.0, -50.0]]), torch.tensor([[3, 4, 1]])
    found = chosen_nll(policy, tokens, torch.tensor([[0, 1, 2]]))
    assert found.item() == pytest.approx((2 + 2 + 0.5) / 3)


def test_robust_loss_of_flipped_labels_is_that_of_clean_ones() -> None:
    """The mean over labels flipped with rate e is the DPO loss of the true ones; smoothing lacks that."""
    clean = DPO(beta=0.5)(POLICY, REFERENCE, TOKENS, RANKS)

    def flipped(loss: DPOLoss) -> Tensor:
        right, wrong = (loss(POLICY, REFERENCE, TOKENS, ranks) for ranks in (RANKS, 1 - RANKS))
        return 0.7 * right + 0.3 * wrong

    torch.testing.assert_close(flipped(RobustDPO(beta=0.5, flip_rate=0.3)), clean)
    assert not torch.isclose(flipped(DPO(beta=0.5, label_smoothing=0.3)), clean)


def test_smoothing_has_its_best_gap_where_the_labels_say() -> None:
    gap = torch.tensor([math.log(0.8 / 0.2)], requires_grad=True)
    DPO(label_smoothing=0.2).of_gaps(gap).sum().backward()
    assert gap.grad is not None and abs(gap.grad.item()) < 1e-6


def test_only_ties_have_no_loss_and_no_gradient() -> None:
    policy = POLICY.clone().requires_grad_()
    for loss in (DPO(), RobustDPO(), IPO(), SimPO()):
        value = loss(policy, REFERENCE, TOKENS, torch.tensor([[0, 0]])) + chosen_nll(
            policy, TOKENS, torch.tensor([[0, 0]])
        )
        (gradient,) = torch.autograd.grad(value, policy)
        assert value.item() == 0 and not gradient.any()


def test_values_out_of_range_are_named() -> None:
    with pytest.raises(UserError, match="beta = 0: choose a positive number"):
        DPO(beta=0)
    with pytest.raises(UserError, match=r"label_smoothing = 0.5: choose a value in \[0, 0.5\)"):
        DPO(label_smoothing=0.5)
    with pytest.raises(UserError, match="flip_rate = -0.1"):
        RobustDPO(flip_rate=-0.1)
    with pytest.raises(UserError, match="tau = -1"):
        IPO(tau=-1)
    with pytest.raises(UserError, match="gamma_ratio = -1"):
        SimPO(gamma_ratio=-1)
    with pytest.raises(ValueError, match="needs the log-probabilities of the reference"):
        DPO()(POLICY, None, TOKENS, RANKS)
