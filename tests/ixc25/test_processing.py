"""The processor on a small trained tokenizer and tiles of 28 px: a picture of 1 x 1 tile is 5 tokens, 1 x 2 is 6."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lit_ixc.batch import EncodedComparison, EncodedMedia, EncodedSequence
from lit_ixc.ixc25.image import IXC25ImageProcessor
from lit_ixc.ixc25.layout import interleave
from lit_ixc.ixc25.processing import IXC25Processor
from lit_ixc.ixc25.tokenizer import train_tokenizer
from lit_ixc.layout import collate, shared_prefix_length
from lit_ixc.records import ImagePart, Message, Prompt, RecordError, TextPart, VideoPart, text_message

TOKENIZER = train_tokenizer(["What is it? user assistant system yes no\n"], 280)
OPEN, CLOSE, IMAGE = "[UNUSED_TOKEN_146]", "[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_129]"
NO_MEDIA = EncodedMedia((), {})


def processor(**options: Any) -> IXC25Processor:
    images = IXC25ImageProcessor(tile_size=28, max_tiles=4, max_tiles_multi=1)
    return IXC25Processor(images, TOKENIZER, **options)


def picture(width: int = 28, height: int = 28, colour: str = "red") -> ImagePart:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return ImagePart(f"{colour}.png", buffer.getvalue())


def text_of(ids: list[int]) -> str:
    """The decoded sequence with each run of visual positions shortened: ``<5>`` for five of them."""
    text = TOKENIZER.decode(ids, skip_special_tokens=False)
    for count in range(20, 0, -1):
        text = text.replace(IMAGE * count, f"<{count}>")
    return text


def trained_text(encoded: EncodedSequence) -> str:
    ids = [token for token, train in zip(encoded.ids, encoded.loss, strict=True) if train]
    return TOKENIZER.decode(ids, skip_special_tokens=False)


def ask(*parts: TextPart | ImagePart | VideoPart, leading: tuple[ImagePart, ...] = ()) -> Prompt:
    return Prompt((Message("user", parts),), leading)


def answer(text: str) -> list[Message]:
    return [text_message("assistant", text)]


def test_reward_and_sft_endings() -> None:
    prompt = ask(TextPart("What is it?"))
    turns = f"<s>{OPEN}user\nWhat is it?{CLOSE}\n{OPEN}assistant\nyes{CLOSE}\n</s>"
    for ending, tail in (("reward", "[UNUSED_TOKEN_130]"), ("sft", "")):
        encoded = processor().encode_conversation(prompt, answer("yes"), NO_MEDIA, ending)
        assert text_of(encoded.ids) == turns + tail
        assert trained_text(encoded) == f"yes{CLOSE}\n</s>"
        assert TOKENIZER.decode(encoded.ids[encoded.response_start : encoded.response_end]) == "yes"
        assert TOKENIZER.convert_ids_to_tokens(encoded.ids[encoded.response_end]) == CLOSE
        assert not any(encoded.visual)
        assert len(encoded.ids) == len(encoded.visual) == len(encoded.loss)


def test_content_is_stripped_in_training_only() -> None:
    prompt = ask(TextPart("\n What is it? "))
    training = processor().encode_conversation(prompt, answer(" yes\n"), NO_MEDIA, "sft")
    assert text_of(training.ids) == f"<s>{OPEN}user\nWhat is it?{CLOSE}\n{OPEN}assistant\nyes{CLOSE}\n</s>"
    chat = processor(template="chat").encode_conversation(prompt, answer(" yes\n"), NO_MEDIA, "sft")
    assert text_of(chat.ids) == f"<s>{OPEN}user\n\n What is it? {CLOSE}\n{OPEN}assistant\n yes\n{CLOSE}\n</s>"


def test_bos_stands_behind_leading_media_in_training_and_before_them_in_chat() -> None:
    prompt = ask(TextPart("What?"), leading=(picture(56, 28),))
    for template, start in (("training", f"<6><s>{OPEN}user\nWhat?"), ("chat", f"<s><6>{OPEN}user\nWhat?")):
        p = processor(template=template)
        encoded = p.encode_conversation(prompt, answer("yes"), p.encode_media(prompt.media), "reward")
        assert text_of(encoded.ids).startswith(start)
        first = 0 if template == "training" else 1
        assert encoded.visual == [first <= index < first + 6 for index in range(len(encoded.ids))]


def test_media_inside_a_message() -> None:
    """White space next to a picture stays; at the ends of the content it goes."""
    prompt = ask(TextPart(" Image1 "), picture(), TextPart("; Image2 "), picture(56, 28), TextPart(" \n"))
    p = processor()
    media = p.encode_media(prompt.media)
    assert media.lengths == (5, 5)  # two pictures: one tile each
    assert media.tensors["pixel_values"].shape == (4, 3, 28, 28)
    assert media.tensors["image_grid"].tolist() == [[1, 1], [1, 1]]
    encoded = p.encode_conversation(prompt, answer("no"), media, "sft")
    start = f"<s>{OPEN}user\nImage1 <5>; Image2 <5>{CLOSE}\n{OPEN}assistant\nno"
    assert text_of(encoded.ids).startswith(start)
    assert trained_text(encoded) == f"no{CLOSE}\n</s>"
    assert sum(encoded.visual) == 10


def test_loss_of_several_turns_with_a_system_turn() -> None:
    """The release would train the user's texts here."""
    messages = [text_message("system", "Be brief."), text_message("user", "A?"), text_message("assistant", "one")]
    prompt = Prompt((*messages, text_message("user", "B?")))
    response = [*answer("two"), text_message("user", "C?"), *answer("three")]
    encoded = processor().encode_conversation(prompt, response, NO_MEDIA, "reward")
    assert text_of(encoded.ids).startswith(f"<s>{OPEN}system\nBe brief.{CLOSE}\n{OPEN}user\nA?{CLOSE}\n{OPEN}assistant")
    assert trained_text(encoded) == f"one{CLOSE}two{CLOSE}three{CLOSE}\n</s>"
    between = TOKENIZER.decode(encoded.ids[encoded.response_start : encoded.response_end], skip_special_tokens=False)
    assert between == f"two{CLOSE}\n{OPEN}user\nC?{CLOSE}\n{OPEN}assistant\nthree"


def test_system_header_of_sft_rows() -> None:
    prompt = Prompt((text_message("system", "Be brief."), text_message("user", "A?")))
    for role in ("system", "assistant"):
        p = processor(sft_system_role=role)
        encoded = p.encode_conversation(prompt, answer("one"), NO_MEDIA, "sft")
        assert text_of(encoded.ids).startswith(f"<s>{OPEN}{role}\nBe brief.{CLOSE}\n{OPEN}user")
        assert trained_text(encoded) == f"one{CLOSE}\n</s>"
        reward = p.encode_conversation(prompt, answer("one"), NO_MEDIA, "reward")
        assert text_of(reward.ids).startswith(f"<s>{OPEN}system\n")


def test_prompt_to_generate_from_is_the_start_of_the_conversation() -> None:
    prompt = ask(TextPart("What?"), leading=(picture(),))
    p = processor()
    media = p.encode_media(prompt.media)
    start = p.encode_prompt(prompt, media)
    whole = p.encode_conversation(prompt, answer("yes"), media, "sft")
    assert text_of(start.ids).endswith(f"{CLOSE}\n{OPEN}assistant\n")
    assert whole.ids[: len(start.ids)] == start.ids and whole.visual[: len(start.ids)] == start.visual
    assert start.response_start == start.response_end == len(start.ids) == whole.response_start
    assert not any(start.loss)


def test_responses_share_the_prompt_and_its_media() -> None:
    """K responses are laid out behind one prompt; the pictures were encoded once, before."""
    prompt = ask(TextPart("What?"), leading=(picture(56, 28),))
    p = processor()
    media = p.encode_media(prompt.media)
    sequences = [p.encode_conversation(prompt, answer(text), media, "reward") for text in ("yes", "no", "yes!")]
    assert shared_prefix_length(sequences) == sequences[0].response_start
    comparison = EncodedComparison("1", "d", "s", "image", sequences, media, (0, 1, 2), None, (3, 2, 4))
    batch = collate([comparison], p.pad_token_id)
    assert batch.visual.sum() == 6 and (batch.input_ids[batch.visual] == p.image_token_id).all()
    assert batch.media[0].tensors["pixel_values"].shape == (3, 3, 28, 28)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_comes_back(question: str, reply: str) -> None:
    prompt = ask(TextPart("?" + question))
    encoded = processor().encode_conversation(prompt, answer("." + reply), NO_MEDIA, "reward")
    ids = encoded.ids
    assert (
        TOKENIZER.decode(ids[encoded.response_start : encoded.response_end], skip_special_tokens=False)
        == ("." + reply).rstrip()
    )
    assert ids[-1] == TOKENIZER.reward_token_id and sum(encoded.loss) == len(ids) - 1 - encoded.response_start


@pytest.mark.parametrize(
    "text, reason",
    [("a <ImageHere> b", "surplus_placeholder"), (f"see {IMAGE}", "reserved_token")],
)
def test_texts_that_would_move_the_pictures_are_refused(text: str, reason: str) -> None:
    for prompt, reply in ((ask(TextPart(text)), "yes"), (ask(TextPart("What?")), text)):
        with pytest.raises(RecordError) as error:
            processor().encode_conversation(prompt, answer(reply), NO_MEDIA, "reward")
        assert error.value.reason == reason


def test_media_must_belong_to_the_prompt() -> None:
    prompt = ask(TextPart("What?"), leading=(picture(),))
    with pytest.raises(ValueError, match="the prompt has 1 media, but 0 are encoded"):
        processor().encode_conversation(prompt, answer("yes"), NO_MEDIA, "reward")
    with pytest.raises(RecordError, match="broken.png"):
        processor().encode_media([ImagePart("broken.png", b"-")])
    with pytest.raises(RecordError, match="broken.mp4"):
        processor().encode_media([VideoPart("broken.mp4", b"-")])


def test_bad_template_is_refused() -> None:
    with pytest.raises(ValueError, match="template = 'x': use 'training' or 'chat'"):
        processor(template="x")


def test_bos_of_interleaved_text() -> None:
    for bos, expected in (("chat", "<s><2>a<3>b"), ("training", "<2><s>a<3>b"), (None, "<2>a<3>b")):
        ids, visual = interleave("<ImageHere>a<VideoHere>b", [2, 3], TOKENIZER, bos)
        assert text_of(ids) == expected
        assert [token == TOKENIZER.image_token_id for token in ids] == visual
    assert text_of(interleave("ab", [4], TOKENIZER, "training")[0]) == "<4><s>ab"


def test_call_pads_on_the_left() -> None:
    batch = processor(template="chat")(
        text=["What is it? <ImageHere>", "no"], images=[[Image.new("RGB", (56, 28))], []]
    )
    long, short = batch["input_ids"].tolist()
    assert text_of(long) == "<s>What is it? <6>"
    assert batch["attention_mask"].sum(1).tolist() == [len(long), len(TOKENIZER("no")["input_ids"])]
    assert text_of(short) == "</s>" * (len(long) - int(batch["attention_mask"][1].sum())) + "<s>no"
    assert batch["image_grid"].tolist() == [[1, 2]] and batch["pixel_values"].shape == (3, 3, 28, 28)
    right = processor(template="chat")(text=["a b c", "b"], padding_side="right")
    assert right["attention_mask"][:, 0].tolist() == [1, 1] and "pixel_values" not in right


def test_call_shares_a_flat_list_out() -> None:
    p, red, blue = processor(), Image.new("RGB", (28, 28), "red"), Image.new("RGB", (56, 28), "blue")
    by_placeholder = p(text=["a", "<ImageHere> b <ImageHere>"], images=[red, blue])
    nested = p(text=["a", "<ImageHere> b <ImageHere>"], images=[[], [red, blue]])
    for name in nested:
        assert torch.equal(by_placeholder[name], nested[name])
    one_each = p(text=["a", "b"], images=[red, blue])
    assert one_each["image_grid"].tolist() == [[1, 1], [1, 2]]
    assert text_of(one_each["input_ids"][1].tolist()) == "<6><s>b"


@pytest.mark.parametrize(
    "text, images, message",
    [
        ("a <ImageHere>", 0, "0 images and 0 videos for 1 <ImageHere>"),
        ("a <ImageHere>", 2, "2 images and 0 videos for 1 <ImageHere>"),
        ("a", 2, "2 images and 0 videos for 0 <ImageHere>"),
        ("a <VideoHere>", 1, "1 images and 0 videos for 0 <ImageHere> and 1 <VideoHere>"),
        (["a", "b <ImageHere>"], 2, "images: 2 given, but the texts hold 1 <ImageHere>"),
    ],
)
def test_call_refuses_media_without_place(text: str | list[str], images: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor()(text=text, images=[Image.new("RGB", (8, 8))] * images)


def test_call_refuses_lists_of_another_number() -> None:
    with pytest.raises(ValueError, match="images: 1 lists for 2 texts"):
        processor()(text=["a", "b"], images=[[Image.new("RGB", (8, 8))]])
    with pytest.raises(ValueError, match="no audio"):
        processor()(text="a", audio=b"")


def chat(*content: dict[str, Any] | str) -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return [{"role": "system", "content": "Hi."}, {"role": "user", "content": parts}]


def test_chat_template() -> None:
    p = processor()
    image, video = {"type": "image"}, {"type": "video"}
    system = f"{OPEN}system\nHi.{CLOSE}\n"
    assert p.apply_chat_template(chat("a")) == f"<s>{system}{OPEN}user\na{CLOSE}\n"
    # alone, wherever it stands: before everything
    assert p.apply_chat_template(chat("a ", image, "b")) == f"<s><ImageHere>{system}{OPEN}user\na b{CLOSE}\n"
    assert p.apply_chat_template(chat(video, "a")) == f"<s><VideoHere>{system}{OPEN}user\na{CLOSE}\n"
    # several: where they are; content is not stripped
    several = p.apply_chat_template(chat(image, " a ", video), add_generation_prompt=True)
    assert several == f"<s>{system}{OPEN}user\n<ImageHere> a <VideoHere>{CLOSE}\n{OPEN}assistant\n"


def test_chat_template_with_pictures_to_tensors() -> None:
    image = {"type": "image", "image": Image.new("RGB", (56, 28))}
    batch = processor().apply_chat_template(
        [chat(image, "a"), [{"role": "user", "content": "b"}]],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values", "image_grid"}
    long, short = batch["input_ids"].tolist()
    assert text_of(long).startswith(f"<s><6>{OPEN}system\nHi.")
    assert text_of(short).endswith(f"</s><s>{OPEN}user\nb{CLOSE}\n{OPEN}assistant\n")


def test_saved_and_loaded(tmp_path: Path) -> None:
    p = processor(template="chat", sft_system_role="assistant")
    p.save_pretrained(tmp_path)
    loaded = IXC25Processor.from_pretrained(tmp_path)
    assert (loaded.template, loaded.sft_system_role) == ("chat", "assistant")
    assert loaded.image_processor.to_dict() == p.image_processor.to_dict()
    assert loaded.chat_template == p.chat_template
    assert (loaded.pad_token_id, loaded.image_token_id) == (2, 6)
    call = {"text": "What is it? <ImageHere>", "images": Image.new("RGB", (30, 20), "green")}
    for name, value in p(**call).items():
        assert torch.equal(loaded(**call)[name], value)
