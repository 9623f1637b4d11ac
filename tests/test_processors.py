"""Processors for configs: the miniature one trains once, a saved one is the same again, a missing one is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from lit_ixc.batch import ConversationProcessor, TrainableProcessor
from lit_ixc.ixc25 import IXC25ForConditionalGeneration, IXC25Processor, IXC25Tokenizer
from lit_ixc.ixc25.miniature import build, tiny_config
from lit_ixc.layout import tree_row
from lit_ixc.processors import MiniatureProcessor, ReleasedProcessor, SavedProcessor
from lit_ixc.records import Prompt, UserError, text_message

TEXTS = ["What colour is the circle?", "red", "blue", "The circle is red."] * 5


def test_miniature_is_trained_once_and_saved(tmp_path: Path) -> None:
    first = MiniatureProcessor(str(tmp_path / "p"), vocab_size=300)
    first.prepare(lambda: TEXTS)

    def never() -> Iterator[str]:
        raise AssertionError("the corpus was read again")
        yield ""

    again = MiniatureProcessor(str(tmp_path / "p"), vocab_size=300)
    again.prepare(never)
    assert isinstance(first, TrainableProcessor) and not isinstance(SavedProcessor("x"), TrainableProcessor)
    first.save_pretrained(tmp_path / "export")
    saved: ConversationProcessor = SavedProcessor(str(tmp_path / "export"))
    prompt, media = Prompt((text_message("user", "What colour?"),)), first.encode_media(())
    rows = [
        tree_row([made.encode_conversation(prompt, (text_message("assistant", "red"),), media, "reward")])
        for made in (first, again, saved)
    ]
    assert all(np.array_equal(a, b) for row in rows[1:] for a, b in zip(rows[0], row, strict=True) if a is not None)
    tokenizer = first.processor.tokenizer
    assert rows[0].ids[-2:].tolist() == [tokenizer.eos_token_id, tokenizer.reward_token_id] == [2, 3]
    assert (saved.pad_token_id, saved.image_token_id) == (2, 6)


def test_auto_classes_find_everything_in_one_folder(tmp_path: Path) -> None:
    """What a training run exports opens without naming a class."""
    MiniatureProcessor(str(tmp_path), vocab_size=300).prepare(lambda: TEXTS)
    build(tiny_config(), seed=0).save_pretrained(tmp_path)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), IXC25Processor)
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path), IXC25Tokenizer)
    assert isinstance(AutoModelForImageTextToText.from_pretrained(tmp_path), IXC25ForConditionalGeneration)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no processor_config.json there"):
        _ = SavedProcessor(str(tmp_path)).pad_token_id
    with pytest.raises(UserError, match="no tokenizer.model there"):
        _ = ReleasedProcessor(str(tmp_path)).pad_token_id
