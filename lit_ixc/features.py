"""What a frozen vision encoder gives is a constant of the picture: it is computed once, for all epochs and runs.

A :class:`CachingProcessor` finds features before a picture is decoded, and :func:`features_of` computes and stores what
was not found. The key of an entry is a hash of the media of one prompt and of their preprocessing; its namespace
(:func:`vision_fingerprint`) is a hash of the weights and of what else decides the numbers. Nothing is invalidated: what
changed has another name, and old entries go when their room is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lit_ixc.batch import ConversationProcessor, EncodedMedia, EncodedSequence, Ending
from lit_ixc.feature_store import FORMAT, Entry, FeatureStore, framed, pieces
from lit_ixc.records import MediaPart, Message, Prompt

_DIGEST_BYTES = 20  # 40 hexadecimal digits, as the store's keys have


class CacheableProcessor(ConversationProcessor, Protocol):
    """A processor that can say what its preprocessing depends on.

    Attributes:
        media_settings: JSON of everything besides the media that decides what ``encode_media`` gives.
    """

    @property
    def media_settings(self) -> str: ...


class CachingProcessor:
    """A processor that looks for features before it decodes a picture; all else is the processor's.

    Args:
        processor: The model family's processor.
        store: Where the features are.
    """

    def __init__(self, processor: CacheableProcessor, store: FeatureStore) -> None:
        self.processor, self.store = processor, store
        self._settings = processor.media_settings

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "processor":  # asked for while an object is copied, before it has any
            raise AttributeError(name)
        return getattr(self.processor, name)

    def encode_media(self, media: Sequence[MediaPart]) -> EncodedMedia:
        """Features with lengths and integer inputs where they are known, else the preprocessed media under their key.

        Raises:
            RecordError: One cannot be decoded.
        """
        if not media:
            return self.processor.encode_media(media)
        key = media_key(media, self._settings)
        entry = self.store.get(key)
        if entry is None:
            return self.processor.encode_media(media)._replace(key=key)
        return EncodedMedia(entry.lengths, entry.integers, key, entry.features)

    def encode_conversation(
        self, prompt: Prompt, response: Sequence[Message], media: EncodedMedia, ending: Ending
    ) -> EncodedSequence:
        """See ``ConversationProcessor``."""
        return self.processor.encode_conversation(prompt, response, media, ending)

    def save_pretrained(self, folder: Path) -> Any:
        """Write the processor; the cache is no part of it."""
        return self.processor.save_pretrained(folder)


def features_of(
    media: EncodedMedia,
    compute: Callable[[dict[str, Tensor]], Tensor],
    store: FeatureStore | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Features of the media of one prompt, (sum(lengths), F): given, found in the store, or computed and stored.

    A loader fetches ahead, so media may come without features although an earlier batch has stored them since: the
    store is asked again before anything is computed.

    Args:
        media: Of ``CachingProcessor.encode_media``, or of a plain processor.
        compute: Gives the features from the media's tensors.
        store: Where to look and to store; None: nowhere.
        device: Where found features go; None: they stay where they are, the store's on the CPU.

    Raises:
        ValueError: What is to be stored has a gradient, so that it is no constant, or does not fit the lengths.
    """
    found = media.features
    if found is None and store is not None and media.key and (entry := store.get(media.key)) is not None:
        found = entry.features
    if found is not None:
        return found if device is None else found.to(device, non_blocking=True)
    if store is None or not media.key:
        return compute(media.tensors)
    features = compute(media.tensors)
    if features.requires_grad:
        raise ValueError("features with a gradient cannot be stored: freeze vision and projector")
    if len(features) != sum(media.lengths):
        raise ValueError(f"{len(features)} features for {sum(media.lengths)} visual tokens")
    integers = {name: tensor for name, tensor in media.tensors.items() if tensor.dtype in (torch.int64, torch.int32)}
    # This copy waits for the device. It happens once for each picture, after a pass of the encoder that costs far more.
    # A copy, also on the CPU: a part of a larger tensor would keep all of it in memory.
    with torch.inference_mode(False):  # or what validation stores could not be used in training
        kept = {name: _copy(tensor) for name, tensor in integers.items()}
        stored = Entry(_copy(features), tuple(map(int, media.lengths)), kept)
    store.put(media.key, stored)
    return features


def media_key(media: Sequence[MediaPart], settings: str) -> str:
    """Hash (40 hexadecimal digits) of the ordered media of a prompt and of their preprocessing.

    Kind and bytes of each count. Names do not: preprocessing uses them in messages alone.

    Args:
        media: Images and videos.
        settings: As of ``CacheableProcessor.media_settings``.
    """
    digest = hashlib.blake2b(framed(settings), digest_size=_DIGEST_BYTES)
    for part in media:
        digest.update(framed(f"{type(part).__name__} {len(part.data)}"))
        digest.update(part.data)
    return digest.hexdigest()


def vision_fingerprint(parameters: Iterable[tuple[str, Tensor]], *facts: str) -> str:
    """Hash (40 hexadecimal digits) of all that features depend on besides the media: the namespace of a store.

    Args:
        parameters: Names and weights of vision tower and projector, in order.
        facts: What else decides the numbers: precision, attention implementation, classes, versions, device.
    """
    digest = hashlib.blake2b(framed(FORMAT), digest_size=_DIGEST_BYTES)
    for fact in facts:
        digest.update(framed(fact))
    for name, tensor in parameters:
        for piece in pieces(name, tensor):
            digest.update(piece)
    return digest.hexdigest()


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
