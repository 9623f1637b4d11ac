"""Scores of a trained reward model, from the folder that its training exported."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import isabstract, signature
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lit_ixc import heads
from lit_ixc.backbone import Attention, BackboneSource, Dtype, Pretrained, family_of, hidden_states, refusal
from lit_ixc.batch import ConversationProcessor, EncodedComparison, EncodedMedia, EncodedSequence
from lit_ixc.heads import LastToken, LinearHead, Pooling, RewardHead
from lit_ixc.layout import collate, shared_prefix_length
from lit_ixc.processors import SavedProcessor
from lit_ixc.records import Comparison, RecordError, UserError

log = logging.getLogger(__name__)

WEIGHTS, DESCRIPTION = "reward_head.safetensors", "reward_head.json"
HeadFactory = Callable[[int], RewardHead]


class RewardScorer:
    """Scores the responses of comparisons; each prompt with its images is computed once for all of them.

    Args:
        model: The backbone.
        head: The reward head.
        processor: The reward model's own.
        max_length: Longest sequence in tokens, the prompt included; None: the model's window.
        batch_tokens: Most tokens of one forward pass. A prompt with one response that has more stands alone.
        attention: How the decoder attends over prefix trees.

    Raises:
        UserError: A number is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        head: RewardHead,
        processor: ConversationProcessor,
        max_length: int | None = None,
        batch_tokens: int = 16384,
        attention: Attention = "auto",
    ) -> None:
        for name, value in (("max_length", max_length), ("batch_tokens", batch_tokens)):
            if value is not None and value < 1:
                raise UserError(f"{name} = {value}: choose a positive number of tokens")
        self.model, self.head, self.processor = model, head, processor
        self.batch_tokens, self.attention = batch_tokens, attention
        limits = [limit for limit in (max_length, window(model)) if limit is not None]
        self.max_length = min(limits) if limits else None

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: torch.device | str | None = None,
        dtype: Dtype = "float32",
        head: HeadFactory | None = None,
        backbone: BackboneSource | None = None,
        processor: ConversationProcessor | None = None,
        **options: Any,
    ) -> RewardScorer:
        """The reward model in the export folder of a ``RewardModule``, in evaluation mode and frozen.

        Args:
            path: The folder.
            device: Where it runs; the CPU if None.
            dtype: Floating-point type of the backbone read from the folder, and of the head.
            head: Makes the head of a hidden size, for classes that are not of ``lit_ixc.heads``.
            backbone: Where the backbone comes from; the folder if None.
            processor: The model's processor; that in the folder if None.
            options: ``max_length``, ``batch_tokens`` and ``attention`` of the scorer.

        Raises:
            UserError: Something is missing in the folder, or the head does not fit the backbone.
        """
        _need_folder(path)
        model = (backbone or Pretrained(str(path), dtype)).load(lm_head=False)
        built = load_head(path, model.get_input_embeddings().weight.shape[1], head)
        if processor is None:
            processor = saved_processor(path)
        for module in (model, built):
            module.to(device or "cpu").eval().requires_grad_(False)
        return cls(model, built.to(next(model.parameters()).dtype), processor, **options)

    def scores(self, comparisons: Sequence[Comparison]) -> list[list[float] | RecordError]:
        """The scores of each comparison's K responses, or why it has none; in order."""
        found: list[list[float] | RecordError] = []
        for comparison, outcomes in zip(comparisons, self.score_responses(comparisons), strict=True):
            errors = ((k, one) for k, one in enumerate(outcomes) if isinstance(one, RecordError))
            k, error = next(errors, (0, None))
            found.append(cast(list[float], outcomes) if error is None else error.at(f"{comparison.id}: response {k}"))
        return found

    def score_responses(
        self, comparisons: Sequence[Comparison], media: Sequence[EncodedMedia | None] | None = None
    ) -> list[list[float | RecordError]]:
        """The score of each response, or why it has none: a response that cannot be scored takes no other with it.

        Args:
            comparisons: What is scored.
            media: What the processor's ``encode_media`` gives for each prompt, where that is known.

        Returns:
            Of each comparison K outcomes. Reasons are those of the processor, ``too_long`` and ``not_finite``.
        """
        found: list[list[float | RecordError]] = []
        batch: list[_Piece] = []
        for number, comparison in enumerate(comparisons):
            outcomes, pieces = self._encode(number, comparison, None if media is None else media[number])
            found.append(outcomes)
            for piece in pieces:
                if batch and sum(one.tokens for one in batch) + piece.tokens > self.batch_tokens:
                    self._score(batch, found)
                    batch = []
                batch.append(piece)
        if batch:
            self._score(batch, found)
        return found

    def _encode(
        self, number: int, comparison: Comparison, media: EncodedMedia | None
    ) -> tuple[list[float | RecordError], list[_Piece]]:
        """Outcomes of the responses, NaN where there is none yet, and the responses that are to be computed."""
        outcomes: list[float | RecordError] = [math.nan] * len(comparison.responses)
        try:
            if media is None:
                media = self.processor.encode_media(comparison.prompt.media)
        except RecordError as error:
            return [error] * len(outcomes), []
        sequences: dict[int, EncodedSequence] = {}
        for k, response in enumerate(comparison.responses):
            try:
                one = self.processor.encode_conversation(comparison.prompt, response, media, "reward")
                if self.max_length is not None and len(one.ids) > self.max_length:
                    remedy = f"the reward model takes {self.max_length}; shorten it, or raise max_length where that is"
                    raise RecordError("too_long", "sequence", f"{len(one.ids)} tokens", remedy)
                sequences[k] = one
            except RecordError as error:
                outcomes[k] = error
        groups = _split(sequences, self.batch_tokens)
        if len(groups) > 1:
            media = self._with_features(media)
        return outcomes, [_piece(number, comparison, group, media) for group in groups]

    def _with_features(self, media: EncodedMedia) -> EncodedMedia:
        """The media with their features, so that several forward passes encode them once."""
        if not media.lengths or media.features is not None or refusal(self.model) is not None:
            return media
        tensors = media.map(lambda tensor: tensor.to(self._device)).tensors
        with torch.no_grad(), evaluating(self.model):
            return media._replace(features=family_of(self.model).features(self.model, tensors))

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _score(self, pieces: Sequence[_Piece], found: list[list[float | RecordError]]) -> None:
        """One forward pass; its scores go to their places in ``found``."""
        room = sum(piece.tokens for piece in pieces)  # one row without padding
        batch = collate([piece.encoded for piece in pieces], self.processor.pad_token_id, row_tokens=room)
        batch = batch.to(self._device)
        with torch.no_grad(), evaluating(self.model, self.head):
            scores = self.head(hidden_states(self.model, batch, attention=self.attention), batch).tolist()
        for piece, row in zip(pieces, scores, strict=True):
            for k, score in zip(piece.responses, row, strict=False):  # a row is as long as the longest
                remedy = "the model overflows; load it as bfloat16 or float32, or look for NaN among its weights"
                outcome = score if math.isfinite(score) else RecordError("not_finite", "score", score, remedy)
                found[piece.comparison][k] = outcome


class _Piece(NamedTuple):
    """Responses of one comparison that are computed together: its number, theirs, and the tokens of the tree."""

    comparison: int
    responses: tuple[int, ...]
    encoded: EncodedComparison
    tokens: int


def _split(sequences: dict[int, EncodedSequence], room: int) -> list[dict[int, EncodedSequence]]:
    """Responses in groups of at most ``room`` tokens, as if the prompt were all that they share; one at least."""
    groups: list[dict[int, EncodedSequence]] = []
    used = 0
    for k, sequence in sequences.items():
        own = len(sequence.ids) - sequence.response_start
        if not groups or used + own > room:
            groups.append({})
            used = sequence.response_start
        groups[-1][k] = sequence
        used += own
    return groups


def _piece(number: int, comparison: Comparison, sequences: dict[int, EncodedSequence], media: EncodedMedia) -> _Piece:
    rows = list(sequences.values())
    encoded = EncodedComparison(
        id=comparison.id,
        domain=comparison.domain,
        source=comparison.source,
        modality=comparison.modality,
        sequences=rows,
        media=media,
        ranks=(0,) * len(rows),
        scores=None,
        lengths=tuple(len(comparison.response_text(k)) for k in sequences),
    )
    shared = shared_prefix_length(rows)
    return _Piece(number, tuple(sequences), encoded, shared + sum(len(row.ids) - shared for row in rows))


def window(model: nn.Module) -> int | None:
    """Tokens of the longest sequence that a model takes; None where its positions are scaled to any length."""
    if family_of(model).longest_tree(model) is not None:
        return None
    return getattr(cast(Any, model).config.get_text_config(), "max_position_embeddings", None)


def saved_processor(path: str | Path) -> ConversationProcessor:
    """The processor in an export folder, read now.

    Raises:
        UserError: There is none.
    """
    found = cast(ConversationProcessor, SavedProcessor(str(path)))
    _ = found.pad_token_id
    return found


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and each part in the mode that it had afterwards."""
    training = [part for module in modules for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def save_head(head: RewardHead, folder: Path) -> None:
    """Write a head's weights, and which head it is: classes and their arguments."""
    tensors = {name: tensor.contiguous() for name, tensor in head.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    parts: dict[str, RewardHead | Pooling] = {"head": head, "pooling": head.pooling}
    described = {name: {"class": _name(part), "arguments": part.arguments()} for name, part in parts.items()}
    (folder / DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n")


def load_head(path: str | Path, hidden_size: int, head: HeadFactory | None = None) -> RewardHead:
    """The reward head in a folder that a ``RewardModule`` exported.

    A folder names classes of ``lit_ixc.heads`` alone: it cannot choose what code runs.

    Args:
        path: The folder.
        hidden_size: Width of the backbone that the head stands on.
        head: Makes the head of a hidden size; None: as the folder says. Exports that do not say it hold a linear head
            on the last token, if their weights are of that shape.

    Raises:
        UserError: There is no head, its class is not known here, or it does not fit the backbone.
    """
    folder = _need_folder(path)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"reward model path = {path}: no {WEIGHTS} there; give the export folder of a reward model")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"reward model path = {path}: {WEIGHTS} cannot be read ({error}); export it anew") from error
    if head is None and not (folder / DESCRIPTION).is_file():
        if set(tensors) != {"v_head.weight"}:
            raise UserError(
                f"reward model path = {path}: no {DESCRIPTION} says which head has the weights "
                f"{', '.join(sorted(tensors))}; give head by class path, or export the model anew"
            )
        log.warning("%s has no %s: taken for a linear head on the last token", path, DESCRIPTION)
        head = _linear
    built = head(hidden_size) if head is not None else _described(folder / DESCRIPTION, hidden_size)
    _fill(built, tensors, path, hidden_size)
    return built.eval()


def _linear(hidden_size: int) -> RewardHead:
    return LinearHead(hidden_size, LastToken())


def _need_folder(path: str | Path) -> Path:
    if not Path(path).is_dir():
        raise UserError(f"reward model path = {path}: no such folder; give the export folder of a reward model")
    return Path(path)


def _name(part: nn.Module) -> str:
    """Name of a class of ``lit_ixc.heads``; of others the module too."""
    kind = type(part)
    return kind.__name__ if kind.__module__ == heads.__name__ else f"{kind.__module__}.{kind.__qualname__}"


def _described(file: Path, hidden_size: int) -> RewardHead:
    try:
        described = json.loads(file.read_text())
        pooling = _class(file, described["pooling"]["class"], Pooling)(**described["pooling"]["arguments"])
        kind, arguments = _class(file, described["head"]["class"], RewardHead), described["head"]["arguments"]
        signature(kind).bind(hidden_size, pooling, **arguments)
        return cast(RewardHead, kind(hidden_size, pooling, **arguments))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{file}: it describes no reward head ({error}); give head by class path") from error


def _class(file: Path, name: object, base: type) -> type:
    kind = vars(heads).get(name) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, base) and not isabstract(kind)):
        raise UserError(f"{file}: {name} is no class of {heads.__name__}; give head by class path")
    return kind


def _fill(head: RewardHead, tensors: dict[str, Tensor], path: str | Path, hidden_size: int) -> None:
    own = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if own != found:
        raise UserError(
            f"reward model path = {path}: its head has the weights {found}, a {type(head).__name__} on this backbone "
            f"(hidden size {hidden_size}) needs {own}; give the head and the backbone that were trained together"
        )
    head.load_state_dict(tensors)
