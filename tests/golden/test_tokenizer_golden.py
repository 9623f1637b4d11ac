"""Token ids of the released tokenizer, exactly, and against the sentencepiece library on other texts."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from released import released_tokenizer
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from lit_ixc.ixc25.tokenizer import CHAT_MARKERS, IXC25Tokenizer


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, Any]:
    golden = json.loads((golden_dir / "tokenizer.json").read_text())
    assert golden["strings"], "the goldens hold no strings"
    return golden


def test_ids(golden: dict[str, Any]) -> None:
    tokenizer = released_tokenizer()
    assert [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id] == [
        golden["bos"],
        golden["eos"],
        golden["pad"],
    ]
    for case in golden["strings"]:
        assert tokenizer(case["text"])["input_ids"] == case["ids_with_bos"], case["text"]
        assert tokenizer.encode_pieces(case["text"]).ids == case["ids_no_bos"], case["text"]
        assert tokenizer.decode(case["ids_no_bos"], skip_special_tokens=False) == case["text"]


def test_released_ids_of_special_pieces() -> None:
    tokenizer = released_tokenizer()
    assert tokenizer.vocab_size == 92544
    assert (tokenizer.reward_token_id, tokenizer.end_of_turn_id, tokenizer.start_of_turn_id) == (92527, 92542, 92543)
    assert tokenizer.stop_ids == [2, 92542]
    assert tokenizer.convert_tokens_to_ids(list(CHAT_MARKERS)) == list(range(92544, 92550))
    assert len(tokenizer) == 92550


def test_saved_tokenizer_gives_the_same_ids(golden: dict[str, Any], tmp_path: Path) -> None:
    released_tokenizer().save_pretrained(tmp_path)
    tokenizer = IXC25Tokenizer.from_pretrained(tmp_path)
    for case in golden["strings"]:
        assert tokenizer(case["text"])["input_ids"] == case["ids_with_bos"], case["text"]
    assert tokenizer.vocab_size == 92544 and len(tokenizer) == 92550


@pytest.fixture(scope="module")
def model_file(golden: dict[str, Any]) -> str:
    """Path of the sentencepiece model; it is the one the goldens were made with."""
    released_tokenizer()  # skips where it is absent
    shared = Path(os.environ.get("LIT_IXC_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    path = Path(os.environ.get("LIT_IXC_TOKENIZER", shared / "golden" / "tokenizer.model"))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == golden["tokenizer_model_sha256"]
    return str(path)


def test_directory_as_released(model_file: str, golden: dict[str, Any], tmp_path: Path) -> None:
    """The release ships tokenizer.model with a config of its own class and its added tokens, in whatever order."""
    (tmp_path / "tokenizer.model").write_bytes(Path(model_file).read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "InternLMXComposer2Tokenizer", "bos_token": "<s>", "pad_token": "</s>"})
    )
    added = dict(zip(reversed(CHAT_MARKERS), range(92544, 92550), strict=True))
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": list(CHAT_MARKERS)}))
    tokenizer = IXC25Tokenizer.from_pretrained(tmp_path)
    for case in golden["strings"]:
        assert tokenizer(case["text"])["input_ids"] == case["ids_with_bos"], case["text"]
    assert tokenizer.convert_tokens_to_ids("<|plugin|>") == 92544
    assert isinstance(tokenizer, TokenizersBackend) and tokenizer.add_bos_token


def test_same_ids_as_sentencepiece(model_file: str) -> None:
    """Random texts, from single characters to whole pieces.

    Left out are NUL (see ``read_sentencepiece``) and names of special tokens, which sentencepiece alone does not know.
    """
    reference = sentencepiece.SentencePieceProcessor(model_file=model_file)
    tokenizer = released_tokenizer()
    pieces = [reference.id_to_piece(i).replace("\u2581", " ") for i in range(259, reference.get_piece_size())]
    piece = st.sampled_from([text for text in pieces if "\0" not in text])
    repeated = st.tuples(st.sampled_from([" ", "a", "=", "-", "x", "\n", "aa", "1", "的", "\u2581"]), st.integers(1, 9))
    anything = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
    part = st.one_of(piece, repeated.map(lambda pair: pair[0] * pair[1]), anything)

    @settings(max_examples=600)
    @given(st.lists(part, max_size=12).map("".join))
    def check(text: str) -> None:
        assume(not any(name in text for name in ("<unk>", "<s>", "</s>", *CHAT_MARKERS)))
        assert tokenizer.encode_pieces(text).ids == reference.encode(text)

    check()
