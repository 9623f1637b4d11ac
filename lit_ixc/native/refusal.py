"""Which models of transformers cannot run prefix trees, and why.

A prefix tree is exact where every layer is full causal attention that takes its positions from ``position_ids`` and its
mask from an attention function that can be exchanged. What a configuration and a signature tell is asked first; then
the decoder runs on two tokens without weights, to see that each of its layers calls that function.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

_PROBE = "lit_ixc_probe"  # the name of the attention function that counts
_WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
_OF_THE_BATCH = ("dynamic", "longrope")  # kinds of rotary angles that depend on the longest sequence of a batch


def refusal(base: PreTrainedModel, decoder: nn.Module) -> str | None:
    """Why the model cannot run prefix trees, in words; None where it can, at least up to :func:`reach` tokens.

    Args:
        base: The model without its head.
        decoder: Its decoder.
    """
    if base.config.is_encoder_decoder or not isinstance(decoder, PreTrainedModel):
        return "it is an encoder and a decoder, not a decoder alone"
    if getattr(decoder, "_is_stateful", False):
        return "its layers carry a state from token to token, which cannot branch"
    return (
        _of_interface(base, decoder) or _of_layers(decoder.config) or _of_direction(base, decoder) or _of_trial(decoder)
    )


def reach(config: PreTrainedConfig) -> int | None:
    """Tokens of the longest sequence for which a decoder is plain full attention; None where that is any.

    Layers with a window see all of a sequence that is not longer than it. Rotary angles of the kinds ``dynamic`` and
    ``longrope`` change for a whole batch as soon as one sequence of it passes the original length.
    """
    limits = [window for kind, window in _kinds_of_layers(config) if kind in _WINDOWS and window is not None]
    limits += [_original_length(rope, config) for rope in _ropes(config) if rope.get("rope_type") in _OF_THE_BATCH]
    return min(limits, default=None)


def _ropes(config: PreTrainedConfig) -> list[dict[str, Any]]:
    """The settings of rotary angles: one for all layers, or one for each kind of layers."""
    rope = getattr(config, "rope_parameters", None) or {}
    return [rope, *(value for value in rope.values() if isinstance(value, dict))]


def _original_length(rope: dict[str, Any], config: PreTrainedConfig) -> int:
    return rope.get("original_max_position_embeddings") or config.max_position_embeddings


def _kinds_of_layers(config: PreTrainedConfig) -> list[tuple[str, int | None]]:
    """The kinds of layers, each with its window."""
    windows = {kind: getattr(config, name, None) for kind, name in _WINDOWS.items()}
    kinds = getattr(config, "layer_types", None)
    if kinds is None:  # one kind of layers: a window that is set is used
        kinds = [kind for kind, window in windows.items() if window is not None]
    return [(kind, windows.get(kind)) for kind in sorted(set(kinds))]


def _of_interface(base: PreTrainedModel, decoder: PreTrainedModel) -> str | None:
    """What the decoder's forward pass takes."""
    parameters = inspect.signature(decoder.forward).parameters
    for name in ("inputs_embeds", "position_ids"):
        if name not in parameters:
            return f"its decoder takes no {name}"
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return "its decoder hands no keywords on to its attention"
    if not decoder._supports_attention_backend:
        return "its attention function cannot be exchanged (_supports_attention_backend is false)"
    if base is not decoder and not hasattr(base, "get_image_features"):
        return "its images do not stand at places in the text (it has no get_image_features)"
    if "deepstack_features" in parameters:
        return "visual features enter the layers of its decoder in a way of its own"
    return None


def _of_layers(config: PreTrainedConfig) -> str | None:
    """Layers that see less than every earlier token of a short sequence."""
    for kind, window in _kinds_of_layers(config):
        if kind != "full_attention" and window is None:
            return f"some of its layers are no full attention ({kind})"
    return None


def _of_direction(base: PreTrainedModel, decoder: PreTrainedModel) -> str | None:
    """Tokens that see later ones."""
    config = decoder.config
    image_blocks = base is not decoder and "token_type_ids" in inspect.signature(base.forward).parameters
    if getattr(config, "use_bidirectional_attention", None) or image_blocks:
        return "tokens of an image or of a prompt see later ones (bidirectional attention)"
    if any(getattr(part, "is_causal", True) is False for part in (config, *decoder.modules())):
        return "its attention is not causal (is_causal is false)"
    return None


def _of_trial(decoder: PreTrainedModel) -> str | None:
    """Run a copy without weights on two tokens; every layer must hand the tree to its attention function."""
    seen: list[int] = []

    def count(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **keywords: Any
    ) -> tuple[Tensor, None]:
        if keywords.get("tree") is seen:
            seen.append(id(module))
        return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None

    config = copy.deepcopy(decoder.config)
    for rope in _ropes(config):
        if rope.get("rope_type") in _OF_THE_BATCH:  # they read positions, which a trial without data does not have
            rope["rope_type"] = "default"
    AttentionInterface.register(_PROBE, count)
    try:
        with torch.device("meta"):
            trial = type(decoder)._from_config(config, attn_implementation=_PROBE, dtype=torch.bfloat16)
            embeds = torch.empty(1, 2, trial.get_input_embeddings().weight.shape[1], dtype=torch.bfloat16)
            position, mask = torch.empty(1, 2, dtype=torch.long), torch.empty(1, 1, 2, 2, dtype=torch.bool)
        with torch.no_grad():
            trial.eval()(inputs_embeds=embeds, position_ids=position, attention_mask=mask, use_cache=False, tree=seen)
    except Exception as error:
        return f"its decoder fails on a trial run without weights ({type(error).__name__}: {error})"
    layers = config.num_hidden_layers
    if len(set(seen)) != layers:
        return f"{layers - len(set(seen))} of its {layers} layers compute their attention by themselves"
    return None
