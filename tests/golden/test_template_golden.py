"""Text and ids of the released reward and SFT templates, exactly."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from released import released_tokenizer

from lit_ixc.batch import EncodedMedia, Ending
from lit_ixc.ixc25.image import IXC25ImageProcessor
from lit_ixc.ixc25.processing import IXC25Processor
from lit_ixc.records import Prompt, Role, text_message

ROLES: dict[str, Role] = {"human": "user", "user": "user", "system": "system"}  # all else is the assistant


def cases(golden_dir: Path, name: str) -> list[dict[str, Any]]:
    cases = json.loads((golden_dir / "templates.json").read_text())[name]
    assert cases, "the goldens hold no cases"
    return cases


@pytest.mark.parametrize(
    "name, ending, system_role",
    [("reward_conv2text", "reward", "system"), ("sft_conv2text", "sft", "assistant")],
)
def test_template(golden_dir: Path, name: str, ending: Ending, system_role: Literal["system", "assistant"]) -> None:
    tokenizer = released_tokenizer()
    processor = IXC25Processor(IXC25ImageProcessor(), tokenizer, sft_system_role=system_role)
    for case in cases(golden_dir, name):
        messages = [text_message(ROLES.get(turn["from"], "assistant"), turn["value"]) for turn in case["conversation"]]
        encoded = processor.encode_conversation(
            Prompt(tuple(messages[:-1])), messages[-1:], EncodedMedia((), {}), ending
        )
        assert encoded.ids == case["ids_with_bos"]
        assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == "<s>" + case["text"]
        answer = tokenizer.decode(encoded.ids[encoded.response_start : encoded.response_end])
        assert answer == case["conversation"][-1]["value"].strip()


def test_sft_system_turn_keeps_its_role_by_default(golden_dir: Path) -> None:
    """The release writes a system turn of SFT rows as the assistant's; we write ``system``, as in reward and chat."""
    tokenizer = released_tokenizer()
    processor = IXC25Processor(IXC25ImageProcessor(), tokenizer)
    for case in cases(golden_dir, "sft_conv2text"):
        messages = [text_message(ROLES.get(turn["from"], "assistant"), turn["value"]) for turn in case["conversation"]]
        encoded = processor.encode_conversation(
            Prompt(tuple(messages[:-1])), messages[-1:], EncodedMedia((), {}), "sft"
        )
        expected = "<s>" + case["text"]
        if messages[0].role == "system":
            expected = expected.replace("[UNUSED_TOKEN_146]assistant", "[UNUSED_TOKEN_146]system", 1)
        assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == expected
