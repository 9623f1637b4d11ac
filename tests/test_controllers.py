"""KL controllers and running moments: arithmetic by hand, casts, and exact restoring."""

from __future__ import annotations

import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn, tensor

from lit_ixc.controllers import AdaptiveKL, FixedKL, KLController, RunningMoments
from lit_ixc.records import UserError

FINITE = st.floats(-100, 100, width=32)


def adapted(kl: float, answers: int = 100) -> float:
    controller = AdaptiveKL(coefficient=0.1, target=6.0, horizon=1000)
    controller.update(tensor(kl), answers)
    return controller.coefficient.item()


def test_adaptive_coefficient() -> None:
    assert adapted(6.6) == pytest.approx(0.101, abs=1e-8)  # 6.6/6 - 1 = 0.1, times 100/1000: 0.1 * 1.01
    assert adapted(12.0) == pytest.approx(0.102)  # 1 is cut to 0.2
    assert adapted(5.4) == pytest.approx(0.099, abs=1e-8)
    assert adapted(0.0) == adapted(-5.0) == pytest.approx(0.098)  # -1 is cut to -0.2
    assert adapted(6.0) == 0.1
    assert adapted(0.0, answers=100_000) == pytest.approx(0.08)  # more answers than the horizon: as many as it
    controller = AdaptiveKL(coefficient=0.1, target=6.0, horizon=1000)
    for _ in range(3):
        controller.update(tensor(100.0), 500)
    assert controller.coefficient.item() == pytest.approx(0.1 * 1.1**3)


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 30), st.floats(0, 30))
def test_more_kl_costs_more(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0 < adapted(low) <= adapted(high)
    assert (adapted(low) < 0.1) == (tensor(low).item() < 6.0)


def test_fixed_coefficient() -> None:
    controller = FixedKL(0.05)
    controller.update(tensor(1e9), 10_000)
    assert controller.coefficient.item() == 0.05 and controller.coefficient.dtype == torch.float64


def test_a_kl_that_is_no_number_changes_nothing() -> None:
    controller = AdaptiveKL(0.1)
    with pytest.raises(UserError, match="kl = nan"):
        controller.update(tensor(float("nan")), 100)
    assert controller.coefficient.item() == 0.1


def test_what_is_refused() -> None:
    for options, message in (
        ({"coefficient": 0.0}, "coefficient = 0"),
        ({"target": 0.0}, "target = 0"),
        ({"horizon": -1}, "horizon = -1"),
    ):
        with pytest.raises(UserError, match=message):
            AdaptiveKL(**options)
    with pytest.raises(UserError, match="coefficient = -1"):
        FixedKL(-1.0)


def moments_of(*batches: list[float] | Tensor) -> RunningMoments:
    moments = RunningMoments()
    for batch in batches:
        moments.update(torch.as_tensor(batch, dtype=torch.float32))
    return moments


def test_running_moments() -> None:
    # 1 2 3 4 in two batches: mean 2.5, squares 2.25 + 0.25 + 0.25 + 2.25 = 5, deviation sqrt(5/3) = 1.290994
    moments = moments_of([1.0, 2.0, 3.0], [4.0])
    assert (moments.mean.item(), moments.m2.item(), moments.count.item()) == (2.5, 5.0, 4)
    assert moments.std.item() == pytest.approx(1.290994, abs=1e-6)
    standard = moments.standardise(tensor([4.0, 2.5]))
    assert standard.tolist() == pytest.approx([1.161895, 0.0], abs=1e-6) and standard.dtype == torch.float32


def test_before_two_values_and_without_a_difference() -> None:
    assert RunningMoments().standardise(tensor([3.0])).tolist() == [3.0]  # mean 0, deviation 1
    assert moments_of([5.0]).standardise(tensor([5.0, 7.0])).tolist() == [0.0, 2.0]
    assert moments_of([0.1], [0.1, 0.1]).standardise(tensor([0.1, 1.1])).tolist() == pytest.approx([0.0, 1.0])


def test_empty_batches_and_bad_numbers_change_nothing() -> None:
    moments = moments_of([], [1.0, 2.0], [])
    assert (moments.mean.item(), moments.count.item()) == (1.5, 2)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="need finite numbers"):
            moments.update(tensor([3.0, bad]))
    assert (moments.mean.item(), moments.m2.item(), moments.count.item()) == (1.5, 0.5, 2)


def test_moments_over_ranks() -> None:
    # before: 10; here 1 and 3, on the other rank 5: sums 4 + 5, counts 2 + 1, mean 3, squares 4 + 0 and 4.
    # All four: mean 19/4 = 4.75; squares 5.25^2 + 3.75^2 + 1.75^2 + 0.25^2 = 27.5625 + 14.0625 + 3.0625 + 0.0625
    of_the_other = iter([tensor([5.0, 1.0]).double(), tensor(4.0).double()])
    moments = moments_of([10.0])
    moments.update(tensor([1.0, 3.0]), lambda own: own + next(of_the_other))
    assert (moments.mean.item(), moments.m2.item(), moments.count.item()) == (4.75, 44.75, 4)


@settings(max_examples=50, deadline=None)
@given(st.lists(FINITE, min_size=2, max_size=30), st.lists(st.integers(0, 30), max_size=4))
def test_any_chunks_equal_one_pass(values: list[float], cuts: list[int]) -> None:
    everything = torch.tensor(values)
    bounds = sorted({0, len(values), *(min(cut, len(values)) for cut in cuts)})
    merged = moments_of(*(everything[start:end] for start, end in zip(bounds, bounds[1:], strict=False)))
    exact = everything.double()
    assert merged.count.item() == len(values)
    assert merged.mean.item() == pytest.approx(exact.mean().item(), abs=1e-10)
    assert merged.m2.item() == pytest.approx((exact - exact.mean()).square().sum().item(), rel=1e-10, abs=1e-10)


def test_moments_far_from_zero() -> None:
    # 1e7 and 1e7 + 1, 500 of each: squares 1000 / 4; a running sum of squares in fp32 would lose it
    moments = moments_of(*[[1e7, 1e7 + 1]] * 500)
    assert moments.m2.item() == pytest.approx(250.0, rel=1e-9)
    assert moments.std.item() == pytest.approx(math.sqrt(250 / 999))


class Holder(nn.Module):
    """As a training module holds them: beside parameters and buffers that are to be cast."""

    def __init__(self, controller: KLController | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("table", torch.ones(2))
        self.controller = controller or AdaptiveKL(coefficient=0.1)
        self.moments = RunningMoments()

    def live(self, seed: int) -> None:
        values = torch.randn(7, generator=torch.Generator().manual_seed(seed)) / 3
        self.moments.update(values)
        self.controller.update(values.abs().sum(), 100)

    def state(self) -> list[float]:
        return [x.item() for x in (self.controller.coefficient, self.moments.mean, self.moments.m2, self.moments.count)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_casts_leave_the_buffers_exact(dtype: torch.dtype) -> None:
    holder = Holder()
    holder.live(0)
    before = holder.state()
    holder = holder.to(dtype) if dtype == torch.bfloat16 else holder.half()
    assert holder.linear.weight.dtype == holder.table.dtype == dtype  # what should be cast is
    assert holder.controller.coefficient.dtype == holder.moments.mean.dtype == holder.moments.m2.dtype == torch.float64
    assert holder.moments.count.dtype == torch.int64
    assert holder.state() == before
    holder.float()
    assert holder.state() == before
    moved = holder.to("meta", dtype).moments.mean  # they still follow to another device
    assert (moved.device.type, moved.dtype) == ("meta", torch.float64)


@pytest.mark.parametrize("cast", [False, True])
def test_restoring_is_exact_and_the_run_goes_on_the_same(cast: bool) -> None:
    whole, file = Holder(), io.BytesIO()
    for seed in range(3):
        whole.live(seed)
    torch.save(whole.state_dict(), file)
    file.seek(0)
    restored = Holder(AdaptiveKL(coefficient=0.3))
    restored = restored.bfloat16() if cast else restored
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert restored.state() == whole.state()
    for seed in range(3, 6):
        whole.live(seed)
        restored.live(seed)
    assert restored.state() == whole.state()
    fixed = FixedKL(0.7)
    fixed.load_state_dict(FixedKL(0.2).state_dict())
    assert fixed.coefficient.item() == 0.2
