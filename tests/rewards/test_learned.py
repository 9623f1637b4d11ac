"""The learned reward of answers and of their parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from native.miniatures import miniature
from rewards.exported import Toy, episodes, own_scores, picture, processor, row, trained

from lit_ixc.adapters import Lora, add_lora
from lit_ixc.backbone import Pretrained, family_of, freeze
from lit_ixc.ixc25.processing import IXC25Processor
from lit_ixc.records import Comparison, UserError, text_message
from lit_ixc.reward import RewardModule
from lit_ixc.rewards import Episode, Step
from lit_ixc.rewards.learned import LearnedReward, ProcessReward, step_ends
from lit_ixc.rewards.rules import VerifierReward
from lit_ixc.rewards.vision import same_vision

CPU = torch.device("cpu")
PIECES = processor()
IMAGES = PIECES.encode_media([picture()])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[RewardModule, str]:
    folder = tmp_path_factory.mktemp("reward")
    return trained(folder), str(folder)


def ready(reward: LearnedReward, policy: IXC25Processor = PIECES) -> LearnedReward:
    reward.prepare(CPU, policy)  # type: ignore[arg-type]
    return reward


def scores(reward: LearnedReward, answers: Sequence[Episode]) -> list[float]:
    return [one.score for one in reward(answers)]


ANSWERS = ["red", "it is blue", "yes", "red"]


def test_it_is_the_score_of_the_reward_model(model: tuple[RewardModule, str]) -> None:
    """n answers of a prompt in one tree, with images and without, equal ones too."""
    module, path = model
    text, image = row("What is it?"), row("What is it?", picture())
    answers = [*episodes(text, *ANSWERS), *episodes(image, *ANSWERS[::-1], media=IMAGES)]
    expected = own_scores(module, text, ANSWERS, PIECES) + own_scores(module, image, ANSWERS[::-1], PIECES)
    assert scores(ready(LearnedReward(path)), answers) == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[7]) > 1e-3 and abs(expected[0] - expected[1]) > 1e-3


def test_policy_and_reward_model_may_have_different_tokenizers(model: tuple[RewardModule, str]) -> None:
    """Tokens are the policy's, the text alone reaches the reward model; a cut answer is closed like a whole one."""
    module, path = model
    other = processor("an altogether other corpus with blue things", 300)
    ids = [tuple(other.tokenizer(text)["input_ids"]) for text in ANSWERS]
    assert [list(own) for own in ids] != [PIECES.tokenizer(text)["input_ids"] for text in ANSWERS]
    record = row("What is it?")
    answers = [Episode(record, other.decode(own), own, False, PIECES.encode_media(())) for own in ids]
    found = scores(ready(LearnedReward(path), other), answers)
    assert found == pytest.approx(own_scores(module, record, ANSWERS, PIECES), abs=1e-5)


def test_what_cannot_be_judged_has_its_reason(model: tuple[RewardModule, str]) -> None:
    module, path = model
    record = row("What is it?")
    alone = len(PIECES.encode_conversation(record.prompt, record.responses[0], PIECES.encode_media(()), "reward").ids)
    other = processor()
    other.image_processor.max_tiles = 1  # pictures are decoded for the reward model
    reward = ready(LearnedReward(path, max_length=alone + 10), other)
    image = row("What is it?", type(picture())("broken.png", picture().data[:50]))
    answers = [
        *episodes(record, "", "yes", "no " * 50, "<ImageHere>"),
        *episodes(image, "yes", "no"),
        *episodes(record, ""),
    ]
    found = reward(answers)
    reasons = ["empty_answer", "", "too_long", "surplus_placeholder", *[found[4].reason] * 2, "empty_answer"]
    assert [one.reason for one in found] == reasons and found[4].reason
    assert [math.isnan(one.score) for one in found] == [bool(reason) for reason in reasons]
    assert found[1].score == pytest.approx(own_scores(module, record, ["yes"], PIECES)[0], abs=1e-5)
    reward.scorer.head.v_head.weight.data.fill_(math.inf)  # type: ignore[union-attr, operator]
    (overflow,) = reward(episodes(record, "yes"))
    assert math.isnan(overflow.score) and overflow.reason == "not_finite"
    assert reward([]) == []


def test_media_of_the_policy_are_used_where_they_are_the_same(
    model: tuple[RewardModule, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, path = model
    record = row("What is it?", picture())
    expected = own_scores(module, record, ["red"], PIECES)
    reward = ready(LearnedReward(path))
    decoded: list[int] = []
    assert reward.scorer is not None
    own = reward.scorer.processor.encode_media
    monkeypatch.setattr(reward.scorer.processor, "encode_media", lambda media: (decoded.append(1), own(media))[1])
    (answer,) = episodes(record, "red", media=IMAGES)

    assert scores(reward, [answer]) == pytest.approx(expected, abs=1e-5) and not decoded
    features = family_of(module.model).features(module.model, IMAGES.tensors).detach()
    wrong = IMAGES._replace(features=features + 1)  # features of which nothing is known are not used
    assert scores(reward, [answer._replace(media=wrong)]) == pytest.approx(expected, abs=1e-5) and not decoded
    cached = wrong._replace(tensors={"image_grid": IMAGES.tensors["image_grid"]})  # as a cache of features gives them
    assert scores(reward, [answer._replace(media=cached)]) == pytest.approx(expected, abs=1e-5) and len(decoded) == 1

    reward.adopt_vision(Toy().load(lm_head=True).requires_grad_(False))  # the same vision encoder
    right = cached._replace(features=features)
    assert scores(reward, [answer._replace(media=right)]) == pytest.approx(expected, abs=1e-5)
    assert abs(scores(reward, [answer._replace(media=cached)])[0] - expected[0]) > 1e-3 and len(decoded) == 1
    reward.adopt_vision(Toy(seed=1).load(lm_head=True).requires_grad_(False))
    assert scores(reward, [answer._replace(media=wrong)]) == pytest.approx(expected, abs=1e-5)


def test_other_preprocessing_decodes_the_images_anew(model: tuple[RewardModule, str]) -> None:
    module, path = model
    other = processor()
    other.image_processor.max_tiles = 1
    record = row("What is it?", picture(56, 28))
    media = other.encode_media(record.prompt.media)
    assert media.lengths != PIECES.encode_media(record.prompt.media).lengths
    reward = ready(LearnedReward(path), other)
    reward.adopt_vision(Toy().load(lm_head=True).requires_grad_(False))
    found = scores(reward, episodes(record, "red", media=media))
    assert found == pytest.approx(own_scores(module, record, ["red"], PIECES), abs=1e-5)


def test_vision_encoders_are_the_same_if_weights_and_settings_are() -> None:
    def frozen(**options: int) -> torch.nn.Module:
        found = Toy(**options).load(lm_head=False)
        freeze(found, vision=True, projector=True, language=False)
        return found

    one, other = frozen(), frozen()
    with torch.no_grad():
        next(family_of(other).parts(other).decoder.parameters()).add_(1)  # the language model may differ
    assert same_vision(one, other) and same_vision(Toy().load(lm_head=True).requires_grad_(False), other)
    assert not same_vision(one, frozen(seed=1)) and not same_vision(one, frozen(width=64))
    with torch.no_grad():
        family_of(other).parts(other).projector[-1].view(-1)[0] += 1e-3
    assert not same_vision(one, other)
    other = frozen()
    family_of(other).parts(other).vision[0].requires_grad_(True)  # it will be another one soon
    assert not same_vision(one, other) and not same_vision(other, one)
    assert not same_vision(one, frozen().double())
    other = frozen()
    other.config.vision_config.image_size = 56  # type: ignore[union-attr]
    assert not same_vision(one, other)


def critic() -> torch.nn.Module:
    found = Toy().load(lm_head=False)
    freeze(found, vision=True, projector=True, language=False)
    add_lora(found, Lora(rank=2, alpha=4, dropout=0.0))
    with torch.no_grad():
        for name, weight in found.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.5)
    return found


@pytest.mark.parametrize("adopt_first", [False, True])
def test_the_critics_backbone_scores_without_its_adapters(model: tuple[RewardModule, str], adopt_first: bool) -> None:
    module, path = model
    reward, shared = LearnedReward(path, share_with_critic=True), critic().train()
    record = row("What is it?")
    with pytest.raises(UserError, match=r"share_with_critic = True: the run has no critic"):
        reward(episodes(record, "red"))
    if adopt_first:
        reward.adopt(shared, path)
    ready(reward)
    if not adopt_first:
        reward.adopt(shared, path)
    found = scores(reward, episodes(record, *ANSWERS))
    assert found == pytest.approx(own_scores(module, record, ANSWERS, PIECES), abs=1e-5)
    assert shared.training and reward.scorer is not None and reward.scorer.model is shared
    (with_adapters,) = reward.scorer.scores([replace(record, responses=((text_message("assistant", "red"),),))])
    assert isinstance(with_adapters, list) and abs(with_adapters[0] - found[0]) > 1e-3  # they matter, and are back


def test_a_backbone_that_cannot_be_shared_is_refused(model: tuple[RewardModule, str], tmp_path: Path) -> None:
    _, path = model
    reward = ready(LearnedReward(path, share_with_critic=True))
    with pytest.raises(UserError, match=r"the critic starts from .*, the reward from .*the same folder"):
        reward.adopt(critic(), str(tmp_path))
    with pytest.raises(UserError, match=r"the critic trains model\..* and \d+ more weights .*give the critic lora"):
        reward.adopt(Toy().load(lm_head=False), path)
    with pytest.raises(UserError, match=r"hidden size 64"):
        reward.adopt(Toy(width=64).load(lm_head=False).requires_grad_(False), path)
    with pytest.raises(UserError, match=r"share_with_critic = True: the critic's backbone is taken"):
        LearnedReward(path, backbone=Toy(), share_with_critic=True)
    with pytest.raises(UserError, match=r"no such folder"):
        ready(LearnedReward(str(tmp_path / "nothing"), processor=PIECES))  # type: ignore[arg-type]


def decode(ids: Sequence[int]) -> str:
    """Bytes as tokens; 256 ends an answer. A part of a character is another character, as for byte-level tokenizers."""
    return bytes(one for one in ids if one < 256).decode(errors="replace").strip()


def test_a_step_ends_with_the_token_that_completes_it() -> None:
    text = "One é.\n\n Two: 3.5! ok\nend"
    ids = [*text.encode(), 256]
    # é is two bytes: "One é." are the tokens 0..6; behind two line ends and a space "Two: 3.5! ok" are 10..21
    assert step_ends(text, ids, decode, "lines") == [(6, "One é."), (21, "One é.\n\n Two: 3.5! ok"), (26, text)]
    sentences = [(6, "One é."), (18, "One é.\n\n Two: 3.5!"), (21, "One é.\n\n Two: 3.5! ok"), (26, text)]
    assert step_ends(text, ids, decode, "sentences") == sentences
    assert step_ends("one", [*b"one", 256], decode, "lines") == [(3, "one")]
    assert step_ends("one", [*b"one"], decode, "lines") == [(2, "one")]  # cut off
    assert step_ends("", [256], decode, "lines") == [(0, "")]


def test_white_space_that_was_taken_off_moves_no_step() -> None:
    ids = [*b"\n a.\n  b \n", 256]
    assert step_ends("a.\n  b", ids, decode, "lines") == [(3, "a."), (10, "a.\n  b")]


def test_steps_within_one_token_are_one() -> None:
    pieces = ["one", ".\ntwo.\nthr", "ee"]

    def whole(ids: Sequence[int]) -> str:
        return "".join(pieces[index] for index in ids).strip()

    assert step_ends("one.\ntwo.\nthree", [0, 1, 2], whole, "lines") == [(1, "one.\ntwo."), (2, "one.\ntwo.\nthree")]


@given(st.text("aé。.!\n 中😀", max_size=30))
def test_steps_are_in_order_and_their_tokens_hold_their_text(text: str) -> None:
    ids, text = [*text.encode(), 256], text.strip()
    for segments in ("lines", "sentences"):
        found = step_ends(text, ids, decode, segments)  # type: ignore[arg-type]
        ends = [end for end, _ in found]
        assert ends == sorted(set(ends)) and found[-1] == (len(ids) - 1, text)
        for end, part in found[:-1]:
            assert decode(ids[: end + 1]) == part and decode(ids[:end]) != part


def answer_of(record: Comparison, text: str) -> Episode:
    ids = (*PIECES.tokenizer(text, add_special_tokens=False)["input_ids"], PIECES.stop_ids[0])
    return Episode(record, text, ids, True, PIECES.encode_media(()))


def test_each_prefix_has_the_reward_models_score(model: tuple[RewardModule, str]) -> None:
    module, path = model
    record = row("What is it?", metadata={"truth": {"verifier": "keywords", "arguments": {"include": ["blue"]}}})
    parts = ["it is red.", "it is red.\nno.", "it is red.\nno.\nblue é"]
    answers = [answer_of(record, parts[2]), answer_of(record, "yes")]
    ends = [end for end, _ in step_ends(parts[2], answers[0].ids, PIECES.decode, "lines")]
    assert ends[2] == len(answers[0].ids) - 1 and PIECES.decode(answers[0].ids[: ends[0] + 1]) == parts[0]
    one, two, three = own_scores(module, record, parts, PIECES)
    (yes,) = own_scores(module, record, ["yes"], PIECES)

    first, second = ready(ProcessReward(path))(answers)
    assert first.score == pytest.approx(three, abs=1e-5) and first.reason == ""
    assert [step.end for step in first.steps] == ends
    # the score of the whole answer stands at its end, its last step has none of its own
    assert [step.value for step in first.steps] == pytest.approx([one, two, 0.0], abs=1e-5)
    assert second.score == pytest.approx(yes, abs=1e-5) and [step.value for step in second.steps] == [0.0]

    with_success = ready(ProcessReward(path, success=VerifierReward(weight=3.0)))
    first, second = with_success(answers)
    assert (first.score, second.score) == (3.0, 0.0)
    assert [step.end for step in first.steps] == ends
    assert [step.value for step in first.steps] == pytest.approx([one, two, three], abs=1e-5)
    assert second.steps == (Step(len(answers[1].ids) - 1, pytest.approx(yes, abs=1e-5)),)

    no_truth, empty = with_success([answer_of(row("What is it?"), "yes"), answer_of(record, "")])
    assert (no_truth.reason, empty.reason) == ("no_truth", "empty_answer")
    assert math.isnan(no_truth.score) and math.isnan(empty.score) and empty.steps == ()


def test_segments_are_lines_or_sentences(model: tuple[RewardModule, str]) -> None:
    with pytest.raises(UserError, match=r"segments = 'words'"):
        ProcessReward(model[1], segments="words")  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
def test_the_reward_model_may_be_of_another_family(family: str, tmp_path: Path) -> None:
    base, pieces = miniature(family, lm_head=True)
    base.save_pretrained(tmp_path / "base")
    module = RewardModule(Pretrained(str(tmp_path / "base")))
    module.configure_model()
    module.export(tmp_path)
    pieces.save_pretrained(tmp_path)
    reward = ready(LearnedReward(str(tmp_path)))
    reward.adopt_vision(Toy().load(lm_head=True).requires_grad_(False))
    record = row("What is it?", picture(40, 60))
    media = PIECES.encode_media(record.prompt.media)
    expected = own_scores(module.eval(), record, ANSWERS, pieces)
    assert scores(reward, episodes(record, *ANSWERS, media=media)) == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3
