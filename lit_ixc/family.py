"""What the training modules need to know of a model family: IXC-2.5, and the native models of transformers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.cache_utils import Cache

from lit_ixc.batch import ComparisonBatch


class Parts(NamedTuple):
    """The parts of a model without its language-model head; each parameter belongs to one of them.

    Args:
        decoder: The language model's decoder with its token embedding.
        vision: Parameters of the vision tower.
        projector: Parameters between the tower and the decoder, separator and newline vectors included.
    """

    decoder: nn.Module
    vision: tuple[nn.Parameter, ...]
    projector: tuple[nn.Parameter, ...]


def linear_layers(decoder: nn.Module) -> tuple[str, ...]:
    """Names of a decoder's linear layers in order, without the path to them."""
    modules = decoder.named_modules()
    return tuple(sorted({name.rpartition(".")[2] for name, module in modules if isinstance(module, nn.Linear)}))


class Family(ABC):
    """How a family of models is read.

    Shapes: B rows, T tokens, H width of the decoder, S sequences of at most L tokens, N visual tokens.
    """

    @abstractmethod
    def parts(self, model: nn.Module) -> Parts:
        """The parts of a model."""

    def lora_targets(self, model: nn.Module) -> tuple[str, ...]:
        """Names of the decoder's linear layers that get adapters, without the path to them; all by default."""
        return linear_layers(self.parts(model).decoder)

    @abstractmethod
    def features(self, model: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
        """Encode images and videos.

        Args:
            tensors: What the processor's ``encode_media`` gave, of one prompt or of several joined along dimension 0.
                Tensors of whole numbers may be on the host.

        Returns:
            (N, F) what stands at the visual positions, in reading order. F is H, or a multiple of it where deeper
            layers of the decoder get features too.
        """

    @abstractmethod
    def decode(self, model: nn.Module, batch: ComparisonBatch, features: Tensor | None, **attention: Any) -> Tensor:
        """Hidden states (B, T, H) after the final norm.

        Args:
            features: What :meth:`features` gave for the media of the batch.
            attention: ``attention_mask`` and, for a tree kernel, ``tree``, handed on to the decoder.
        """

    @abstractmethod
    def step(
        self,
        model: nn.Module,
        ids: Tensor,
        position: Tensor,
        attention_mask: Tensor | None,
        cache: Cache,
        visual_rows: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, H) after the final norm of tokens whose predecessors are in a cache; it takes them up.

        Args:
            ids: (B, T) the prompts, padded on the left, into an empty cache; then the next token of each.
            position: (B, T), or (A, B, T) on several axes.
            attention_mask: (B, S) 1 at tokens, those in the cache included; or (B, 1, T, S), True where attended to;
                None where no sequence is padded.
            cache: Keys and values.
            visual_rows: (N,) flat columns (of ``B * T``) of the visual tokens, sequence by sequence; None without.
            features: What :meth:`features` gave for them.
        """

    @abstractmethod
    def separate(self, model: nn.Module, ids: Tensor, attention_mask: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """Hidden states (S, L, H) of plain sequences, by the model's own forward pass: no tree, nothing shared.

        Args:
            ids: (S, L) tokens, padded on the right.
            attention_mask: (S, L) 1 at tokens.
            tensors: The media of every sequence, those of equal prompts repeated.
        """

    def refusal(self, model: nn.Module) -> str | None:
        """Why a model cannot run prefix trees; None if it can."""
        return None

    def longest_tree(self, model: nn.Module) -> int | None:
        """Tokens of the longest sequence that a tree may hold; None: any."""
        return None

    @abstractmethod
    def window(self, model: nn.Module) -> int | None:
        """Positions that a sequence may have, prompt and answer together; None: any number."""
