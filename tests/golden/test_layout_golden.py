"""Where image tokens, ``<s>`` and labels go: the released interleaving, exactly.

The one exception is wanted: with a system turn the release trains the user's text instead of the answer.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from released import released_tokenizer, runs

from lit_ixc.batch import EncodedMedia, EncodedSequence
from lit_ixc.ixc25.image import IXC25ImageProcessor
from lit_ixc.ixc25.layout import IMAGE_PLACEHOLDER, interleave
from lit_ixc.ixc25.processing import IXC25Processor
from lit_ixc.ixc25.tokenizer import IXC25Tokenizer
from lit_ixc.records import ImagePart, Message, Part, Prompt, RecordError, TextPart

TURN = re.compile(r"\[UNUSED_TOKEN_146\](\w+)\n(.*?)\[UNUSED_TOKEN_145\]\n", re.DOTALL)
IMAGE = ImagePart("image.png", b"-")


def cases(golden_dir: Path, function: str) -> list[dict[str, Any]]:
    found = [case for case in json.loads((golden_dir / "layout.json").read_text())["cases"]]
    found = [case for case in found if case["function"].startswith(function)]
    assert found, f"the goldens hold no case of {function}"
    return found


def flatten(segments: list[list[Any]], tokenizer: IXC25Tokenizer) -> tuple[list[int], list[bool]]:
    """Ids and visual positions that the golden's segments describe."""
    ids: list[int] = []
    visual: list[bool] = []
    for kind, *rest in segments:
        new = rest[0] if kind == "tokens" else [tokenizer.image_token_id] * rest[1]
        ids += new
        visual += [kind == "image"] * len(new)
    return ids, visual


def conversation(text: str) -> list[Message]:
    """The messages of a template text. A first turn by the assistant is the system turn as SFT rows write it."""
    messages = []
    for role, content in TURN.findall(text):
        parts: list[Part] = []
        for index, run in enumerate(content.split(IMAGE_PLACEHOLDER)):
            parts += [IMAGE] if index else []
            parts += [TextPart(run)] if run or not index else []
        messages.append(Message("system" if role == "assistant" and not messages else role, tuple(parts)))
    return messages


def encode(text: str, lengths: Sequence[int], tokenizer: IXC25Tokenizer) -> EncodedSequence:
    """The text of a golden through our own path, which starts from messages."""
    processor = IXC25Processor(IXC25ImageProcessor(), tokenizer, sft_system_role="assistant")
    messages = conversation(text)
    leading = (IMAGE,) * len(lengths) if IMAGE_PLACEHOLDER not in text else ()
    prompt = Prompt(tuple(messages[:-1]), leading)
    ending = "reward" if text.endswith("[UNUSED_TOKEN_130]") else "sft"
    return processor.encode_conversation(prompt, messages[-1:], EncodedMedia(tuple(lengths), {}), ending)


def labels(encoded: EncodedSequence, length: int, padded: int) -> list[int]:
    kept = [token if train else -100 for token, train in zip(encoded.ids, encoded.loss, strict=True)][:length]
    return kept + [-100] * (padded - len(kept))


def check_labels(text: str, encoded: EncodedSequence, length: int, targets: list[list[int]]) -> None:
    """The golden's labels; with a system turn the answers instead, each with its end of turn, and the closing."""
    padded = sum(count for _, count in targets)
    if conversation(text)[0].role != "system":
        assert runs(labels(encoded, length, padded)) == targets
        return
    assert runs(labels(encoded, length, padded)) != targets
    tokenizer = released_tokenizer()
    answers = [message.text for message in conversation(text) if message.role == "assistant"]
    trained = [token for token, train in zip(encoded.ids, encoded.loss, strict=True) if train]
    expected = "".join(f"{answer}[UNUSED_TOKEN_145]" for answer in answers) + "\n</s>"
    assert tokenizer.decode(trained, skip_special_tokens=False) == expected


def test_training_layout(golden_dir: Path) -> None:
    tokenizer = released_tokenizer()
    for case in cases(golden_dir, "interleav_wrap (training"):
        counts = iter(case["image_token_counts"])
        for row in case["rows"]:
            lengths = [next(counts) for _ in range(row["image_nums"])]
            expected = flatten(row["segments"], tokenizer)
            length = row["length"]
            found = interleave(row["text"], lengths, tokenizer, "training", strict=False, max_length=case["max_length"])
            assert found == expected
            assert runs(found[1] + [False] * (row["padded_length"] - length)) == row["im_mask_runs"]
            if row["text"].count(IMAGE_PLACEHOLDER) in ((0, 1) if len(lengths) == 1 else (len(lengths),)):
                encoded = encode(row["text"], lengths, tokenizer)
                assert (encoded.ids[:length], encoded.visual[:length]) == expected
                check_labels(row["text"], encoded, length, row["targets_runs"])


def test_training_layout_of_text_alone(golden_dir: Path) -> None:
    """Right padding with ``</s>``; the labels of the padding are ignored."""
    tokenizer = released_tokenizer()
    for case in cases(golden_dir, "text2emb"):
        batch = tokenizer(case["texts"], padding=True, padding_side=case["padding_side"])
        assert batch["input_ids"] == case["input_ids"]
        assert [runs(mask) for mask in batch["attention_mask"]] == case["attention_mask_runs"]
        for text, ids, targets in zip(case["texts"], case["input_ids"], case["targets_runs"], strict=True):
            encoded = encode(text, (), tokenizer)
            assert encoded.ids == ids[: len(encoded.ids)] and set(ids[len(encoded.ids) :]) <= {2}
            check_labels(text, encoded, len(encoded.ids), targets)


def chat_messages(case: dict[str, Any], images: int) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if case["meta_instruction"]:
        messages.append({"role": "system", "content": case["meta_instruction"]})
    for question, answer in case["history"]:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    question = [{"type": "text", "text": case["query"]}]
    parts = [{"type": "image"}] * images if IMAGE_PLACEHOLDER not in case["query"] else []
    return [*messages, {"role": "user", "content": parts + question}]


def test_chat_layout(golden_dir: Path) -> None:
    """Through ``apply_chat_template``; one picture stands first of all, also before a system turn."""
    tokenizer = released_tokenizer()
    processor = IXC25Processor(IXC25ImageProcessor(), tokenizer, template="chat")
    for case in cases(golden_dir, "interleav_wrap_chat"):
        lengths = case["image_token_counts"]
        text = processor.apply_chat_template(chat_messages(case, len(lengths)), add_generation_prompt=True)
        ids, visual = interleave(text, lengths, tokenizer, bos=None, strict=False, max_length=case["max_length"])
        assert (ids, visual) == flatten(case["segments"], tokenizer)
        assert len(ids) == case["length"] and runs(visual) == case["im_mask_runs"]
        if "<ImageHere>" not in case["query"]:  # the same from a record
            leading = (IMAGE,) * len(lengths)
            roles = [(m["role"], m["content"]) for m in chat_messages(case, 0)[:-1]] + [("user", case["query"])]
            prompt = Prompt(tuple(Message(role, (TextPart(content),)) for role, content in roles), leading)
            encoded = processor.encode_prompt(prompt, EncodedMedia(tuple(lengths), {}))
            assert (encoded.ids, encoded.visual) == (ids, visual)


def test_tiles_of_several_pictures(golden_dir: Path) -> None:
    for case in cases(golden_dir, "interleav_wrap_chat"):
        processor = IXC25ImageProcessor(max_tiles=case["hd_num_argument"])
        passed = case["hd_num_passed_to_encode_img"]
        assert [processor.tiles_of_each(len(passed))] * len(passed) == passed


def test_text_chat_writes_bos_twice(golden_dir: Path) -> None:
    """The release's text-only chat writes ``<s>`` and its tokenizer adds another; our template gives one."""
    tokenizer = released_tokenizer()
    processor = IXC25Processor(IXC25ImageProcessor(), tokenizer)
    for case in cases(golden_dir, "build_inputs"):
        text = processor.apply_chat_template(chat_messages(case, 0), add_generation_prompt=True)
        assert tokenizer(text)["input_ids"] == case["input_ids"]
        assert processor(text=text)["input_ids"].tolist() == [case["input_ids"][1:]]


@pytest.mark.parametrize("text, lengths", [("a <ImageHere> b", []), ("a <ImageHere> b", [3, 3]), ("a", [3, 3])])
def test_wrong_number_of_placeholders_is_refused(text: str, lengths: list[int]) -> None:
    """The release drops the surplus without a word; that is to be had with ``strict=False`` only."""
    tokenizer = released_tokenizer()
    with pytest.raises(ValueError, match="one placeholder for each"):
        interleave(text, lengths, tokenizer)
    _, visual = interleave(text, lengths, tokenizer, strict=False)
    assert sum(visual) == 3 * min(len(lengths), text.count("<ImageHere>"))


@pytest.mark.parametrize("marker", ["<|im_start|>", "<|plugin|>", "[UNUSED_TOKEN_129]"])
def test_tokens_without_a_place_in_the_model_are_refused(marker: str) -> None:
    """The ids of the six chat markers lie outside the embedding; 129 stands for pictures."""
    with pytest.raises(RecordError, match="reserved token") as error:
        interleave(f"What is {marker}?", [], released_tokenizer())
    assert error.value.value == marker
