"""The critic starts as the reward model, may share its backbone with a learned reward, and goes back to a folder."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from bandits import NewCritic, Prompts, Scripted, Table, Watch, ppo, trainer
from rewards.exported import Toy, picture, processor, trained
from test_rollout import CPU, Count, Mixed, asked
from torch import Tensor

from lit_ixc.adapters import Lora
from lit_ixc.answered import Answered, answer_logprobs, lay_out
from lit_ixc.backbone import Pretrained
from lit_ixc.controllers import FixedKL, RunningMoments
from lit_ixc.critic import CriticFrom
from lit_ixc.heads import LastToken, MLPHead
from lit_ixc.ixc25.model import IXC25Model
from lit_ixc.ppo import PPOModule
from lit_ixc.records import UserError
from lit_ixc.reward import RewardModule
from lit_ixc.reward_signal import RewardSignal
from lit_ixc.rewards.interface import Episode, Judgement
from lit_ixc.rewards.learned import LearnedReward
from lit_ixc.rollout import Rollout

PIECES: Any = processor()
ANSWERS = [(265, 266, 267), (265, 266), (270,), (265, 271, 272)]


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> tuple[RewardModule, str]:
    folder = tmp_path_factory.mktemp("reward")
    return trained(folder, lambda size: MLPHead(size, LastToken(), 7)), str(folder)


def laid_out() -> Answered:
    """Two answers to a prompt with an image, and two to one without."""
    prompts = [asked(PIECES, "What is it?", picture()), asked(PIECES, "no")]
    return lay_out(prompts, ANSWERS, 3, PIECES.pad_token_id, CPU)


@torch.no_grad()
def heads_values(module: RewardModule) -> Tensor:
    """The reward model's head on the state before each token, by plain forward passes."""
    prompts = [asked(PIECES, "What is it?", picture()), asked(PIECES, "no")]
    found = torch.zeros(4, 3)
    for row, answer in enumerate(ANSWERS):
        one = prompts[row // 2]
        ids = torch.tensor([[*one.sequence.ids, *answer]])
        states = module.model(ids, use_cache=False, **one.media.tensors).last_hidden_state[0]
        found[row, : len(answer)] = module.head.project(states[len(one.sequence.ids) - 1 : -1])
    return found


def test_it_starts_as_the_head_of_the_reward_model(reward: tuple[RewardModule, str]) -> None:
    module, path = reward
    critic = CriticFrom(path).load()
    with torch.no_grad():
        found = critic(laid_out())
    expected = heads_values(module.eval())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert found.dtype == torch.float32 and (found == 0).sum() == 3  # padding alone
    vision = {name for name, p in critic.named_parameters() if not p.requires_grad}
    assert vision and all(name.startswith(("model.vit", "model.vision_proj", "model.plora_")) for name in vision)
    critic.train()  # no dropout: values of the same weights are the same
    with torch.no_grad():
        torch.testing.assert_close(critic(laid_out()), expected, atol=1e-5, rtol=1e-5)


def test_units_bring_its_output_to_standardised_rewards(reward: tuple[RewardModule, str]) -> None:
    """Rewards 1, 2, 6: mean 3, deviation sqrt(7)."""
    _, path = reward
    critic, moments = CriticFrom(path).load(), RunningMoments()
    moments.update(torch.tensor([1.0, 2.0, 6.0]))
    with torch.no_grad():
        before = critic(laid_out())
        given = critic.set_units(moments, before)
        after = critic(laid_out())
    there = before != 0
    torch.testing.assert_close(given[there], (before[there] - 3) / math.sqrt(7))
    torch.testing.assert_close(after, given * there)
    fresh = CriticFrom(path).load()
    fresh.load_state_dict(critic.state_dict())
    assert torch.equal(fresh.units, critic.units) and fresh.units.dtype == torch.float64


@pytest.mark.parametrize("standardise", [True, False])
def test_zero_starts_at_zero(standardise: bool, reward: tuple[RewardModule, str], tmp_path: Path) -> None:
    """Also where the mean of the first rewards is far from 0."""
    _, path = reward
    signal = RewardSignal({"count": Far()}, FixedKL(0.0), standardise=standardise)
    options: dict[str, Any] = {"max_new_tokens": 3, "samples": 2}
    policy = ppo(backbone=Toy(), processor=PIECES, signal=signal, critic=CriticFrom(path, start="zero"), **options)
    watch = Watch()
    trainer(tmp_path, watch).fit(policy, Mixed([asked(PIECES, "no")], 1))
    assert watch.rollouts[0].values is not None and not watch.rollouts[0].values.any()


class Far(Count):
    """The number of characters, and 50."""

    def __call__(self, episodes: Sequence[Episode]) -> list[Judgement]:
        return [one._replace(score=one.score + 50) for one in super().__call__(episodes)]


@pytest.mark.parametrize("first", [[3.0, 5.0], [0.0, 0.0], [4.0, 4.0]])
def test_units_are_set_once(first: list[float], tmp_path: Path) -> None:
    """By the first rollout alone, and so that its values are what the critic says: also where its rewards are equal."""
    table = Table({"a": first[0], "d": first[1]})
    policy = ppo(signal=RewardSignal({"t": table}), engine=Scripted([["a", "d"]]), samples=2, critic=NewCritic())
    watch = Watch()

    class Change(Watch):
        def on_train_batch_end(self, *rest: Any) -> None:
            table.scores = {"a": 10.0, "d": -7.0}

    trainer(tmp_path, watch, Change()).fit(policy, Prompts(["h"], 3))
    units = [sum(first) / 2, abs(first[1] - first[0]) / math.sqrt(2) or 1.0]
    for before in watch.before:
        assert before["critic.units"].tolist() == pytest.approx(units)


def shared(path: str, sharing: bool, **options: Any) -> PPOModule:
    """A policy judged by the reward model that its critic starts from."""
    signal = RewardSignal({"rm": LearnedReward(path, share_with_critic=sharing)}, FixedKL(0.0))
    critic = CriticFrom(path, lora=Lora(rank=4, dropout=0.5), lr=0.02)
    defaults: dict[str, Any] = {"samples": 3, "max_new_tokens": 4, "epochs": 2, "seed": 3}
    return ppo(backbone=Toy(), processor=PIECES, signal=signal, critic=critic, **defaults | options)


def test_a_shared_backbone_gives_the_rewards_of_a_separate_one(
    reward: tuple[RewardModule, str], tmp_path: Path
) -> None:
    """Over three rollouts in which the critic learns: equal answers, scores and values; and one model less."""
    _, path = reward
    prompts = [asked(PIECES, "What is it?", picture()), asked(PIECES, "no")]
    seen: dict[bool, Watch] = {}
    for sharing in (True, False):
        torch.manual_seed(0)  # of the adapters
        gc.collect()
        before = sum(isinstance(one, IXC25Model) for one in gc.get_objects())
        policy, seen[sharing] = shared(path, sharing), Watch()
        trainer(tmp_path, seen[sharing]).fit(policy, Mixed(prompts, 3))
        gc.collect()
        models = sum(isinstance(one, IXC25Model) for one in gc.get_objects()) - before
        assert models == (3 if sharing else 4)  # policy, reference, critic, reward model
        scorer = policy.signal.rewards["rm"].scorer  # type: ignore[attr-defined]
        assert (scorer.model is policy.critic.model) == sharing  # type: ignore[union-attr]
        del policy, scorer
    for one, other in zip(seen[True].rollouts, seen[False].rollouts, strict=True):
        assert one.answers == other.answers
        torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)
        assert one.values is not None and other.values is not None
        torch.testing.assert_close(one.values, other.values, atol=1e-4, rtol=1e-4)
    moved = [name for name in seen[True].before[-1] if ".lora_B" in name and seen[True].before[-1][name].any()]
    assert any(name.startswith("critic.") for name in moved)
    assert not any(name.startswith("signal.rewards") for name in seen[True].before[0])  # no reward in checkpoints


def test_the_reward_stays_while_the_critic_trains(reward: tuple[RewardModule, str], tmp_path: Path) -> None:
    _, path = reward
    policy = shared(path, True)
    watch, episodes = Watch(), []
    scores: list[list[float]] = []

    class Judge(Watch):
        def on_train_batch_end(self, run: Any, module: Any, *rest: Any) -> None:
            told: Rollout = module.last[0]
            episodes.extend(told.episodes if not episodes else [])
            scores.append([one.score for one in module.signal.rewards["rm"]([e for e in episodes if e.text])])

    trainer(tmp_path, watch, Judge()).fit(policy, Mixed([asked(PIECES, "no")], 3))
    assert scores[1] == scores[0] and scores[2] == scores[0] and len(scores[0]) > 1
    values = [before["critic.head.outer.weight"] for before in watch.before]
    assert not torch.equal(values[0], values[-1])


@pytest.mark.parametrize(
    ("critic", "message"),
    [
        ({}, r"share_with_critic = True: the critic trains .* more weights of the backbone.*give the critic lora"),
        ({"path": "other"}, r"share_with_critic = True: the critic starts from .*other.*; give both the same folder"),
    ],
)
def test_a_backbone_that_cannot_be_shared(
    critic: dict[str, Any], message: str, reward: tuple[RewardModule, str], tmp_path: Path
) -> None:
    _, path = reward
    if critic:
        trained(tmp_path / "other")
        critic = {"path": str(tmp_path / "other"), "lora": Lora(rank=4)}
    policy = shared(path, True)
    policy.critic_source = CriticFrom(**{"path": path} | critic)
    with pytest.raises(UserError, match=message):
        trainer(tmp_path).fit(policy, Mixed([asked(PIECES, "no")], 1))


def test_a_critic_that_reads_other_tokens_or_images_is_refused(
    reward: tuple[RewardModule, str], tmp_path: Path
) -> None:
    _, path = reward
    CriticFrom(path).check(PIECES)
    other: Any = processor("an altogether other corpus with blue things", 300)
    with pytest.raises(UserError, match=r"critic path = .*: its tokenizer or template is not the policy's.*RLOO, GRPO"):
        CriticFrom(path).check(other)
    images: Any = processor()
    images.image_processor.max_tiles = 1
    with pytest.raises(UserError, match=r"critic path = .*: its image preprocessing is not the policy's"):
        CriticFrom(path).check(images)
    policy = ppo(backbone=Toy(), processor=other, critic=CriticFrom(path), signal=RewardSignal({"count": Count()}))
    with pytest.raises(UserError, match="its tokenizer or template is not the policy's"):
        trainer(tmp_path).fit(policy, Mixed([asked(other, "no")], 1))


def test_folders_without_a_reward_model_are_refused(reward: tuple[RewardModule, str], tmp_path: Path) -> None:
    _, path = reward
    with pytest.raises(UserError, match=r"nowhere"):
        CriticFrom(str(tmp_path / "nowhere")).load()
    Toy().load(lm_head=False).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no reward_head.safetensors there; give the export folder of a reward model"):
        CriticFrom(str(tmp_path)).load()
    with pytest.raises(UserError, match=r"reward head|hidden size|fit"):
        CriticFrom(path, backbone=Toy(width=64)).load()
    with pytest.raises(UserError, match=r"critic lr = 0: choose a positive learning rate"):
        CriticFrom(path, lr=0)


@pytest.mark.parametrize("lora", [None, Lora(rank=4, dropout=0.5)])
def test_an_export_has_the_same_numbers(lora: Lora | None, reward: tuple[RewardModule, str], tmp_path: Path) -> None:
    """Policy and critic after training, with adapters or without; the critic's in the reward's own units."""
    _, path = reward
    signal = RewardSignal({"count": Far()}, FixedKL(0.0))
    critic = CriticFrom(path, lora=lora, lr=0.02)
    options: dict[str, Any] = {"max_new_tokens": 4, "samples": 2, "lora": lora, "lr": 0.02}
    policy = ppo(backbone=Toy(), processor=PIECES, signal=signal, critic=critic, **options)
    fit_on = Mixed([asked(PIECES, "What is it?", picture()), asked(PIECES, "no")], 2)
    trainer(tmp_path).fit(policy, fit_on)
    assert policy.critic is not None
    policy.eval()
    with torch.no_grad():
        logprobs = answer_logprobs(policy.model, laid_out(), 1.0)[0]
        values = policy.critic(laid_out()) * policy.critic.units[1] + policy.critic.units[0]
        policy.export(tmp_path / "out")
        again = Pretrained(str(tmp_path / "out")).load(lm_head=True).eval()
        torch.testing.assert_close(answer_logprobs(again, laid_out(), 1.0)[0], logprobs, atol=1e-5, rtol=1e-5)
        fresh = CriticFrom(str(tmp_path / "out" / "critic")).load().eval()
        there = laid_out().spread(torch.ones(9)).bool()
        torch.testing.assert_close(fresh(laid_out())[there], values.float()[there], atol=2e-4, rtol=1e-5)
        start = answer_logprobs(Toy().load(lm_head=True), laid_out(), 1.0)[0]
    assert (start - logprobs).abs().max() > 1e-2  # training moved it
