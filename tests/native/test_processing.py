"""Conversations as tokens: the model's own template and expansion, spans of answers, positions, and what is refused."""

import json
import pickle

import numpy as np
import pytest
import torch
from native.miniatures import (
    FAMILIES,
    VISION_FAMILIES,
    chat_template,
    miniature,
    picture,
    question,
    train_tokenizer,
)
from PIL import Image

from datamodules.encoding import encode as encode_comparison
from lit_ixc.batch import EncodedMedia, EncodedSequence
from lit_ixc.ixc25.image import load_image
from lit_ixc.layout import shared_prefix_length
from lit_ixc.native import NativeProcessor
from lit_ixc.records import (
    Comparison,
    ImagePart,
    Message,
    Prompt,
    RecordError,
    TextPart,
    UserError,
    VideoPart,
    text_message,
)


def answer(text: str) -> tuple[Message, ...]:
    return (text_message("assistant", text),)


def encode(processor: NativeProcessor, prompt: Prompt, text: str) -> EncodedSequence:
    return processor.encode_conversation(prompt, answer(text), processor.encode_media(prompt.media), "reward")


def trained(processor: NativeProcessor, sequence: EncodedSequence) -> str:
    return processor.tokenizer.decode([i for i, counts in zip(sequence.ids, sequence.loss, strict=True) if counts])


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_ids_and_pixels_equal_the_processors_own_call(family: str) -> None:
    """Two images between texts: tokens and inputs of transformers' processor for the same written conversation."""
    _, processor = miniature(family)
    parts = (picture(40, 20), picture(13, 30, 1))
    prompt = question("Which of ", parts[0], " and ", parts[1], " is brighter?")
    media = processor.encode_media(prompt.media)
    sequence = processor.encode_conversation(prompt, answer("The cat."), media, "sft")
    text = (
        "<|im_start|>user\nWhich of IMAGE and IMAGE is brighter?<|im_end|>\n<|im_start|>assistant\nThe cat.<|im_end|>"
    )
    placeholder = chat_template(family).split("%}{% else %}{{ c.text")[0].split("'image' %}")[1].split("{%")[0]
    images = [[load_image(part.data) for part in parts]]
    own = processor.processor(text=[text.replace("IMAGE", placeholder)], images=images, return_tensors="pt")
    assert sequence.ids == own["input_ids"][0].tolist()
    assert sequence.visual == (own["input_ids"][0] == processor.image_token_id).tolist()
    assert sum(media.lengths) == sum(sequence.visual)
    pixels = own["pixel_values"]
    if family == "llava_onevision":  # images x tiles; of several images each has one
        pixels = pixels[:, 0]
    torch.testing.assert_close(media.tensors["pixel_values"].flatten(), pixels.flatten(), rtol=0, atol=0)


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_lengths_count_the_tokens_of_each_image(family: str) -> None:
    _, processor = miniature(family)
    one, other = picture(40, 20), picture(13, 30, 1)
    media = processor.encode_media((one, other))
    sequence = processor.encode_conversation(question("a", one, "b", other), answer("c"), media, "sft")
    runs = np.flatnonzero(np.diff(np.array([False, *sequence.visual, False])))
    if family == "idefics3":  # tokens of rows stand between tiles: twice 2 tiles and the whole, of 4 tokens each
        assert media.lengths == (12, 12) and len(runs) == 2 * (3 + 3)
    else:
        assert media.lengths == tuple(int(end - start) for start, end in runs.reshape(-1, 2))


@pytest.mark.parametrize("family", FAMILIES)
def test_spans_of_an_answer(family: str) -> None:
    _, processor = miniature(family)
    sequence = encode(processor, question("What is it?"), "A small cat.")
    decode = processor.tokenizer.decode
    end = "<|eot_id|>" if family == "llama" else "<|im_end|>"
    assert decode(sequence.ids[sequence.response_start : sequence.response_end]) == "A small cat."
    assert decode(sequence.ids[sequence.response_end :]) == end  # the last token is the end of turn
    assert trained(processor, sequence) == f"A small cat.{end}"
    assert not any(sequence.loss[: sequence.response_start])
    same = processor.encode_conversation(question("What is it?"), answer("A small cat."), EncodedMedia((), {}), "sft")
    assert same.ids == sequence.ids and same.loss == sequence.loss


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_share_all_that_stands_before_them(family: str) -> None:
    _, processor = miniature(family)
    prompt = question("Which is brighter?") if family not in VISION_FAMILIES else question(picture(20, 20), "Which?")
    sequences = [encode(processor, prompt, text) for text in ("41!", "A cat.", "\nThe dog", "  spaces")]
    head = sequences[0].response_start
    assert shared_prefix_length(sequences[:2]) == head == sequences[1].response_start
    # a line break that begins an answer may join that of the header: then the header's last token is not shared
    assert shared_prefix_length(sequences) in (head - 1, head)
    assert {sequence.response_start for sequence in sequences} <= {head - 1, head}
    if sequences[0].axes is not None:
        assert (sequences[0].axes[:, :head] == sequences[1].axes[:, :head]).all()


def test_every_assistant_turn_is_trained() -> None:
    _, processor = miniature("qwen2_5_vl")
    first = question("What is it?", picture(20, 20)).messages
    prompt = Prompt((text_message("system", "user"), *first, *answer("A cat."), text_message("user", "And 6 times 7?")))
    response = (*answer("It is 41!"), text_message("user", "Wrong"), *answer("It is 42."))
    sequence = processor.encode_conversation(prompt, response, processor.encode_media(prompt.media), "sft")
    assert trained(processor, sequence) == "A cat.<|im_end|>It is 41!<|im_end|>It is 42.<|im_end|>"
    inside = processor.tokenizer.decode(sequence.ids[sequence.response_start : sequence.response_end])
    assert inside.startswith("It is 41!<|im_end|>") and inside.endswith("assistant\nIt is 42.")


def test_leading_media_stand_at_the_start_of_the_first_user_turn() -> None:
    _, processor = miniature("llava_onevision")
    messages = (text_message("system", "a dog"), text_message("user", "Which?"))
    sequence = encode(processor, Prompt(messages, (picture(16, 16),)), "b")
    text = processor.tokenizer.decode(sequence.ids)
    assert text.startswith("<|im_start|>system\na dog<|im_end|>\n<|im_start|>user\n<image><image>")
    assert "<image>Which?<|im_end|>" in text


def test_a_template_that_strips_contents() -> None:
    _, processor = miniature("llama")
    sequence = encode(processor, question("  What?  "), "  \n 42. \n ")
    assert processor.tokenizer.decode(sequence.ids[sequence.response_start : sequence.response_end]) == "42."
    assert processor.tokenizer.decode(sequence.ids).count("<|begin_of_text|>") == 1


def test_white_space_of_an_answer_is_its_own_where_the_template_keeps_it() -> None:
    _, processor = miniature("qwen2")
    sequence = encode(processor, question("What?"), "  42\n ")
    assert trained(processor, sequence) == "  42\n <|im_end|>"


def test_thoughts_of_the_last_answer_are_trained_and_older_ones_are_gone() -> None:
    """Qwen3's template writes thoughts of its own accord: the answer begins behind the header it generates from."""
    _, processor = miniature("qwen3")
    thinking = "<think>\n6 times 7\n</think>\n\n42."
    sequence = encode(processor, question("What?"), thinking)
    assert trained(processor, sequence) == f"{thinking}<|im_end|>"
    prompt = Prompt((*question("What?").messages, *answer(thinking), text_message("user", "Which?")))
    sequence = encode(processor, prompt, "A cat.")
    assert trained(processor, sequence) == "42.<|im_end|>A cat.<|im_end|>"
    assert "6 times 7" not in processor.tokenizer.decode(sequence.ids)
    # without thoughts the template writes an empty block, which is no part of the answer
    assert "assistant\n<think>\n\n</think>\n\nA cat." in processor.tokenizer.decode(sequence.ids)


def _with_template(template: str) -> NativeProcessor:
    _, processor = miniature("qwen2")
    return NativeProcessor(str(processor.path), chat_template=template)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m.content }}{{ m.content }}<|im_end|>{% endfor %}", "rewritten_by_template"),
        ("{% for m in messages %}{{ m.content[:2] }}<|im_end|>{% endfor %}", "rewritten_by_template"),
        ("{{ messages[0].content }}<|im_end|>", "rewritten_by_template"),
        ("{{ messages[-1].content | length }}<|im_end|>", "rewritten_by_template"),
        ("{{ raise_exception('roles must alternate') }}", "refused_by_template"),
    ],
)
def test_a_template_that_changes_answers_is_refused(template: str, reason: str) -> None:
    processor = _with_template(template)
    with pytest.raises(RecordError) as error:
        encode(processor, question("a"), "long answer")
    assert error.value.reason == reason


def test_a_template_without_end_of_turn() -> None:
    with pytest.raises(UserError, match="ends an answer without a special token"):
        encode(_with_template("{% for m in messages %}{{ m.content }}\n{% endfor %}"), question("a"), "b")


def test_a_template_that_leaves_images_out() -> None:
    _, own = miniature("llava_onevision")
    processor = NativeProcessor(
        str(own.path), chat_template="{% for m in messages %}{{ m.content[-1].text }}<|im_end|>{% endfor %}"
    )
    with pytest.raises(UserError, match="0 placeholders for 1 images"):
        encode(processor, question(picture(16, 16), "a"), "b")


@pytest.mark.parametrize("family", VISION_FAMILIES)
@pytest.mark.parametrize("where", ["user", "assistant"])
def test_text_never_becomes_a_visual_placeholder(family: str, where: str) -> None:
    _, processor = miniature(family)
    token = processor.tokenizer.convert_ids_to_tokens(processor.image_token_id)
    texts = {"user": "What?", "assistant": "A cat."}
    texts[where] += f" {token}"
    with pytest.raises(RecordError) as error:
        encode(processor, question(texts["user"], picture(16, 16)), texts["assistant"])
    assert error.value.reason == "surplus_placeholder"


@pytest.mark.parametrize("token", ["<|vision_start|>", "<|video_pad|>"])
def test_tokens_around_images_are_no_text(token: str) -> None:
    with pytest.raises(RecordError, match="surplus placeholder"):
        encode(miniature("qwen3_vl")[1], question(f"a {token}"), "b")


def test_an_answer_may_hold_the_end_token() -> None:
    _, processor = miniature("qwen2")
    sequence = encode(processor, question("a"), "b <|im_end|>")
    assert processor.tokenizer.decode(sequence.ids[sequence.response_end :]) == "<|im_end|>"
    assert sequence.ids[-2:] == [2, 2] and sequence.response_end == len(sequence.ids) - 1


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_positions_on_three_axes(family: str) -> None:
    """An image of 16 x 16 pixels is 4 x 4 patches of 4, merged 2 x 2: 2 x 2 tokens.

    Text before it counts 0 .. n-1 on all axes; the image stands at time n, rows n and n+1, columns n and n+1; text goes
    on at n + 2.
    """
    _, processor = miniature(family)
    sequence = encode(processor, question("a", picture(16, 16), "b"), "c")
    n = sequence.visual.index(True)
    assert sum(sequence.visual) == 4 and sequence.axes is not None
    length = len(sequence.ids)
    image = np.array([[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1]]) + n
    text = np.arange(length - n - 4) + n + 2
    expected = np.concatenate([np.tile(np.arange(n), (3, 1)), image, np.tile(text, (3, 1))], axis=1)
    assert sequence.axes.shape == (3, length) and (sequence.axes == expected).all()
    plain = encode(processor, question("a"), "c")
    assert (plain.axes == np.arange(len(plain.ids))).all()


@pytest.mark.parametrize("family", ["internvl", "llama"])
def test_one_axis_needs_no_axes(family: str) -> None:
    assert encode(miniature(family)[1], question("a"), "c").axes is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_to_generate_from(family: str) -> None:
    _, processor = miniature(family)
    prompt = question("What is it?")
    opened = processor.encode_prompt(prompt, EncodedMedia((), {}))
    whole = encode(processor, prompt, "A cat.")
    assert opened.ids == whole.ids[: len(opened.ids)] and not any(opened.loss)
    assert opened.response_start == opened.response_end == len(opened.ids)
    if family != "qwen3":  # whose template opens a block of thoughts in the answer
        assert len(opened.ids) == whole.response_start


def test_kept_features_need_the_layout_alone() -> None:
    """Pixels are gone, whole numbers are kept: the conversation is laid out as before."""
    for family in VISION_FAMILIES:
        _, processor = miniature(family)
        prompt = question("a", picture(30, 20), "b")
        media = processor.encode_media(prompt.media)
        layout = {name: tensor for name, tensor in media.tensors.items() if tensor.dtype == torch.int64}
        assert {"pixel_values", "pixel_attention_mask"}.isdisjoint(layout)
        kept = processor.encode_conversation(prompt, answer("c"), media._replace(tensors=layout), "reward")
        whole = processor.encode_conversation(prompt, answer("c"), media, "reward")
        assert kept.ids == whole.ids and np.array_equal(kept.axes, whole.axes)
        with pytest.raises(ValueError, match="no expansion"):
            processor.encode_conversation(prompt, answer("c"), media._replace(tensors={}), "reward")


def test_media_that_cannot_be_used() -> None:
    _, text = miniature("llama")
    _, processor = miniature("qwen2_5_vl")
    for part, owner, reason in [
        (picture(8, 8), text, "media_for_text_model"),
        (ImagePart("a.png", b"no picture"), processor, "unreadable_image"),
        (VideoPart("a.mp4", b"no video"), processor, "unreadable_video"),
        (picture(1, 300), processor, "unusable_image"),  # 300 : 1, where the image processor takes 200 : 1
    ]:
        with pytest.raises(RecordError) as error:
            owner.encode_media((part,))
        assert error.value.reason == reason
    with pytest.raises(ValueError, match="1 media, but 0 are encoded"):
        processor.encode_conversation(question(picture(8, 8)), answer("b"), EncodedMedia((), {}), "sft")


def test_a_video_is_given_as_its_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three frames of 16 x 16 pixels: 3 x 4 tokens of one item, each frame with its own borders."""
    from lit_ixc.ixc25.video import Frame
    from lit_ixc.native import processing

    asked = []

    def read_frames(data: bytes, max_frames: int, frame_size: int, name: str) -> list[Frame]:
        asked.append((data, max_frames, frame_size, name))
        return [Frame(Image.new("RGB", (16, 16), (80 * i, 0, 0)), (16, 16)) for i in range(3)]

    monkeypatch.setattr(processing, "read_frames", read_frames)
    _, own = miniature("qwen2_5_vl")
    processor = NativeProcessor(str(own.path), max_frames=5, frame_size=16)
    prompt = Prompt((Message("user", (TextPart("a"), VideoPart("v.mp4", b"v"), picture(16, 16), TextPart("b"))),))
    media = processor.encode_media(prompt.media)
    sequence = processor.encode_conversation(prompt, answer("c"), media, "sft")
    assert asked == [(b"v", 5, 16, "v.mp4")]
    assert media.lengths == (12, 4) and media.tensors["image_grid_thw"].tolist() == [[1, 4, 4]] * 4
    frame = "<|vision_start|>" + 4 * "<|image_pad|>" + "<|vision_end|>"
    assert f"user\na{4 * frame}b<|im_end|>" in processor.tokenizer.decode(sequence.ids)


def test_bounds_of_images() -> None:
    _, own = miniature("qwen2_5_vl")
    assert own.encode_media((picture(64, 64),)).lengths == (9,)  # 24 x 24 pixels: 3 x 3 tokens of 8 x 8
    assert NativeProcessor(str(own.path), max_pixels=16 * 16).encode_media((picture(64, 64),)).lengths == (4,)
    assert NativeProcessor(str(own.path), min_pixels=16 * 16).encode_media((picture(8, 8),)).lengths == (4,)
    _, tiles = miniature("internvl")
    assert tiles.encode_media((picture(60, 60),)).lengths == (20,)  # 2 x 2 tiles and the whole, of 4 tokens each
    fewer = NativeProcessor(str(tiles.path), image_options={"max_patches": 1})
    assert fewer.encode_media((picture(60, 60),)).lengths == (4,)
    with pytest.raises(UserError, match="has no such bounds"):
        NativeProcessor(str(tiles.path), max_pixels=100).encode_media((picture(60, 60),))
    with pytest.raises(UserError, match="image_options.max_tiles"):
        NativeProcessor(str(tiles.path), image_options={"max_tiles": 1}).encode_media((picture(60, 60),))


def test_media_settings_change_with_all_that_decides() -> None:
    _, own = miniature("qwen2_5_vl")
    path = str(own.path)
    kinds = [{}, {"max_pixels": 300}, {"max_frames": 3}, {"frame_size": 9}, {"image_options": {"do_normalize": False}}]
    settings = [NativeProcessor(path, **kind).media_settings for kind in kinds]
    assert len(set(settings)) == len(kinds)
    assert settings[0] == NativeProcessor(path, template_options={"a": 1}).media_settings
    assert json.loads(settings[0])["image_processor"] == "Qwen2VLImageProcessorPil"


@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_read(family: str, tmp_path) -> None:
    _, own = miniature(family)
    options = {"max_frames": 3, "template_options": {"a": 1}, "chat_template": chat_template(family) + " "}
    NativeProcessor(str(own.path), **options).save_pretrained(tmp_path)
    read = NativeProcessor.from_pretrained(tmp_path)
    assert (read.max_frames, read.template_options, read.template) == (3, {"a": 1}, chat_template(family) + " ")
    again = pickle.loads(pickle.dumps(read))
    prompt = question("a", picture(30, 20), "b") if family in VISION_FAMILIES else question("a")
    expected = encode(own, prompt, "c")
    for processor in (read, again):
        sequence = encode(processor, prompt, "c")
        assert sequence.ids == expected.ids and sequence.response_start == expected.response_start


def test_padding_falls_back_to_the_end_token() -> None:
    assert miniature("llama")[1].pad_token_id == train_tokenizer("llama").eos_token_id == 4
    assert miniature("qwen2")[1].pad_token_id == 0
    assert miniature("llama")[1].image_token_id == -1


def test_folders_that_lack_something(tmp_path) -> None:
    _, own = miniature("qwen2_5_vl")
    with pytest.raises(UserError, match=r"no config.json there"):
        NativeProcessor(str(tmp_path)).encode_media((picture(8, 8),))
    (tmp_path / "config.json").write_bytes((own.path / "config.json").read_bytes())
    with pytest.raises(UserError, match="no tokenizer there; it needs one of .*tokenizer.json"):
        NativeProcessor(str(tmp_path)).encode_media((picture(8, 8),))
    own.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no image processor can be read"):
        NativeProcessor(str(tmp_path)).encode_media((picture(8, 8),))
    with pytest.raises(UserError, match="max_frames = 0"):
        NativeProcessor(str(tmp_path), max_frames=0)


def test_a_folder_in_the_published_form(tmp_path) -> None:
    """Image settings under the name of the torchvision class, the template in a JSON file, a video processor beside."""
    _, own = miniature("qwen2_5_vl")
    own.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": own.template}))
    own.config.save_pretrained(tmp_path)
    bounds = {"min_pixels": 64, "max_pixels": 576, "patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    settings = {"image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen2_5_VLProcessor", **bounds}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    (tmp_path / "video_preprocessor_config.json").write_text(
        json.dumps({"video_processor_type": "Qwen2VLVideoProcessor"})
    )
    prompt = question("a", picture(40, 20), "b")
    read = encode(NativeProcessor(str(tmp_path)), prompt, "c")
    assert read.ids == encode(own, prompt, "c").ids


@pytest.mark.parametrize("family", ["qwen3_vl", "internvl", "llama"])
def test_truncation_keeps_images_and_the_end_of_turn(family: str) -> None:
    """An answer loses its tail, then the prompt its oldest text; never images, nor the last token."""
    _, processor = miniature(family)
    parts = ("The answer is 42, since 6 times 7 is 42. " * 3, picture(20, 20), "Which is brighter?")
    prompt = question(*parts) if family in VISION_FAMILIES else question(parts[0], parts[2])
    responses = (answer("A small cat sits on the red mat."), answer("The dog looks at it. " * 4))
    comparison = Comparison("c", prompt, responses, (0, 1))
    whole = encode_comparison(comparison, processor, "reward", 4096).comparison
    assert whole is not None
    longest = max(len(sequence.ids) for sequence in whole.sequences)
    for limit, event in ((longest - 3, "truncated_answer"), (longest - 60, "truncated_prompt")):
        cut = encode_comparison(comparison, processor, "reward", limit, too_long="truncate")
        assert cut.event == event and cut.comparison is not None
        for sequence in cut.comparison.sequences:
            assert len(sequence.ids) <= limit and sequence.ids[-1] == whole.sequences[0].ids[-1] and sequence.loss[-1]
            assert sum(sequence.visual) == sum(whole.media.lengths)
            assert sequence.ids[sequence.response_end] == whole.sequences[0].ids[-1]
            if sequence.axes is not None:
                assert sequence.axes.shape == (3, len(sequence.ids))
                assert (np.diff(sequence.axes[:, sequence.response_start :]) == 1).all()  # no gap where it was cut
        texts = [processor.tokenizer.decode(sequence.ids) for sequence in cut.comparison.sequences]
        assert all("Which is brighter?" in text for text in texts)
