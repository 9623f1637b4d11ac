"""A model of this package that answers prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from lit_ixc.backbone import BackboneSource
from lit_ixc.batch import ChatProcessor
from lit_ixc.decoding import Decoding, check_decoding
from lit_ixc.generation import sample
from lit_ixc.pairing.cases import NoPair, Policy, Sampling
from lit_ixc.records import Prompt, RecordError, UserError

_BLOCKS, _BLOCK = 16, 65536


class ModelPolicy(Policy):
    """A model that answers prompts, loaded when the first one comes.

    Args:
        backbone: Where the weights come from.
        processor: The model's processor.
        temperature, top_p, top_k, max_new_tokens, max_prompt_tokens: As in ``lit_ixc.decoding.Decoding``.
        prompts_per_batch: Prompts answered together, each as often as the run asks.
        device: Where the model runs; null for a GPU if there is one.

    Raises:
        UserError: An option is out of range.
    """

    def __init__(
        self,
        backbone: BackboneSource,
        processor: ChatProcessor,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 1024,
        max_prompt_tokens: int | None = None,
        prompts_per_batch: int = 4,
        device: str | None = None,
    ) -> None:
        self.backbone, self.processor = backbone, processor
        self.decoding = Decoding(temperature, top_p, top_k, max_new_tokens, max_prompt_tokens)
        check_decoding(self.decoding, n=1)
        if prompts_per_batch < 1:
            raise UserError(f"prompts_per_batch = {prompts_per_batch}: give at least 1")
        self.prompts_per_batch = prompts_per_batch
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model itself."""
        return self.backbone.load(lm_head=True).to(self.device).eval()

    def release(self) -> None:
        """Free the model's memory; it is loaded again when it is needed."""
        self.__dict__.pop("model", None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def describe(self) -> dict[str, Any]:
        """Model and sampling settings."""
        return {"model": _name(self.backbone), **self.decoding._asdict()}

    def fingerprint(self) -> dict[str, Any]:
        """Digests of the model's and the processor's files: a folder may be written anew by another training."""
        folders = {"backbone": getattr(self.backbone, "path", None), "processor": getattr(self.processor, "path", None)}
        return {name: _files(Path(folder)) for name, folder in folders.items() if folder is not None}

    def sample(self, prompts: Sequence[tuple[str, Prompt]], n: int, seed: int) -> list[Sampling]:
        """See ``Policy``."""
        check_decoding(self.decoding, n)
        answers = sample(self.model, self.processor, prompts, n, self.decoding, seed)
        return [
            Sampling([], NoPair(one.reason, str(one)))
            if isinstance(one, RecordError)
            else Sampling([sampled._asdict() for sampled in one])
            for one in answers
        ]


def _name(backbone: BackboneSource) -> str:
    """The folder of a model, or the class and a digest of its arguments."""
    path = getattr(backbone, "path", None)
    if path is not None:
        return str(path)
    arguments = repr(sorted((name, str(value)) for name, value in vars(backbone).items()))
    return f"{type(backbone).__name__}-{hashlib.sha256(arguments.encode()).hexdigest()[:8]}"


def _files(folder: Path) -> dict[str, str]:
    """A digest of each file in a folder."""
    return {path.name: _digest(path) for path in sorted(folder.glob("*")) if path.is_file()}


def _digest(path: Path) -> str:
    """Digest of a file's size and of blocks spread over it: gigabytes of weights would take too long to read whole."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in sorted({max(0, size - _BLOCK) * k // (_BLOCKS - 1) for k in range(_BLOCKS)}):
            file.seek(start)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]
