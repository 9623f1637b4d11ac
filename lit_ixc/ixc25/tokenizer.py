"""IXC-2.5's tokenizer: the released SentencePiece model exactly, or a small one trained on a corpus.

Both are a Hugging Face ``tokenizers`` backend in one ``tokenizer.json``, so saving, loading and batching are those of
transformers. Section 1 of the architecture notes lists the special pieces and ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2 as spm_proto
from tokenizers import AddedToken, Encoding, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers.tokenization_utils_tokenizers import TokenizersBackend

UNK, BOS, EOS = "<unk>", "<s>", "</s>"
IMAGE_TOKEN = "[UNUSED_TOKEN_129]"
REWARD_TOKEN = "[UNUSED_TOKEN_130]"
END_OF_TURN = "[UNUSED_TOKEN_145]"
START_OF_TURN = "[UNUSED_TOKEN_146]"
# The release adds six names behind its 92544 pieces. Their order among the ids 92544..92549 is an assumption
# (section 1); an added_tokens.json beside the model decides where there is one.
CHAT_MARKERS = ("<|im_start|>", "<|im_end|>", "<|action_start|>", "<|action_end|>", "<|interpreter|>", "<|plugin|>")

_SPECIAL = (UNK, BOS, EOS, REWARD_TOKEN, END_OF_TURN, START_OF_TURN, IMAGE_TOKEN)
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # SentencePiece's types of a piece
_SPACE = "\u2581"  # how SentencePiece writes a space


class IXC25Tokenizer(TokenizersBackend):
    """Tokenizer of IXC-2.5; ``tokenizer(text)`` puts ``<s>`` in front unless ``add_special_tokens=False``.

    ``from_pretrained`` reads a directory with this class's ``tokenizer.json`` or with the released ``tokenizer.model``.
    A token whose id is ``vocab_size`` or more (the six chat markers of the release) has no row in the embedding.
    """

    model_input_names = ["input_ids", "attention_mask"]

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Constructor arguments from the files of a directory; transformers calls it in ``from_pretrained``."""
        if kwargs.get("tokenizer_file") is None and kwargs.get("vocab_file") is not None:
            added = kwargs.pop("added_tokens_decoder", None) or {}
            path = Path(kwargs.pop("vocab_file"))
            names = [str(token) for _, token in sorted(added.items()) if str(token) not in _SPECIAL]
            kwargs |= {"tokenizer_object": read_sentencepiece(path, names or CHAT_MARKERS), **_arguments()}
            return kwargs
        return super().convert_to_native_format(trust_remote_code=trust_remote_code, **kwargs)

    @property
    def image_token_id(self) -> int:
        """Id that stands at visual positions."""
        return self._id(IMAGE_TOKEN)

    @property
    def reward_token_id(self) -> int:
        """Id of the token at which the released reward model reads the score (92527 there)."""
        return self._id(REWARD_TOKEN)

    @property
    def end_of_turn_id(self) -> int:
        """Id that ends a turn (92542 in the release)."""
        return self._id(END_OF_TURN)

    @property
    def start_of_turn_id(self) -> int:
        """Id that starts a turn (92543 in the release)."""
        return self._id(START_OF_TURN)

    @property
    def stop_ids(self) -> list[int]:
        """Ids at which generation stops: ``</s>`` and the end of turn."""
        return [self._id(EOS), self.end_of_turn_id]

    def encode_pieces(self, text: str) -> Encoding:
        """A text's ids and character offsets, without ``<s>`` in front and whole.

        A call of the tokenizer with truncation or padding leaves these set in the backend; they do not act here.
        """
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _id(self, token: str) -> int:
        index = self._tokenizer.token_to_id(token)
        if index is None:
            raise ValueError(f"{self.name_or_path or 'the tokenizer'} has no piece {token}: it is not one of IXC-2.5")
        return index


def _arguments() -> dict[str, Any]:
    return {
        "unk_token": UNK,
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "add_bos_token": True,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
    }


def read_sentencepiece(path: str | Path, markers: Iterable[str] = CHAT_MARKERS) -> Tokenizer:
    """The released ``tokenizer.model`` as a ``tokenizers`` backend that gives the same ids.

    SentencePiece merges the neighbours whose union has the best score, the leftmost first; the merges are listed in
    that order. The one text on which the backend differs from sentencepiece 0.2 is a NUL character: it stays piece 354,
    as in sentencepiece 0.1.99, where 0.2 writes it as a byte.

    Args:
        path: A SentencePiece BPE model with byte fallback, identity normaliser and no dummy prefix.
        markers: Special tokens to add behind its pieces.

    Raises:
        ValueError: The file is no such model.
    """
    proto = spm_proto.ModelProto()  # type: ignore[attr-defined]
    try:
        proto.ParseFromString(Path(path).read_bytes())
    except DecodeError as error:
        raise ValueError(f"{path}: not a SentencePiece model ({error})") from error
    bpe = spm_proto.TrainerSpec.BPE  # type: ignore[attr-defined]
    spec = proto.normalizer_spec
    if proto.trainer_spec.model_type != bpe or not proto.trainer_spec.byte_fallback or spec.add_dummy_prefix:
        raise ValueError(f"{path}: need a BPE model with byte fallback and without dummy prefix")
    vocab = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    normal = {piece.piece for piece in proto.pieces if piece.type == _NORMAL}
    merges = [
        (-piece.score, cut, (piece.piece[:cut], piece.piece[cut:]))
        for piece in proto.pieces
        if piece.type == _NORMAL
        for cut in range(1, len(piece.piece))
        if piece.piece[:cut] in normal and piece.piece[cut:] in normal
    ]
    merges.sort(key=lambda merge: merge[:2])
    tokenizer = Tokenizer(
        BPE(vocab=vocab, merges=[pair for _, _, pair in merges], unk_token=UNK, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(_added([UNK, *(p.piece for p in proto.pieces if p.type == _CONTROL)]))
    tokenizer.add_tokens(_added([p.piece for p in proto.pieces if p.type == _USER_DEFINED and p.piece not in _SPECIAL]))
    tokenizer.add_special_tokens(_added([token for token in _SPECIAL if token in vocab]))
    tokenizer.add_special_tokens(_added(markers))
    return tokenizer


def _added(tokens: Iterable[str]) -> list[AddedToken]:
    return [AddedToken(token, normalized=False) for token in tokens]


def load_released(path: str | Path) -> IXC25Tokenizer:
    """The tokenizer of one released ``tokenizer.model`` file.

    Raises:
        ValueError: The file is not a SentencePiece BPE model.
    """
    return IXC25Tokenizer(tokenizer_object=read_sentencepiece(path), **_arguments())


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> IXC25Tokenizer:
    """Train a small byte-level BPE tokenizer with IXC-2.5's special pieces.

    Digits stand alone, as in the release, and no text is unknown or changed: decoding gives back what was encoded.
    The same texts give the same tokenizer.

    Args:
        texts: The corpus.
        vocab_size: Pieces of the tokenizer, at least 263: seven special ones and 256 bytes. A small corpus may give
            fewer.

    Raises:
        ValueError: ``vocab_size`` is too small.
    """
    smallest = len(_SPECIAL) + 256
    if vocab_size < smallest:
        raise ValueError(f"vocab_size = {vocab_size}: give at least {smallest}")
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=_added(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return IXC25Tokenizer(tokenizer_object=tokenizer, **_arguments())
