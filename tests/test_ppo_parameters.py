"""Which parameters a step of PPO moves, how far, and which it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bandits import NewCritic, Prompts, copied, fit, trainer
from test_ppo_update import CRITIC, RLOO3, TEXTS, given, scripted

from lit_ixc.backbone import family_of


def test_policy_and_critic_are_clipped_each_for_itself(tmp_path: Path) -> None:
    """The gradient of each, seen by the optimizer, has the norm 0.01; the direction is that of the whole gradient."""
    free = fit(scripted(**CRITIC), tmp_path, TEXTS)
    watch = fit(policy := scripted(max_grad_norm=0.01, **CRITIC), tmp_path, TEXTS)
    for part in ("model.", "critic."):
        raw, cut = (
            torch.cat([g.flatten() for n, g in given(policy, one.gradients[0]).items() if n.startswith(part)])
            for one in (free, watch)
        )
        assert raw.norm() > 0.02 and cut.norm() == pytest.approx(0.01, rel=1e-3)
        torch.testing.assert_close(cut, raw * 0.01 / raw.norm(), rtol=1e-3, atol=1e-7)
        name = {"model.": "policy", "critic.": "critic"}[part]
        assert watch.logged[0][f"train/{name}/grad_norm"] == pytest.approx(raw.norm().item(), rel=1e-4)  # as it was


def test_rates_reach_their_parameters(tmp_path: Path) -> None:
    policy = scripted(lr=1e-3, critic=NewCritic(lr=7e-4))
    runs = trainer(tmp_path)
    runs.fit(policy, Prompts(TEXTS, 1))
    rate = {id(p): (g["lr"], g["weight_decay"]) for g in runs.optimizers[0].param_groups for p in g["params"]}
    for name, parameter in policy.named_parameters():
        matrix = sum(size > 1 for size in parameter.shape) >= 2
        expected = (pytest.approx(1e-3 if name.startswith("model.") else 7e-4), 0.1 if matrix else 0.0)
        assert rate.get(id(parameter)) == (expected if parameter.requires_grad else None), name


def test_the_rate_of_vision_is_scaled(tmp_path: Path) -> None:
    policy = scripted(lr=1e-3, freeze_vision=False, vision_lr_scale=0.1, **RLOO3)
    runs = trainer(tmp_path)
    runs.fit(policy, Prompts(TEXTS, 1))
    rate = {id(p): g["lr"] for g in runs.optimizers[0].param_groups for p in g["params"]}
    _, vision, _ = family_of(policy.model).parts(policy.model)
    assert [rate[id(parameter)] for parameter in vision] == pytest.approx([1e-4] * len(vision))


def test_what_is_frozen_never_moves(tmp_path: Path) -> None:
    policy = scripted(epochs=2, **CRITIC)
    watch = fit(policy, tmp_path, TEXTS, rollouts=2)
    start, end = watch.before[0], copied(policy)
    frozen = {name for name, p in policy.named_parameters() if not p.requires_grad}
    assert policy.critic is not None
    parts = [family_of(model).parts(model) for model in (policy.model, policy.critic.model)]
    visual = {id(p) for part in parts for p in (*part.vision, *part.projector)}
    assert visual == {id(p) for name, p in policy.named_parameters() if name in frozen}
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert {name for name in end if name not in trained and not torch.equal(start[name], end[name])} <= {
        "signal.moments.m2",
        "signal.moments.count",
    }
    assert not [name for name in trained if torch.equal(start[name], end[name])]


def test_warm_up_moves_the_critic_alone(tmp_path: Path) -> None:
    """Two rollouts of two epochs; the policy and its optimizer state stay as they were, weight decay included."""
    policy = scripted(epochs=2, critic_warmup=2, **CRITIC)
    watch = fit(policy, tmp_path, TEXTS, rollouts=3)
    start, warm, after = watch.before[0], watch.before[4], watch.before[5]
    policies = [name for name, p in policy.named_parameters() if name.startswith("model.") and p.requires_grad]
    critics = [name for name in start if name.startswith("critic.head")]
    assert all(torch.equal(start[name], warm[name]) for name in policies)
    assert not any(torch.equal(start[name], warm[name]) for name in critics)
    assert not all(torch.equal(warm[name], after[name]) for name in policies)
    assert "train/policy/loss" not in watch.logged[1] and "train/policy/loss" in watch.logged[2]
