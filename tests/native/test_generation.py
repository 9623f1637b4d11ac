"""Sampling from models of transformers: the tokens of ``generate``, the log-probabilities of a full pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from native.miniatures import (
    FAMILIES,
    VISION_FAMILIES,
    miniature,
    model_config,
    picture,
    question,
    train_tokenizer,
)
from transformers import PreTrainedModel
from trees import states_in_tree

from lit_ixc.backbone import Pretrained, RandomWeights, hidden_states
from lit_ixc.batch import EncodedComparison, EncodedMedia, EncodedSequence
from lit_ixc.decoding import Decoding
from lit_ixc.generation import Drawn, check_length, draw
from lit_ixc.layout import collate
from lit_ixc.native import NativeProcessor
from lit_ixc.native.model import NativeFamily, argument_names, base_of
from lit_ixc.pairing.policy import ModelPolicy
from lit_ixc.processors import SavedProcessor
from lit_ixc.records import Prompt, RecordError, UserError


class Open(NamedTuple):
    sequence: EncodedSequence
    media: EncodedMedia


NAMES = ["a", "b", "c"]
GREEDY = Decoding(temperature=0, max_new_tokens=8)


def prompts(family: str, processor: NativeProcessor) -> list[Open]:
    """Three prompts of different lengths, two of them with pictures where the family has eyes."""
    made = [question("What?"), question("Describe the image in one sentence."), question("Is it 41 or 42? The answer.")]
    if family in VISION_FAMILIES:
        made[1] = question(picture(24, 16, 1), "What is in the picture?")
        made[2] = question("Which is brighter,", picture(16, 16, 2), "or", picture(16, 24, 3))
    return [opened(processor, one) for one in made]


def opened(processor: NativeProcessor, prompt: Prompt) -> Open:
    media = processor.encode_media(prompt.media)
    return Open(processor.encode_prompt(prompt, media), media)


def generated(model: PreTrainedModel, processor: NativeProcessor, prompt: Open, most: int) -> list[int]:
    """What ``generate`` of transformers answers to a prompt alone."""
    ids = torch.tensor([prompt.sequence.ids])
    names = argument_names(type(model).forward)
    inputs: dict[str, Any] = {name: value for name, value in prompt.media.tensors.items() if name in names}
    if inputs and "mm_token_type_ids" in names:
        inputs["mm_token_type_ids"] = torch.tensor([prompt.sequence.visual]).int()
    output = model.generate(  # type: ignore[operator]
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=most,
        eos_token_id=list(processor.stop_ids),
        pad_token_id=processor.pad_token_id,
        suppress_tokens=processor.unwritable(model.get_output_embeddings().weight.shape[0])
        .nonzero()
        .flatten()
        .tolist(),
        **inputs,
    )
    return output[0, ids.shape[1] :].tolist()


def answered(prompt: Open, answers: list[Drawn], name: str) -> EncodedComparison:
    """A prompt and its answers as sequences of a comparison; positions go on behind the largest one of the prompt."""
    start = len(prompt.sequence.ids)
    sequences = []
    for answer in answers:
        count, axes = len(answer.ids), prompt.sequence.axes
        if axes is not None:
            axes = np.concatenate([axes, axes.max() + 1 + np.tile(np.arange(count), (len(axes), 1))], axis=1)
        ids, visual = [*prompt.sequence.ids, *answer.ids], [*prompt.sequence.visual, *[False] * count]
        loss = [False] * start + [True] * count
        sequences.append(EncodedSequence(ids, visual, loss, start, len(ids), axes))
    ranks, lengths = tuple(range(len(answers))), (0,) * len(answers)
    return EncodedComparison(name, "general", "made", "text", sequences, prompt.media, ranks, None, lengths)


def recomputed(model: PreTrainedModel, asked: list[Open], drawn: list[list[Drawn]], temperature: float) -> list[Any]:
    """Log-probabilities of the answers' tokens by one pass over whole sequences."""
    items = [
        answered(prompt, group, str(number)) for number, (prompt, group) in enumerate(zip(asked, drawn, strict=True))
    ]
    batch = collate(items, 0)
    states = states_in_tree(hidden_states(model, batch), batch)
    found = []
    for prompt, group, own in zip(asked, drawn, states, strict=True):
        for answer, state in zip(group, own, strict=True):
            before = state[len(prompt.sequence.ids) - 1 : -1]
            logits = model.get_output_embeddings()(before).float() / temperature
            found.append(logits.log_softmax(-1).gather(1, torch.tensor(answer.ids)[:, None]).flatten())
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_generate(family: str) -> None:
    model, processor = miniature(family, lm_head=True)
    asked = prompts(family, processor)
    assert len({len(prompt.sequence.ids) for prompt in asked}) == 3  # two of them are padded
    expected = [tuple(generated(model, processor, prompt, 8)) for prompt in asked]
    once = draw(model, processor, asked, NAMES, 1, GREEDY, 0)
    assert [[answer.ids for answer in group] for group in once] == [[ids] for ids in expected]
    thrice = draw(model, processor, asked, NAMES, 3, GREEDY, 0)
    assert [[answer.ids for answer in group] for group in thrice] == [[ids] * 3 for ids in expected]
    assert len(set(expected)) > 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_a_full_pass(family: str, temperature: float) -> None:
    model, processor = miniature(family, lm_head=True)
    asked = prompts(family, processor)
    drawn = draw(model, processor, asked, NAMES, 3, Decoding(temperature, top_p=0.9, max_new_tokens=12), 0)
    with torch.no_grad():
        expected = recomputed(model, asked, drawn, temperature)
    found = [torch.tensor(answer.logprobs) for group in drawn for answer in group]
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-6)
    assert len({answer.ids for group in drawn for answer in group}) == 9


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_each_prompt_s_images_are_encoded_once_or_not_at_all(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = miniature(family, lm_head=True)
    asked = prompts(family, processor)
    decoding = Decoding(max_new_tokens=4)
    calls = []
    encode = NativeFamily.features

    def counted(self: NativeFamily, model: Any, tensors: Any) -> torch.Tensor:
        calls.append(1)
        return encode(self, model, tensors)

    monkeypatch.setattr(NativeFamily, "features", counted)
    drawn = draw(model, processor, asked, NAMES, 4, decoding, 0)
    assert len(calls) == 2
    with torch.no_grad():
        known = [
            prompt._replace(
                media=EncodedMedia(prompt.media.lengths, {}, "", encode(NativeFamily(), model, prompt.media.tensors))
            )
            if prompt.media.lengths
            else prompt
            for prompt in asked
        ]
    assert draw(model, processor, known, NAMES, 4, decoding, 0) == drawn
    assert len(calls) == 2


def test_what_is_no_text_is_never_drawn() -> None:
    model, processor = miniature("qwen2_5_vl", lm_head=True)
    head = model.get_output_embeddings()
    token = processor.tokenizer.convert_tokens_to_ids
    visual = token(["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"])
    refused = processor.unwritable(len(processor.tokenizer) + 3)
    assert refused.nonzero().flatten().tolist() == sorted([*visual, *range(len(processor.tokenizer), len(refused))])

    def eager(module: Any, inputs: Any, logits: torch.Tensor) -> None:
        logits[:, visual] += 1000.0

    handle = head.register_forward_hook(eager)
    drawn = draw(model, processor, prompts("qwen2_5_vl", processor), NAMES, 2, Decoding(max_new_tokens=20), 0)
    handle.remove()
    ids = {token for group in drawn for answer in group for token in answer.ids}
    assert len(ids) > 20 and not ids & set(visual)
    assert all(max(answer.logprobs) < -900 for group in drawn for answer in group)  # of all tokens all the same


def test_the_ends_of_an_answer(tmp_path: Path) -> None:
    """Llama's template ends turns with <|eot_id|> (4); config.json names 2; generation_config.json names 1 and 300."""
    processor = miniature("llama")[1]
    assert processor.stop_ids == (4, 2)
    processor.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 300]}))
    assert NativeProcessor(str(tmp_path)).stop_ids == (4, 1, 2)  # 300 is no special token
    assert SavedProcessor(str(tmp_path)).stop_ids == (4, 1, 2)


@pytest.mark.parametrize("stop", [4, 2])
def test_each_end_ends_an_answer(stop: int) -> None:
    model, processor = miniature("llama", lm_head=True)
    calls: list[int] = []

    def lead(module: Any, inputs: Any, logits: torch.Tensor) -> None:
        if len(calls) == 2:
            logits[:, stop] = 1000.0
        calls.append(len(logits))

    handle = model.get_output_embeddings().register_forward_hook(lead)
    drawn = draw(model, processor, prompts("llama", processor), NAMES, 1, Decoding(max_new_tokens=9), 0)
    handle.remove()
    assert calls == [3, 3, 3]
    assert [(len(answer.ids), answer.ids[-1], answer.finish) for (answer,) in drawn] == [(3, stop, "stop")] * 3


def test_prompt_and_answer_must_fit_into_the_window() -> None:
    config = {**model_config("llama", train_tokenizer("llama")), "max_position_embeddings": 40}
    model, processor = RandomWeights(config).load(lm_head=True), miniature("llama")[1]
    prompt = prompts("llama", processor)[0]
    length = len(prompt.sequence.ids)
    fits = Decoding(max_new_tokens=40 - length)
    check_length(model, prompt.sequence, fits)
    longer = fits._replace(max_new_tokens=41 - length)
    with pytest.raises(
        RecordError, match=f"max_new_tokens = {41 - length} it passes the model's 40 positions"
    ) as caught:
        draw(model, processor, [prompt], ["a"], 1, longer, 0)
    assert caught.value.reason == "prompt_too_long"


def test_pictures_take_fewer_positions_than_tokens() -> None:
    """On three axes a picture of h x w visual tokens takes max(h, w) positions."""
    model, processor = miniature("qwen2_5_vl", lm_head=True)
    sequence = opened(processor, question(picture(24, 24), "What?")).sequence  # 3 x 3 tokens
    assert sequence.axes is not None and sequence.axes.max() + 1 == len(sequence.ids) - 9 + 3
    base_of(model).get_decoder().config.max_position_embeddings = len(sequence.ids) - 6 + 5
    check_length(model, sequence, Decoding(max_new_tokens=5))
    with pytest.raises(RecordError, match="prompt_too_long|passes"):
        check_length(model, sequence, Decoding(max_new_tokens=6))


def test_layers_with_a_window_see_what_they_do_in_generate() -> None:
    """Keys that a window has left behind are not kept; the cache of such layers is that of transformers."""
    changes = {"sliding_window": 12, "use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]}
    model = RandomWeights({**model_config("qwen2", train_tokenizer("qwen2")), **changes}).load(lm_head=True)
    processor = miniature("qwen2")[1]
    asked = prompts("qwen2", processor)
    expected = [tuple(generated(model, processor, prompt, 8)) for prompt in asked]
    plain, _ = miniature("qwen2", lm_head=True)
    assert expected != [tuple(generated(plain, processor, prompt, 8)) for prompt in asked]  # the window is felt
    assert [group[0].ids for group in draw(model, processor, asked, NAMES, 1, GREEDY, 0)] == expected


def test_eager_attention_gives_the_same() -> None:
    model, processor = miniature("qwen3_vl", lm_head=True)
    asked = prompts("qwen3_vl", processor)
    expected = draw(model, processor, asked, NAMES, 2, Decoding(max_new_tokens=8), 0)
    model.set_attn_implementation("eager")
    found = draw(model, processor, asked, NAMES, 2, Decoding(max_new_tokens=8), 0)
    assert [[one.ids for one in group] for group in found] == [[one.ids for one in group] for group in expected]


def test_a_model_that_is_no_plain_decoder_is_refused() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "vocab_size": 40}
    source = RandomWeights({"model_type": "mamba", **sizes}, attn_implementation="eager")
    model, processor = source.load(lm_head=True), miniature("llama")[1]
    with pytest.raises(UserError, match="a MambaForCausalLM cannot be sampled from here"):
        draw(model, processor, prompts("llama", processor)[:1], ["a"], 1, GREEDY, 0)


@pytest.mark.parametrize("family", ["qwen3_vl", "llama"])
def test_a_native_policy_answers_prompts(family: str, tmp_path: Path) -> None:
    model, processor = miniature(family, lm_head=True)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    policy = ModelPolicy(Pretrained(str(tmp_path)), SavedProcessor(str(tmp_path)), max_new_tokens=6)
    asked = [("p", question("What?")), ("q", question("Describe", picture(16, 16)))]
    found = policy.sample(asked, 2, 0)
    assert [len(one.samples) for one in found] == ([2, 2] if family == "qwen3_vl" else [2, 0])
    drawn = draw(model, processor, [opened(processor, asked[0][1])], ["p"], 2, policy.decoding, 0)
    assert [one["text"] for one in found[0].samples] == [processor.decode(answer.ids) for answer in drawn[0]]
    if family == "llama":
        assert found[1].refusal is not None and found[1].refusal.reason == "media_for_text_model"
