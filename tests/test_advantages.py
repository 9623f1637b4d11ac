"""Advantages, shaped rewards and masked statistics against arithmetic done by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor

from lit_ixc import advantages as adv
from lit_ixc.advantages import GAE, GRPO, RLOO, AdvantageEstimator, BestOfN, ReinforcePlusPlus
from lit_ixc.records import UserError

NAN, INF = float("nan"), float("inf")
FEW = settings(max_examples=60, deadline=None)


def mask_of(*rows: list[int]) -> Tensor:
    return tensor(rows, dtype=torch.bool)


def close(actual: Tensor, expected: Tensor | list[list[float]] | list[float] | float, tolerance: float = 1e-6) -> None:
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=1e-6)


@st.composite
def episodes(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values and a mask (R, L) with holes, dropped rows and garbage where the mask is False."""
    rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    mask = torch.rand(rows, width, generator=generator) < draw(st.sampled_from([0.3, 0.7, 1.1]))
    rewards, values = torch.randn(2, rows, width, generator=generator)
    return rewards.masked_fill(~mask, NAN), values.masked_fill(~mask, INF), mask


# --- statistics ---------------------------------------------------------------------------------------------------


def test_mean_and_moments_of_masked_values() -> None:
    values, mask = tensor([[1.0, 2.0, NAN], [3.0, INF, NAN]]), mask_of([1, 1, 0], [1, 0, 0])
    mean, variance = adv.masked_moments(values, mask)
    assert mean.item() == 2.0
    assert variance.item() == pytest.approx(2 / 3)  # (1 + 0 + 1) / 3: of the population
    nothing = torch.zeros_like(mask)
    assert [x.item() for x in adv.masked_moments(values, nothing)] == [0.0, 0.0]


def test_variance_far_from_zero_does_not_cancel() -> None:
    # 10000 and 10001: variance 1/4; the mean of squares is about 1e8, where fp32 has steps of 8
    values = tensor([[10000.0, 10001.0, 10000.0, 10001.0]])
    assert adv.masked_moments(values, torch.ones(1, 4, dtype=torch.bool))[1].item() == 0.25


def test_moments_over_ranks() -> None:
    # here 1 and 3, on the other rank 5 and 7: sums 4 + 12, counts 2 + 2, mean 4;
    # squares here 9 + 1, there 1 + 9: variance 20 / 4
    of_the_other = iter([tensor([12.0, 2.0]), tensor(10.0)])
    values, mask = tensor([[1.0, NAN, 3.0]]), mask_of([1, 0, 1])
    mean, variance = adv.masked_moments(values, mask, lambda own: own + next(of_the_other))
    assert (mean.item(), variance.item()) == (4.0, 5.0)
    of_the_other = iter([tensor([12.0, 2.0]), tensor(10.0)])
    whitened = adv.whiten(values, mask, all_reduce=lambda own: own + next(of_the_other))
    close(whitened, [[-3 / math.sqrt(5), 0.0, -1 / math.sqrt(5)]])  # (1 - 4) / sqrt 5, (3 - 4) / sqrt 5


def test_whitening() -> None:
    values, mask = tensor([[1.0, 2.0, NAN], [3.0, INF, NAN]]), mask_of([1, 1, 0], [1, 0, 0])
    step = 1 / math.sqrt(2 / 3)  # 1.224745
    close(adv.whiten(values, mask), [[-step, 0.0, 0.0], [step, 0.0, 0.0]])
    close(adv.whiten(values, mask, shift_mean=False), [[2 - step, 2.0, 0.0], [2 + step, 0.0, 0.0]])
    close(adv.whiten(tensor([[3.0, 3.0]]), mask_of([1, 1])), [[0.0, 0.0]])  # equal values: 0, not NaN
    close(adv.whiten(tensor([[3.0, NAN]]), mask_of([0, 0])), [[0.0, 0.0]])


@FEW
@given(episodes())
def test_whitened_values_have_mean_0_and_variance_1_under_any_mask(episode: tuple[Tensor, Tensor, Tensor]) -> None:
    rewards, _, mask = episode
    whitened = adv.whiten(rewards, mask)
    assert (whitened[~mask] == 0).all()
    inside = whitened[mask]
    if len(inside) > 1 and rewards[mask].std() > 0.01:
        assert inside.mean().item() == pytest.approx(0.0, abs=1e-5)
        assert inside.var(correction=0).item() == pytest.approx(1.0, abs=1e-3)


# --- KL -----------------------------------------------------------------------------------------------------------


def test_kl_estimates() -> None:
    policy, reference = tensor([0.5, 0.25]).log(), tensor([0.25, 0.5]).log()  # d = log 2, -log 2
    log2 = math.log(2)  # 0.693147
    close(adv.kl_estimate(policy, reference, "k1"), [log2, -log2])
    close(adv.kl_estimate(policy, reference, "k2"), [0.240227, 0.240227])  # 0.693147^2 / 2
    close(adv.kl_estimate(policy, reference, "k3"), [0.5 - 1 + log2, 2 - 1 - log2])  # exp(-d) - 1 + d


def test_k1_and_k3_have_no_bias_and_k2_has_one() -> None:
    # p = 1/2 1/2, q = 1/4 3/4: KL = (log 2 + log 2/3) / 2 = (0.693147 - 0.405465) / 2 = 0.143841
    policy, reference = tensor([0.5, 0.5]).log(), tensor([0.25, 0.75]).log()
    for kind, expected in (("k1", 0.143841), ("k3", 0.143841), ("k2", (0.240227 + 0.082201) / 2)):
        assert adv.kl_estimate(policy, reference, kind).mean().item() == pytest.approx(expected, abs=1e-6)


def test_kl_is_bounded_by_the_clamp() -> None:
    gap, zero = tensor([1000.0, -1000.0, -INF]), torch.zeros(3)
    close(adv.kl_estimate(gap, zero, "k1"), [20.0, -20.0, -20.0])
    close(adv.kl_estimate(gap, zero, "k2", clamp=10.0), [50.0, 50.0, 50.0])
    close(adv.kl_estimate(gap, zero, "k3"), [19.0, math.exp(20) - 21, math.exp(20) - 21])


def test_small_gaps_keep_their_k3() -> None:
    # d = 1e-3: d^2/2 - d^3/6 = 4.998334e-7; exp(-d) - 1 + d in fp32 is off by up to 6e-8
    assert adv.kl_estimate(tensor(1e-3), tensor(0.0), "k3").item() == pytest.approx(4.998334e-7, rel=1e-3)


@FEW
@given(st.floats(-30, 30), st.floats(-30, 30))
def test_k3_is_never_negative(policy: float, reference: float) -> None:
    gap = abs(policy - reference)
    assert adv.kl_estimate(tensor(policy), tensor(reference), "k3").item() >= -1e-6 * min(gap, 1.0)


def test_how_far_an_update_went_from_the_policy_that_sampled() -> None:
    # ratio 1.5 and 0.5 of new to old: ratio - 1 - log ratio = 0.5 - 0.405465, -0.5 + 0.693147
    new, old = tensor([0.6, 0.2]).log(), tensor([0.4, 0.4]).log()
    close(adv.kl_estimate(old, new, "k3"), [0.094535, 0.193147])


# --- rewards ------------------------------------------------------------------------------------------------------


def test_score_on_the_last_sampled_token() -> None:
    mask = mask_of([1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1])
    assert adv.last_token(mask).tolist() == [1, 2, -1, 3]
    placed = adv.at_end(tensor([5.0, 6.0, NAN, -7.0]), mask)
    assert placed.tolist() == [[0, 5, 0, 0], [0, 0, 6, 0], [0, 0, 0, 0], [0, 0, 0, -7]]


def test_shaped_rewards() -> None:
    scores, mask = tensor([2.0, -1.0]), mask_of([1, 1, 0], [1, 1, 1])
    kl = tensor([[0.1, 0.2, NAN], [0.3, 0.4, 0.5]])
    # -0.5 kl, and the score on token 2 (2 - 0.1) and on token 3 (-1 - 0.25)
    expected = tensor([[-0.05, 1.9, 0.0], [-0.15, -0.2, -1.25]])
    shaped = adv.shaped_rewards(scores, kl, 0.5, mask)
    close(shaped, expected)
    dense = tensor([[1.0, 0.0, NAN], [0.0, 10.0, 0.0]])
    close(adv.shaped_rewards(scores, kl, 0.5, mask, dense), expected + tensor([[1.0, 0, 0], [0, 10, 0]]))
    # the coefficient of a controller is an fp64 scalar: the rewards stay fp32
    coefficient = tensor(0.5, dtype=torch.float64)
    assert torch.equal(adv.shaped_rewards(scores, kl, coefficient, mask), shaped)


def test_clip_mechanism() -> None:
    # min(r - 0.5, 0): 0.9 -> 0, 0.3 -> -0.2, 0.7 -> 0
    close(adv.clip_steps(tensor([[0.9, 0.3, 0.7, NAN]]), 0.5, mask_of([1, 1, 1, 0])), [[0.0, -0.2, 0.0, 0.0]])


def test_delta_mechanism() -> None:
    steps = tensor([[0.7, 0.2, 0.4, 0.8], [0.6, 0.1, NAN, INF], [0.5, NAN, NAN, NAN], [NAN, 0.9, NAN, 0.3]])
    mask = mask_of([1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 1])
    # K = 4: 0.7 - 0.2, 0.2 - 0.4, then r_3 itself, then 0 for the last step; K = 2: r_1, 0; K = 1: 0; a hole: as K = 2
    expected = [[0.5, -0.2, 0.4, 0.0], [0.6, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.9, 0.0, 0.0]]
    close(adv.delta_steps(steps, mask), expected)
    # both: clipped at 0.5 the first row is 0, -0.3, -0.1, 0: differences 0.3, -0.2, then -0.1, then 0
    both = adv.delta_steps(adv.clip_steps(steps[:1], 0.5, mask[:1]), mask[:1])
    close(both, [[0.3, -0.2, -0.1, 0.0]])


@FEW
@given(episodes())
def test_no_number_of_steps_adds_reward_under_delta(episode: tuple[Tensor, Tensor, Tensor]) -> None:
    steps, _, mask = episode
    to_come = adv.delta_steps(steps, mask).flip(1).cumsum(1).flip(1)  # (R, S) return from each step on
    ends = torch.arange(mask.shape[1]) == adv.last_token(mask)[:, None]
    close(to_come[mask & ~ends], steps[mask & ~ends], 1e-5)
    assert (to_come[ends] == 0).all()


# --- GAE ----------------------------------------------------------------------------------------------------------


def test_gae() -> None:
    rewards = tensor([[0.0, 0.0, 1.0], [0.0, 2.0, NAN], [NAN, NAN, NAN]])
    values = tensor([[0.5, 0.6, 0.7], [1.0, 1.0, NAN], [NAN, INF, NAN]])
    mask = mask_of([1, 1, 1], [1, 1, 0], [0, 0, 0])
    # gamma 0.9, lambda 0.8, product 0.72. Row 1: deltas 0.9*0.6 - 0.5 = 0.04, 0.9*0.7 - 0.6 = 0.03, 1 - 0.7 = 0.3;
    # A = 0.3, 0.03 + 0.72*0.3 = 0.246, 0.04 + 0.72*0.246 = 0.21712. Row 2: deltas 0.9 - 1 = -0.1, 2 - 1 = 1;
    # A = 1, -0.1 + 0.72 = 0.62: nothing after the last token counts. Row 3 has no token.
    advantages, returns = adv.gae(rewards, values, mask, 0.9, 0.8)
    close(advantages, [[0.21712, 0.246, 0.3], [0.62, 1.0, 0.0], [0.0, 0.0, 0.0]])
    close(returns, [[0.71712, 0.846, 1.0], [1.62, 2.0, 0.0], [0.0, 0.0, 0.0]])  # advantages + values


def test_gae_of_a_cut_answer() -> None:
    # value 10 after the last token of row 1: delta 1 + 0.9*10 - 0.5 = 9.5; row 2 ended: 1 - 0.5
    rewards, values, mask = tensor([[1.0, NAN], [1.0, NAN]]), tensor([[0.5, NAN], [0.5, NAN]]), mask_of([1, 0], [1, 0])
    advantages, returns = adv.gae(rewards, values, mask, 0.9, 0.8, bootstrap=tensor([10.0, 0.0]))
    close(advantages, [[9.5, 0.0], [0.5, 0.0]])
    close(returns, [[10.0, 0.0], [1.0, 0.0]])


def test_gae_skips_holes() -> None:
    dense = adv.gae(tensor([[1.0, 2.0]]), tensor([[0.3, 0.4]]), mask_of([1, 1]), 0.9, 0.8)
    holed = adv.gae(tensor([[1.0, NAN, 2.0, NAN]]), tensor([[0.3, NAN, 0.4, 5.0]]), mask_of([1, 0, 1, 0]), 0.9, 0.8)
    for tight, loose in zip(dense, holed, strict=True):
        assert torch.equal(loose[:, [0, 2]], tight)


@FEW
@given(episodes(), st.floats(0, 1))
def test_gae_at_the_ends_of_lambda(episode: tuple[Tensor, Tensor, Tensor], gamma: float) -> None:
    rewards, values, mask = episode
    whole, single = (adv.gae(rewards, values, mask, gamma, lam)[0] for lam in (1.0, 0.0))
    returns = ReinforcePlusPlus(gamma)(rewards, None, mask, 1).advantages
    for row in range(len(mask)):
        taken = mask[row].nonzero().flatten().tolist()
        for place, column in enumerate(taken):
            to_come = sum(gamma**k * rewards[row, t].item() for k, t in enumerate(taken[place:]))
            following = values[row, taken[place + 1]].item() if place + 1 < len(taken) else 0.0
            value, reward = values[row, column].item(), rewards[row, column].item()
            assert whole[row, column].item() == pytest.approx(to_come - value, abs=1e-5)
            assert single[row, column].item() == pytest.approx(reward + gamma * following - value, abs=1e-5)
            assert returns[row, column].item() == pytest.approx(to_come, abs=1e-5)
    assert (whole[~mask] == 0).all() and (single[~mask] == 0).all() and (returns[~mask] == 0).all()


# --- estimators ---------------------------------------------------------------------------------------------------

#: Two prompts with three answers each: totals 1, 2, 6 and 4, (dropped), 0.
REWARDS = tensor([[0.0, 1.0], [2.0, NAN], [5.0, 1.0], [4.0, INF], [NAN, NAN], [-1.0, 1.0]])
MASK = mask_of([1, 1], [1, 0], [1, 1], [1, 0], [0, 0], [1, 1])


def per_answer(estimator: AdvantageEstimator) -> list[float]:
    """The constant of each answer's tokens, 0 for the dropped one; the shape of the mask is checked."""
    result = estimator(REWARDS, None, MASK, samples=3)
    assert result.returns is None and result.advantages.dtype == torch.float32
    constant = result.advantages[:, :1]
    close(result.advantages, torch.where(MASK, constant, 0.0))
    return [x.item() for x in constant.flatten()]


def test_rloo() -> None:
    # 1 - (2+6)/2, 2 - (1+6)/2, 6 - (1+2)/2; the dropped answer leaves 4 - 0 and 0 - 4
    assert per_answer(RLOO()) == pytest.approx([-3.0, -1.5, 4.5, 4.0, 0.0, -4.0])


def test_grpo() -> None:
    # mean 3, gaps -2 -1 3, deviation sqrt(14/2) = 2.645751; mean 2, gaps 2 -2, deviation sqrt(8/1) = 2.828427
    first, second = 2.645751 + 1e-4, 2.828427 + 1e-4
    expected = [-2 / first, -1 / first, 3 / first, 2 / second, 0.0, -2 / second]
    assert per_answer(GRPO()) == pytest.approx(expected, abs=1e-6)
    assert per_answer(GRPO(scale=False)) == pytest.approx([-2.0, -1.0, 3.0, 2.0, 0.0, -2.0])  # Dr. GRPO


def test_best_of_n() -> None:
    assert per_answer(BestOfN()) == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    # equal totals: the first; a dropped answer never wins though the others are below 0; all dropped: nobody
    rewards, mask = tensor([[3.0], [3.0], [9.0], [-2.0], [9.0], [9.0]]), mask_of([1], [1], [0], [1], [0], [0])
    assert BestOfN()(rewards, None, mask, 2).advantages.flatten().tolist() == [1, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("estimator", [RLOO(), GRPO(), GRPO(scale=False)])
def test_groups_that_say_nothing(estimator: AdvantageEstimator) -> None:
    # one counted answer, none, and equal ones (three times 0.9 in fp32: their sum / 3 is not 0.9)
    rewards = tensor([[5.0], [NAN], [NAN], [1.0], [2.0], [3.0], [0.9], [0.9], [0.9]])
    mask = mask_of([1], [0], [0], [0], [0], [0], [1], [1], [1])
    assert estimator(rewards, None, mask, 3).advantages.flatten().tolist() == [0.0] * 9


@FEW
@given(episodes(), st.integers(1, 3))
def test_groups_sum_to_zero(episode: tuple[Tensor, Tensor, Tensor], prompts: int) -> None:
    rewards, _, mask = episode
    samples, rewards, mask = len(mask), rewards.repeat(prompts, 1), mask.repeat(prompts, 1)
    for estimator in (RLOO(), GRPO(), GRPO(scale=False)):
        of_answers = estimator(rewards, None, mask, samples).advantages.abs().amax(1)
        signed = estimator(rewards, None, mask, samples).advantages
        signs = signed.sum(1).sign()  # every token of an answer has the same
        close((of_answers * signs).view(prompts, samples).sum(1), torch.zeros(prompts), 1e-5)


def test_reinforce_plus_plus() -> None:
    # gamma 0.5: 1 + 0.5*2 + 0.25*4 = 3, 2 + 0.5*4 = 4, 4; the second answer: 6
    rewards, mask = tensor([[1.0, 2.0, 4.0], [6.0, NAN, NAN]]), mask_of([1, 1, 1], [1, 0, 0])
    result = ReinforcePlusPlus(gamma=0.5)(rewards, None, mask, samples=1)
    close(result.advantages, [[3.0, 4.0, 4.0], [6.0, 0.0, 0.0]])
    assert result.returns is None


def test_what_the_estimators_need() -> None:
    estimators = (GAE(), RLOO(), GRPO(), ReinforcePlusPlus(), BestOfN())
    needs = {type(e): (e.needs_critic, e.least_samples, e.whitens) for e in estimators}
    assert needs == {
        GAE: (True, 1, True),
        RLOO: (False, 2, False),
        GRPO: (False, 2, False),
        ReinforcePlusPlus: (False, 1, True),
        BestOfN: (False, 2, False),  # whitened weights would push the other answers down
    }
    assert (GAE().gamma, GAE().lam) == (0.99, 0.95)


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match="values = None: GAE needs a critic"):
        GAE()(REWARDS, None, MASK, 3)
    with pytest.raises(UserError, match="gamma = 1.5"):
        GAE(gamma=1.5)
    with pytest.raises(UserError, match="lam = -0.1"):
        GAE(lam=-0.1)
    with pytest.raises(UserError, match="gamma = 2"):
        ReinforcePlusPlus(gamma=2)
    with pytest.raises(UserError, match="eps = 0"):
        GRPO(eps=0)
