"""Keys and values of tokens that are computed already, in memory that is claimed ahead of its use.

Shapes: B sequences, m key/value heads, S tokens, d width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

_AHEAD = 64  # tokens


class RoomyLayer(DynamicLayer):
    """A layer's keys and values (B, m, S, d), where a decoding step writes one column and copies nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self._rooms: list[Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take up the keys and values of new tokens.

        Returns:
            Those of all tokens: views of memory that later tokens do not change.
        """
        past = self.get_seq_length()
        if past == 0:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        end = past + key_states.shape[-2]
        if self._rooms is None or self._rooms[0].shape[-2] < end:
            self._rooms = [_room(known, end + _AHEAD) for known in (self.keys, self.values)]
        keys, values = self._rooms
        keys[:, :, past:end], values[:, :, past:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence."""
        super().batch_repeat_interleave(repeats)
        self._rooms = None

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some sequences."""
        super().batch_select_indices(indices)
        self._rooms = None


def empty_cache(config: PreTrainedConfig) -> Cache:
    """A cache for a decoder; layers of a kind of their own (sliding windows) are those of transformers."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _room(known: Tensor, tokens: int) -> Tensor:
    """Memory for so many tokens that begins with those known."""
    room = torch.empty(*known.shape[:2], tokens, known.shape[-1], dtype=known.dtype, device=known.device)
    room[:, :, : known.shape[-2]] = known
    return room
