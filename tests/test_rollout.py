"""Rollouts: three ways to the same log-probabilities, what of an answer counts, and images encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bandits import STOP, Letters, NewCritic, Scripted, Table, Watch, drawn, fit, ppo, prompt, rollout_of, trainer
from bandits import Prompts as LetterPrompts
from native.miniatures import miniature, model_config, train_tokenizer
from native.miniatures import picture as pixels
from rewards.exported import Toy, picture, processor
from torch import Tensor

from lit_ixc.advantages import RLOO
from lit_ixc.answered import lay_out, mask_of
from lit_ixc.backbone import BackboneSource, RandomWeights, family_of
from lit_ixc.batch import ChatProcessor, EncodedPrompt
from lit_ixc.controllers import FixedKL
from lit_ixc.generation import Drawn
from lit_ixc.records import Comparison, ImagePart, Message, Prompt, TextPart, text_message
from lit_ixc.reward_signal import RewardSignal
from lit_ixc.rewards.interface import Combined, Episode, Judgement, Reward
from lit_ixc.rollout import Players, collect, portions

CPU = torch.device("cpu")


class Count(Reward):
    """The number of characters."""

    def __call__(self, episodes: Sequence[Episode]) -> list[Judgement]:
        return [Judgement(float(len(one.text))) for one in episodes]


def asked(pieces: Any, text: str, *images: ImagePart) -> EncodedPrompt:
    """A prompt as a data module encodes it."""
    whole = Prompt((Message("user", (*images, TextPart(text))),))
    record = Comparison(text, whole, ((text_message("assistant", "yes"),),), (0,))
    media = pieces.encode_media(whole.media)
    return EncodedPrompt(record, pieces.encode_prompt(whole, media), media, "made")


class Mixed(LetterPrompts):
    """Given prompts in every batch."""

    def __init__(self, prompts: Sequence[EncodedPrompt], batches: int) -> None:
        super().__init__([], batches)
        self.prompts, self.batch_size = prompts, len(prompts)

    def batch(self, texts: Sequence[str]) -> Any:  # type: ignore[override]
        whole = super().batch(())
        whole.prompts = tuple(self.prompts)
        return whole


def family(name: str) -> tuple[BackboneSource, ChatProcessor, list[EncodedPrompt]]:
    """A miniature, its processor, and prompts of unequal lengths, with images and without."""
    if name == "ixc25":
        pieces: Any = processor()
        images = [picture(), picture(56, 28, "blue")]
        return (
            Toy(),
            pieces,
            [asked(pieces, "What is it?", *images), asked(pieces, "no"), asked(pieces, "?", images[1])],
        )
    pieces = miniature("qwen2_5_vl")[1]
    images = [pixels(16, 24, 1), pixels(24, 16, 2)]
    source = RandomWeights(model_config("qwen2_5_vl", train_tokenizer("qwen2_5_vl")))
    return (
        source,
        pieces,
        [asked(pieces, "What is in it?", *images), asked(pieces, "cat"), asked(pieces, "?", images[0])],
    )


class Kept:
    """An engine that keeps what the policy itself drew."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.drawn = engine, []  # type: ignore[var-annotated]

    def generate(self, *args: Any) -> list[list[Drawn]]:
        found = self.engine.generate(*args)
        self.drawn.append([one for group in found for one in group])
        return found


@pytest.mark.parametrize("name", ["ixc25", "qwen2_5_vl"])
@pytest.mark.parametrize(
    "options",
    [
        {"samples": 1},
        {"samples": 3, "temperature": 0.7},
        {"samples": 3, "top_p": 0.6, "top_k": 9},
        {"samples": 2, "temperature": 1.3, "recompute_logprobs": False},
    ],
)
def test_three_ways_to_the_same_logprobs(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Of sampling with a cache, of the rollout's prefix trees and of the first update; and by a plain forward pass."""
    source, pieces, prompts = family(name)
    given = {"max_new_tokens": 6, "microbatch_prompts": 2, "lr": 1e-4, "reference": "none"}
    signal = RewardSignal({"count": Count()}, FixedKL(0.0))
    critic = {"critic": NewCritic(1e-4, source)}
    policy = ppo(backbone=source, processor=pieces, signal=signal, **critic, **given, **options)
    policy.engine = engine = Kept(policy.engine)  # type: ignore[assignment]
    watch = Watch()
    trainer(tmp_path, watch).fit(policy, Mixed(prompts, 1))
    rollout, samples = watch.rollouts[0], options["samples"]
    assert [one.ids for one in engine.drawn[0]] == list(rollout.answers)
    for row, one in enumerate(engine.drawn[0]):
        sampled = torch.tensor(one.logprobs)
        torch.testing.assert_close(rollout.logprobs[row, : len(one.ids)], sampled, atol=1e-5, rtol=0)
        assert not rollout.logprobs[row, len(one.ids) :].any() and rollout.mask[row].sum() == len(one.ids)
    assert watch.logged[0]["train/policy/first_ratio_error"] < 1e-5
    policy.load_state_dict(watch.before[0])
    for row, answer in enumerate(rollout.answers):
        plain = by_itself(policy, prompts[row // samples], answer)
        torch.testing.assert_close(rollout.logprobs[row, : len(answer)], plain, atol=1e-5, rtol=0)
    if samples > 1:
        assert len(set(rollout.answers)) > samples  # not all alike


@torch.no_grad()
def by_itself(policy: Any, one: EncodedPrompt, answer: tuple[int, ...]) -> Tensor:
    """Log-probabilities of an answer's tokens by the model's own forward pass over one sequence with its images."""
    ids = torch.tensor([[*one.sequence.ids, *answer]])
    more = {}
    if one.sequence.axes is not None:
        more["mm_token_type_ids"] = torch.tensor([[*map(int, one.sequence.visual), *[0] * len(answer)]])
    logits = policy.model(input_ids=ids, attention_mask=torch.ones_like(ids), **one.media.tensors, **more).logits[0]
    logprobs = (logits[len(one.sequence.ids) - 1 : -1].float() / policy.decoding.temperature).log_softmax(-1)
    return logprobs.gather(1, torch.tensor(answer)[:, None]).squeeze(1)


@pytest.mark.parametrize("same", [True, False])
def test_an_image_is_encoded_once_for_a_rollout_and_its_updates(same: bool, tmp_path: Path) -> None:
    """Two prompts with media, three epochs, two microbatches: two calls for the policy; a critic whose vision has
    other weights encodes them itself, from the pixels, and its values are those of its own features."""
    source, pieces, prompts = family("ixc25")
    critic = NewCritic(1e-4, Toy(seed=0 if same else 1))
    calls: dict[str, int] = {"policy": 0, "critic": 0}
    options = {"samples": 2, "epochs": 3, "microbatch_prompts": 2, "max_new_tokens": 3, "reference": "copy"}
    policy = ppo(backbone=source, processor=pieces, signal=RewardSignal({"count": Count()}), critic=critic, **options)

    class Counting(Watch):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            for name, model in (("policy", module.model), ("critic", module.critic.model)):
                model.vit.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))

    watch = Counting()
    trainer(tmp_path, watch).fit(policy, Mixed(prompts, 1))
    assert calls["policy"] == 2 and (calls["critic"] == 0) == same
    policy.load_state_dict(watch.before[0])
    rollout = watch.rollouts[0]
    assert policy.critic is not None and policy.critic.own_vision != same
    model = policy.critic.model
    for row, answer in enumerate(rollout.answers):
        one = prompts[row // 2]
        ids = torch.tensor([[*one.sequence.ids, *answer]])
        with torch.no_grad():
            states = model(ids, use_cache=False, **one.media.tensors).last_hidden_state[
                0, len(one.sequence.ids) - 1 : -1
            ]
            values = (policy.critic.head.project(states) - policy.critic.units[0]) / policy.critic.units[1]
        torch.testing.assert_close(rollout.values[row, : len(answer)], values.float(), atol=1e-5, rtol=1e-5)


def test_images_are_encoded_anew_where_vision_trains(tmp_path: Path) -> None:
    source, pieces, prompts = family("ixc25")
    signal = RewardSignal({"count": Count()}, FixedKL(0.0))
    options: dict[str, Any] = {"samples": 2, "epochs": 2, "max_new_tokens": 3, "freeze_vision": False}
    policy = ppo(backbone=source, processor=pieces, signal=signal, advantage=RLOO(), lr=0.01, **options)
    watch = Watch()
    trainer(tmp_path, watch).fit(policy, Mixed(prompts, 2))
    assert all(one.media.features is None for rollout in watch.rollouts for one in rollout.prompts)
    vision = {name for name, _ in policy.named_parameters() if name.startswith("model.vit.")}
    assert any(not torch.equal(watch.before[0][name], watch.before[-1][name]) for name in vision)
    assert all(logged["train/policy/first_ratio_error"] < 1e-5 for logged in watch.logged)
    assert family_of(policy.model).parts(policy.model).vision


TEXTS = ["h", "jklm"]
GROUPS = [["ad", "ade…"], ["", "ad"]]


@pytest.mark.parametrize("pad", [0, STOP, 23])
def test_what_stands_at_padding_has_no_influence(pad: int, tmp_path: Path) -> None:
    """Any id, also one that ends answers: a rollout and a step are the same to the last bit."""
    score = {"ad": 1.0, "ade": 2.0}

    def run(pad: int) -> Any:
        letters = Letters()
        letters.pad_token_id = pad
        signal = RewardSignal({"table": Table(score)})
        options = {"samples": 2, "critic": NewCritic(), "processor": letters, "max_new_tokens": 3}
        return fit(ppo(signal=signal, engine=Scripted(GROUPS), **options), tmp_path, TEXTS)

    one, other = run(1), run(pad)
    for name in ("mask", "logprobs", "reference", "values", "scores"):
        assert torch.equal(getattr(one.rollouts[0], name), getattr(other.rollouts[0], name)), name
    for name, gradient in one.gradients[0].items():
        assert gradient is None or torch.equal(gradient, other.gradients[0][name]), name


def test_places_of_a_rollout(tmp_path: Path) -> None:
    """By hand: answers h "ad" end, "ade" cut, "" end, "ad" end."""
    policy = ppo(signal=RewardSignal({"t": Table({"ad": 1.0, "ade": 2.0})}), engine=Scripted(GROUPS), samples=2,
                 critic=NewCritic(), max_new_tokens=3)  # fmt: skip
    rollout = fit(policy, tmp_path, TEXTS).rollouts[0]
    assert rollout.answers == ((0, 3, STOP), (0, 3, 4), (STOP,), (0, 3, STOP))
    full, one = [True] * 3, [True, False, False]
    assert rollout.mask.tolist() == [full, full, one, full]
    assert rollout.ended.tolist() == [True, False, True, True] and rollout.lengths.tolist() == [3, 3, 1, 3]
    assert rollout.scores.tolist() == [1.0, 2.0, 1.0, 1.0] and rollout.tokens == 10 and rollout.samples == 2
    assert [one.text for one in rollout.episodes] == ["ad", "ade", "", "ad"]
    for name in ("logprobs", "reference", "values"):
        tensor = getattr(rollout, name)
        assert (tensor != 0).tolist() == rollout.mask.tolist(), name
    parts = list(portions(rollout, [1, 0], 1))
    assert [part.rows.tolist() for part in parts] == [[2, 3], [0, 1]]
    assert parts[0].answers == rollout.answers[2:] and parts[0].prompts == rollout.prompts[1:]


def test_the_divergence_of_an_answer_is_that_of_its_tokens() -> None:
    """Sums over (1, 2) of (0.5, -1) and over (1,) of (3, ...): what stands behind the end does not count."""
    logprobs = torch.tensor([[-1.0, -2.0], [-1.0, 100.0]])
    reference = torch.tensor([[-1.5, -1.0], [-4.0, -100.0]])
    told = rollout_of(["a", "d…"], 1, logprobs=logprobs, reference=reference)
    assert told.kl().tolist() == [-0.5, 3.0]
    assert told._replace(reference=None).kl().tolist() == [0.0, 0.0]


def test_collect_hands_every_scorer_the_answers_in_order() -> None:
    """A scorer that tells tokens (100 * row + token + 1): microbatches and padding change no place."""
    answers = [drawn(word) for word in ("ad", "d…", "", "adef")]
    prompts = [prompt("h"), prompt("jklm")]
    rows = iter(range(4))

    def told(answered: Any) -> Tensor:
        start = torch.cat([torch.full((len(own),), 100.0 * next(rows)) for own in split(answered)])
        return answered.spread(start + answered.ids + 1)

    def judge(episodes: Sequence[Episode]) -> Combined:
        totals = [Judgement(float(index), "" if index != 1 else "r") for index in range(len(episodes))]
        return Combined(totals, {"one": [1.0, 2.0, 3.0, 4.0]}, {"one": [""] * 4})

    for microbatch in (1, 2, 5):
        rows = iter(range(4))
        players = Players(lambda _: [answers[:2], answers[2:]], Letters().decode, told, None, None, judge)
        rollout = collect(prompts, players, microbatch, 2, CPU)
        kept = rollout.logprobs * mask_of(rollout.answers, CPU)
        assert kept.tolist()[0] == [1.0, 4.0, 3.0, 0.0, 0.0]
        assert kept.tolist()[2] == [203.0, 0.0, 0.0, 0.0, 0.0] and kept.tolist()[3] == [301, 304, 305, 306, 303]
        assert rollout.scores.tolist() == [0.0, 0.0, 2.0, 3.0] and rollout.kept.tolist() == [True, False, True, True]
        assert rollout.reference is None and rollout.values is None
        assert rollout.parts["one"].tolist() == [1.0, 2.0, 3.0, 4.0]


def split(answered: Any) -> list[Tensor]:
    """The tokens of each answer."""
    rows = answered.places // answered.shape[1]
    return [answered.ids[rows == row] for row in range(answered.shape[0])]


def test_answers_that_begin_alike_share_what_they_have() -> None:
    """Equal answers, one that is the other's beginning: the state before each token is that of its own answer."""
    answers = [(0, 3, 4), (0, 3, 4), (0, 3), (5,)]
    answered = lay_out([prompt("h"), prompt("jk")], answers, 4, 2, CPU)
    ids = answered.batch.input_ids.flatten()
    before = [ids[column].item() for column in answered.before.tolist()]
    assert before == [7, 0, 3, 7, 0, 3, 10, 0, 10]  # "h" is 7, "k" is 10
    assert answered.ids.tolist() == [0, 3, 4, 0, 3, 4, 0, 3, 5]
    assert answered.places.tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 12]
    position = answered.batch.position.flatten()[answered.before].tolist()
    assert position == [1, 2, 3, 1, 2, 3, 2, 3, 2]  # begin-of-text and the letters stand before


def test_positions_on_several_axes_go_on_behind_the_largest() -> None:
    """M-RoPE: behind an image the next position is the largest on any axis plus one, on all axes alike."""
    _, pieces, prompts = family("qwen2_5_vl")
    axes = prompts[0].sequence.axes
    assert axes is not None and axes.max() + 1 < len(prompts[0].sequence.ids)
    answered = lay_out(prompts[:1], [(5, 6, 7)], 3, pieces.pad_token_id, CPU)
    assert answered.batch.axes is not None
    own = answered.batch.axes[:, 0, len(prompts[0].sequence.ids) :].numpy()
    np.testing.assert_array_equal(own, np.tile(axes.max() + 1 + np.arange(3), (3, 1)))
