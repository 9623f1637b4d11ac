"""The trained tokenizer, and the reading of SentencePiece models on one that the test trains."""

import io
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from lit_ixc.ixc25.tokenizer import IXC25Tokenizer, load_released, read_sentencepiece, train_tokenizer

CORPUS = [f"What is {i} plus {i + 1}? The answer is {2 * i + 1}.\n" for i in range(200)]
TOKENIZER = train_tokenizer(CORPUS, 280)


def test_special_pieces_come_first() -> None:
    names = ["<unk>", "<s>", "</s>", *(f"[UNUSED_TOKEN_{i}]" for i in (130, 145, 146, 129))]
    assert TOKENIZER.convert_ids_to_tokens(range(7)) == names
    assert (TOKENIZER.reward_token_id, TOKENIZER.end_of_turn_id) == (3, 4)
    assert (TOKENIZER.start_of_turn_id, TOKENIZER.image_token_id) == (5, 6)
    assert (TOKENIZER.bos_token_id, TOKENIZER.pad_token_id, TOKENIZER.stop_ids) == (1, 2, [2, 4])
    assert TOKENIZER.vocab_size == len(TOKENIZER) == 280
    assert TOKENIZER.encode_pieces("a</s>[UNUSED_TOKEN_130]").ids[-2:] == [2, 3]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_text_is_lost(text: str) -> None:
    """Also white space, control characters, and SentencePiece's mark for a space."""
    ids = TOKENIZER.encode_pieces(text).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text
    assert TOKENIZER.unk_token_id not in ids or "<unk>" in text


def test_digits_stand_alone() -> None:
    """However often a number occurs."""
    tokenizer = train_tokenizer(["2024 2024 2024"] * 50, 300)
    assert [tokenizer.decode([i]) for i in tokenizer.encode_pieces("2024 201").ids] == [*"2024", " ", *"201"]


def test_training_is_deterministic() -> None:
    again = train_tokenizer(iter(CORPUS), 280)
    assert again.get_vocab() == TOKENIZER.get_vocab()
    assert again.encode_pieces(CORPUS[7]).ids == TOKENIZER.encode_pieces(CORPUS[7]).ids
    assert len(TOKENIZER.encode_pieces(CORPUS[7]).ids) < len(CORPUS[7]) / 2  # it did learn merges


def test_small_corpus_gives_fewer_pieces() -> None:
    assert train_tokenizer(["ab"], 1000).vocab_size == 7 + 256 + 1  # one merge: ab


def test_vocabulary_below_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size = 262: give at least 263"):
        train_tokenizer(CORPUS, 262)


def test_saved_and_loaded(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = IXC25Tokenizer.from_pretrained(tmp_path)
    for text in (*CORPUS[:3], " two  spaces \n", "</s>x"):
        assert loaded(text)["input_ids"] == TOKENIZER(text)["input_ids"]
    assert loaded(CORPUS[0])["input_ids"][0] == 1
    assert loaded.padding_side == "left" and loaded.pad_token_id == 2 and loaded.image_token_id == 6


def test_truncation_of_a_call_does_not_linger() -> None:
    whole = TOKENIZER.encode_pieces(CORPUS[0]).ids
    assert len(TOKENIZER(CORPUS[0], truncation=True, max_length=3, padding="max_length")["input_ids"]) == 3
    assert TOKENIZER.encode_pieces(CORPUS[0]).ids == whole


def sentencepiece_model(**options: object) -> bytes:
    """A model with the release's options, small."""
    buffer = io.BytesIO()
    defaults = {
        "model_type": "bpe",
        "vocab_size": 300,
        "hard_vocab_limit": False,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "user_defined_symbols": [f"[UNUSED_TOKEN_{i}]" for i in (129, 130, 145, 146)],
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=buffer, **{**defaults, **options}
    )
    return buffer.getvalue()


def test_sentencepiece_model_is_read_exactly(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model())
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    for tokenizer in (load_released(path), IXC25Tokenizer.from_pretrained(tmp_path)):
        for text in (*CORPUS, "  aaa  \n\n", "swans wait; é 👩", "a[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]b"):
            ids = reference.encode(text)
            assert tokenizer.encode_pieces(text).ids == ids
            assert tokenizer(text)["input_ids"] == [1, *ids]
            assert tokenizer.decode(ids, skip_special_tokens=False) == text
        assert tokenizer.encode_pieces("a</s><s>").ids == [reference.piece_to_id("a"), 2, 1]
        assert tokenizer.convert_tokens_to_ids("<|im_start|>") == reference.get_piece_size()


@pytest.mark.parametrize("options", [{"model_type": "unigram"}, {"add_dummy_prefix": True}, {"byte_fallback": False}])
def test_other_sentencepiece_models_are_refused(options: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "other.model"
    path.write_bytes(sentencepiece_model(**options))
    with pytest.raises(ValueError, match="other.model: need a BPE model"):
        read_sentencepiece(path)


def test_no_sentencepiece_model(tmp_path: Path) -> None:
    path = tmp_path / "notes.model"
    path.write_bytes(b"some text")
    with pytest.raises(ValueError, match="notes.model: not a SentencePiece model"):
        read_sentencepiece(path)
