"""The same run with more models in memory or fewer: four, or the policy as its own reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bandits import NewCritic, Watch, fit, ppo

from lit_ixc.adapters import Lora
from lit_ixc.advantages import RLOO
from lit_ixc.controllers import FixedKL
from lit_ixc.records import UserError
from lit_ixc.reward_signal import RewardSignal
from lit_ixc.rewards.interface import Judgement, Reward

TEXTS = ["h", "jklm", "np"]


def run(folder: Path, rollouts: int = 4, **options: Any) -> tuple[Any, Watch]:
    torch.manual_seed(0)  # of the adapters
    defaults: dict[str, Any] = {"samples": 3, "epochs": 2, "max_new_tokens": 4, "lr": 0.02}
    policy = ppo(**defaults | options)
    return policy, fit(policy, folder, TEXTS, rollouts)


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_adapters_off_are_the_reference_that_a_copy_is(kl_in: Any, tmp_path: Path) -> None:
    """No divergence in the first rollout, some later; answers, divergences and weights as with a copy."""

    def of(reference: str) -> tuple[Any, Watch]:
        signal = RewardSignal({"long": Long()}, FixedKL(0.2), kl_estimator="k3", kl_in=kl_in)
        lora = Lora(rank=4, dropout=0.5)
        return run(tmp_path, signal=signal, lora=lora, critic=NewCritic(), reference=reference)

    (one, off), (other, copy), (_, auto) = of("adapters_off"), of("copy"), of("auto")
    assert off.rollouts[0].kl().abs().max() == 0 and copy.rollouts[0].kl().abs().max() < 1e-5
    assert off.rollouts[-1].kl().abs().max() > 1e-3
    for a, b, c in zip(off.rollouts, copy.rollouts, auto.rollouts, strict=True):
        assert a.answers == b.answers == c.answers
        assert a.reference is not None and b.reference is not None and c.reference is not None
        torch.testing.assert_close(a.reference, b.reference, atol=1e-5, rtol=1e-5)
        assert torch.equal(a.reference, c.reference)  # auto is adapters_off where adapters alone train
    for name, tensor in one.model.state_dict().items():
        torch.testing.assert_close(tensor, other.model.state_dict()[name], atol=1e-4, rtol=1e-3)
    moved = [name for name, p in one.model.named_parameters() if not torch.equal(p, off.before[0][f"model.{name}"])]
    assert moved and all("lora_" in name for name in moved)


class Long(Reward):
    """The number of characters."""

    def __call__(self, episodes: Any) -> Any:
        return [Judgement(float(len(one.text))) for one in episodes]


def test_the_reference_stays_the_start(tmp_path: Path) -> None:
    """The reference's numbers of an answer that is drawn again are the same after the policy has moved."""
    policy, watch = run(tmp_path, advantage=RLOO(), reference="copy", rollouts=3)
    first, last = watch.rollouts[0], watch.rollouts[-1]
    assert first.reference is not None and last.reference is not None
    torch.testing.assert_close(first.reference, first.logprobs, atol=1e-6, rtol=0)
    assert (last.reference - last.logprobs).abs().max() > 1e-3
    start = run(tmp_path, advantage=RLOO(), reference="copy", rollouts=1)[1].before[0]
    policy.load_state_dict(start)
    again = policy.answer(last.prompts, policy.seed + 2)  # other weights, other answers
    torch.testing.assert_close(again.reference, again.logprobs, atol=1e-6, rtol=0)


def test_no_reference_no_divergence(tmp_path: Path) -> None:
    signal = RewardSignal({"long": Long()}, FixedKL(0.0))
    _, watch = run(tmp_path, signal=signal, advantage=RLOO(), reference="none")
    assert all(one.reference is None and not one.kl().any() for one in watch.rollouts)


def test_four_models_are_four_sets_of_weights(tmp_path: Path) -> None:
    """Policy and critic train; the reference is neither trained nor saved."""
    policy, watch = run(tmp_path, critic=NewCritic(), reference="copy", rollouts=1)
    reference = policy.reference._copy
    assert reference is not None and not any(p.requires_grad for p in reference.parameters())
    own = {p.data_ptr() for p in policy.parameters()}
    assert not own & {p.data_ptr() for p in reference.parameters()}
    assert len(own) == sum(1 for _ in policy.parameters())  # policy and critic share nothing either
    assert {name.split(".")[0] for name in watch.before[0]} == {"model", "critic", "signal"}


def test_more_than_adapters_cannot_be_switched_off(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"reference = adapters_off: .* train beside the adapters"):
        run(tmp_path, advantage=RLOO(), reference="adapters_off", lora=Lora(rank=4), freeze_projector=False)
