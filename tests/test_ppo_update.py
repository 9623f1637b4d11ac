"""The updates of PPO against the formulas written out answer by answer, token by token, without trees or masks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from bandits import (
    STOP,
    Letters,
    NewCritic,
    Prompts,
    Scripted,
    Small,
    Table,
    Watch,
    fit,
    ppo,
    prompt,
    trainer,
)
from torch import Tensor
from trees import assert_equal_gradients

from lit_ixc.advantages import RLOO
from lit_ixc.batch import EncodedComparison, EncodedMedia
from lit_ixc.controllers import FixedKL
from lit_ixc.layout import collate
from lit_ixc.ppo import Estimates, PPOModule
from lit_ixc.records import UserError, text_message
from lit_ixc.reward_signal import RewardSignal
from lit_ixc.rollout import Rollout

# Prompts of unequal lengths; answers that begin alike, equal ones, one that only ends, one that is cut off.
TEXTS = ["h", "jklm", "np"]
GROUPS = [["ad", "adef", "d"], ["", "eij…", "eij…"], ["hhh", "", "qrs"]]
SCORES = {"ad": 1.0, "adef": -2.0, "d": 0.5, "eij": 3.0, "hhh": -1.0, "qrs": 0.25}
NINE = list(range(9))
NONE = EncodedMedia((), {})
CRITIC = {"critic": NewCritic()}
RLOO3: dict[str, Any] = {"advantage": RLOO()}


def scripted(kl_in: Any = "reward", kl_estimator: Any = "k3", kl: float = 0.3, **options: Any) -> PPOModule:
    """A policy whose answers are those above."""
    signal = RewardSignal({"table": Table(SCORES)}, FixedKL(kl), kl_estimator=kl_estimator, kl_in=kl_in)
    defaults = {"samples": 3, "max_new_tokens": 5, "max_grad_norm": None, "lr": 0.05, "reference": "copy"}
    return ppo(signal=signal, engine=Scripted(GROUPS), **defaults | options)


def log_softmax(policy: PPOModule, model: Any, text: str, answer: tuple[int, ...]) -> Tensor:
    """(l, V) log-probabilities of every token at each of an answer's places, by a plain forward pass."""
    ids = prompt(text).sequence.ids
    logits = model(torch.tensor([[*ids, *answer]])).logits[0, len(ids) - 1 : -1]
    return (logits / policy.decoding.temperature).log_softmax(-1)


def values(policy: PPOModule, text: str, answer: tuple[int, ...]) -> Tensor:
    """(l,) values of the states before an answer's tokens, by a plain forward pass."""
    ids, critic = prompt(text).sequence.ids, policy.critic
    assert critic is not None
    states = critic.model(torch.tensor([[*ids, *answer]])).last_hidden_state[0, len(ids) - 1 : -1]
    return (critic.head.project(states) - critic.units[0].float()) / critic.units[1].float()


def weight(policy: PPOModule, lengths: list[int], length: int) -> float:
    """Weight of a token of an answer of ``length`` tokens in a step on answers of these lengths."""
    return {
        "token": 1 / sum(lengths),
        "sequence": 1 / length / len(lengths),
        "fixed": 1 / policy.decoding.max_new_tokens / len(lengths),
    }[policy.loss_mean]


def written_out(policy: PPOModule, told: Estimates, rollout: Rollout, rows: list[int]) -> Tensor:
    """The loss of some answers at the policy's weights of now."""
    start = Small().load(lm_head=True)
    total = torch.zeros(())
    lengths = [len(rollout.answers[row]) for row in rows]
    for row, length in zip(rows, lengths, strict=True):
        text, answer = TEXTS[row // 3], rollout.answers[row]
        everything = log_softmax(policy, policy.model, text, answer)
        with torch.no_grad():
            reference = log_softmax(policy, start, text, answer)
        for t, token in enumerate(answer):
            advantage = told.advantages[row, t]
            gap = everything[t, token] - rollout.logprobs[row, t]
            surrogate = torch.minimum(gap.exp() * advantage, gap.exp().clamp(0.8, 1.2) * advantage)
            loss = -surrogate - policy.entropy_bonus * -(everything[t].exp() * everything[t]).sum()
            if policy.signal.kl_in == "loss":
                d = everything[t, token] - reference[t, token]
                loss = loss + 0.3 * (d**2 / 2 if policy.signal.kl_estimator == "k2" else (-d).exp() - 1 + d)
            if policy.critic is not None and told.returns is not None and rollout.values is not None:
                value, old, aim = values(policy, text, answer)[t], rollout.values[row, t], told.returns[row, t]
                error = (value - aim) ** 2
                if policy.value_clip is not None:
                    near = old + (value - old).clamp(-policy.value_clip, policy.value_clip)
                    error = torch.maximum(error, (near - aim) ** 2)
                loss = loss + error / 2
            total = total + weight(policy, lengths, length) * loss
    return total


def gradients(policy: PPOModule, loss: Tensor) -> dict[str, Tensor]:
    policy.zero_grad()
    loss.backward()
    return given(policy, {name: p.grad for name, p in policy.named_parameters()})


def given(policy: PPOModule, found: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Gradients of the trained parameters, zeros for none."""
    trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    return {n: torch.zeros_like(p) if (grad := found[n]) is None else grad for n, p in trained.items()}


CASES: list[dict[str, Any]] = [
    CRITIC,
    CRITIC | {"loss_mean": "sequence", "value_clip": None},
    CRITIC | {"loss_mean": "fixed", "value_clip": 0.01, "temperature": 0.7},
    RLOO3 | {"entropy_bonus": 0.5},
    RLOO3 | {"kl_in": "loss", "kl_estimator": "k2", "temperature": 0.7, "loss_mean": "sequence"},
    CRITIC | {"kl_in": "loss", "kl_estimator": "k3", "entropy_bonus": 0.1},
]


@pytest.mark.parametrize("options", CASES)
def test_the_gradient_is_that_of_the_formula(options: dict[str, Any], tmp_path: Path) -> None:
    """Of the first step, where policy and sampler are one, and of two later ones, where ratios are clipped."""
    policy = scripted(epochs=3, microbatch_prompts=2, **options)
    watch = fit(policy, tmp_path, TEXTS)
    (rollout,), (told,) = watch.rollouts, watch.estimates
    assert len(watch.gradients) == 3
    for before, found in zip(watch.before, watch.gradients, strict=True):
        policy.load_state_dict(before)
        expected = gradients(policy, written_out(policy, told, rollout, NINE))
        assert_equal_gradients(given(policy, found), expected, tolerance=2e-5)
    assert watch.logged[0]["train/policy/first_ratio_error"] < 1e-5 and watch.logged[0]["train/policy/clipped"] > 0


@pytest.mark.parametrize("loss_mean", ["token", "sequence", "fixed"])
@pytest.mark.parametrize("microbatch", [1, 2])
def test_microbatches_change_nothing(loss_mean: str, microbatch: int, tmp_path: Path) -> None:
    """Three prompts one by one, two and one, or all at once: the same rollout and the same gradients."""
    options = {"epochs": 2, "loss_mean": loss_mean, "entropy_bonus": 0.1, **CRITIC}
    whole = fit(scripted(microbatch_prompts=3, **options), tmp_path, TEXTS)
    parted = fit(policy := scripted(microbatch_prompts=microbatch, **options), tmp_path, TEXTS)
    for name in ("logprobs", "reference", "values"):
        one, other = getattr(whole.rollouts[0], name), getattr(parted.rollouts[0], name)
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    assert_equal_gradients(given(policy, parted.gradients[0]), given(policy, whole.gradients[0]))
    for name in whole.logged[0]:
        if "speed" not in name and "first_ratio" not in name:  # of the whole step, not of its last part
            assert parted.logged[0][name] == pytest.approx(whole.logged[0][name], rel=1e-3, abs=1e-5), name


def test_a_minibatch_is_a_step_on_some_prompts(tmp_path: Path) -> None:
    """Each epoch takes every prompt once; the gradient of a step is the formula's over its answers alone."""
    policy = scripted(epochs=2, minibatch_prompts=2, **CRITIC)
    asked: list[list[int]] = []
    own = policy.minibatches
    policy.minibatches = lambda prompts: (asked.append(part) or part for part in own(prompts))  # type: ignore[method-assign, func-returns-value]
    watch = fit(policy, tmp_path, TEXTS, rollouts=3)
    assert [len(part) for part in asked] == [2, 1] * 6
    epochs = [asked[start] + asked[start + 1] for start in range(0, 12, 2)]
    assert all(sorted(epoch) == [0, 1, 2] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1  # not always in one order
    assert len({tuple(epochs[n] + epochs[n + 1]) for n in (0, 2, 4)}) > 1  # nor in the same ones in every rollout
    for step in (0, 1):
        policy.load_state_dict(watch.before[step])
        rows = [prompt * 3 + k for prompt in asked[step] for k in range(3)]
        expected = gradients(policy, written_out(policy, watch.estimates[0], watch.rollouts[0], rows))
        assert_equal_gradients(given(policy, watch.gradients[step]), expected, tolerance=2e-5)


def test_the_loss_of_two_answers_of_two_tokens(tmp_path: Path) -> None:
    """Logged is the loss: 0.5 (A_1 + A_2) of ratio 1, and the critic's half squared error, by hand.

    RLOO of the scores 1 and -1 (no standardisation): advantages 2 and -2. First step: ratio 1 everywhere, so that the
    mean of -A over the 2 + 2 tokens is 0, and the clipped share is 0.
    """
    signal = RewardSignal({"table": Table({"a": 1.0, "d": -1.0})}, FixedKL(0.0), standardise=False)
    policy = ppo(signal=signal, engine=Scripted([["a", "d"]]), samples=2, advantage=RLOO(), reference="none")
    watch = fit(policy, tmp_path, ["h"])
    assert watch.estimates[0].advantages.tolist() == [[2.0, 2.0], [-2.0, -2.0]]
    logged = watch.logged[0]
    assert logged["train/policy/loss"] == pytest.approx(0.0, abs=1e-5)
    assert logged["train/policy/ratio"] == pytest.approx(1.0, abs=1e-5) and logged["train/policy/clipped"] == 0
    # what the first step does: likelier "a", less likely "d"
    policy.model.eval()
    rollout = watch.rollouts[0]
    with torch.no_grad():
        for row, better in ((0, True), (1, False)):
            now = log_softmax(policy, policy.model, "h", rollout.answers[row])[0, rollout.answers[row][0]]
            assert (now > rollout.logprobs[row, 0]) == better


@pytest.mark.parametrize("loss_mean", ["token", "sequence", "fixed"])
def test_what_is_logged_is_a_mean_of_tokens(loss_mean: str, tmp_path: Path) -> None:
    """Before the first step every ratio is 1, so is their mean; the entropy is that of tokens, within its bounds."""
    logged = fit(scripted(loss_mean=loss_mean, **RLOO3), tmp_path, TEXTS).logged[0]
    assert logged["train/policy/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert 2.5 < logged["train/policy/entropy"] < math.log(24)  # random weights: nearly uniform over 24 tokens


def test_target_kl_ends_the_updates_of_a_rollout(tmp_path: Path) -> None:
    """The first step sees a divergence of 0, the second that of the first: the updates end behind it."""
    options: dict[str, Any] = {"epochs": 5, **RLOO3}
    moved = fit(scripted(**options), tmp_path, TEXTS)
    assert len(moved.gradients) == 5
    assert len(fit(scripted(target_kl=1e-6, **options), tmp_path, TEXTS, rollouts=2).gradients) == 4
    assert len(fit(scripted(target_kl=1e6, **options), tmp_path, TEXTS).gradients) == 5
    # k3 of the second step alone, at its weights: mean over all tokens of exp(old - new)... with the roles of the text
    policy = scripted(target_kl=1e-6, **options)
    watch = fit(policy, tmp_path, TEXTS)
    policy.load_state_dict(watch.before[1])
    rollout, gaps = watch.rollouts[0], []
    with torch.no_grad():
        for row, answer in enumerate(rollout.answers):
            now = log_softmax(policy, policy.model, TEXTS[row // 3], answer)
            gaps += [now[t, token].item() - rollout.logprobs[row, t].item() for t, token in enumerate(answer)]
    second = sum(math.exp(gap) - 1 - gap for gap in gaps) / len(gaps)
    assert watch.logged[0]["train/kl/update"] == pytest.approx(second / 2, rel=1e-3)  # mean of 0 and it


def test_demonstrations_add_the_supervised_loss(tmp_path: Path) -> None:
    """The gradient grows by ``sft_weight`` times that of the mean over the demonstrations' tokens, once for a step."""
    answers = [("h", "ijk"), ("jk", "l")]
    rows = [
        EncodedComparison(
            id=text,
            domain="general",
            source="made",
            modality="text",
            sequences=[
                Letters().encode_conversation(
                    prompt(text).record.prompt, [text_message("assistant", word)], NONE, "sft"
                )
            ],
            media=NONE,
            ranks=(0,),
            scores=None,
            lengths=(len(word),),
        )
        for text, word in answers
    ]
    demonstrations = collate(rows, 2)

    def run(sft: float, **options: Any) -> tuple[PPOModule, Watch]:
        policy, watch = scripted(sft_weight=sft, microbatch_prompts=1, **options), Watch()
        trainer(tmp_path, watch).fit(policy, Prompts(TEXTS, 1, demonstrations=demonstrations if sft else None))
        return policy, watch

    (_, without), (policy, watch) = run(0.0, **CRITIC), run(0.5, **CRITIC)
    policy.load_state_dict(watch.before[0])
    loss = torch.zeros(())
    for text, word in answers:
        ids = (*(ord(letter) - 97 for letter in word), STOP)
        everything = log_softmax(policy, policy.model, text, ids)
        loss = loss - sum(everything[t, token] for t, token in enumerate(ids))
    extra = gradients(policy, 0.5 * loss / 6)  # i j k end, l end
    base = given(policy, without.gradients[0])
    assert_equal_gradients(given(policy, watch.gradients[0]), {n: base[n] + extra[n] for n in base}, tolerance=2e-5)
    assert watch.logged[0]["train/sft/loss"] == pytest.approx(loss.item() / 6, rel=1e-4)
    assert "train/sft/loss" not in run(0.5, critic_warmup=1, **CRITIC)[1].logged[0]
    with pytest.raises(UserError, match="sft_weight = 0.5: there are none; set data.demonstrations"):
        trainer(tmp_path).fit(scripted(sft_weight=0.5, **CRITIC), Prompts(TEXTS, 1))
    with pytest.raises(UserError, match="data.demonstrations would be loaded for nothing"):
        trainer(tmp_path).fit(scripted(**CRITIC), Prompts(TEXTS, 1, demonstrations=demonstrations))
