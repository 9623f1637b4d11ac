"""Any image-text or text model of transformers as a backbone: its parts, its features, its decoder over prefix trees.

Nothing here knows a model family by name. What differs between them is asked of transformers: the decoder and the
vision tower (``get_decoder``, ``get_encoder``), the features (``get_image_features``) and the names of arguments.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from lit_ixc.batch import ComparisonBatch
from lit_ixc.family import Family, Parts
from lit_ixc.native.refusal import reach, refusal
from lit_ixc.records import UserError

#: Modules inside a vision tower that bring its output to the decoder's width: the projector of the Qwen-VL family.
_MERGER = re.compile(r"(^|\.)(deepstack_)?merger(_list)?\.")

#: Kinds of rotary angles that depend on the longest sequence of a batch.
_CHANGING = ("dynamic", "longrope")


def base_of(model: nn.Module) -> PreTrainedModel:
    """The model without its language-model head; the model itself where it has none."""
    return cast(PreTrainedModel, cast(PreTrainedModel, model).base_model)


def argument_names(function: Callable[..., Any]) -> set[str]:
    """Names of a function's parameters."""
    return set(inspect.signature(function).parameters)


class NativeFamily(Family):
    """Image-text models (``AutoModelForImageTextToText``) and text models (``AutoModelForCausalLM``) of transformers.

    Methods take the model with its language-model head or without.
    """

    def parts(self, model: nn.Module) -> Parts:
        """Decoder, parameters of the vision tower, and all other parameters of the headless model as the projector.

        Raises:
            UserError: The decoder or the vision tower cannot be found.
        """
        base = base_of(model)
        decoder = base.get_decoder()
        if decoder is base:
            return Parts(decoder, (), ())
        tower = base.get_encoder(modality="image")
        if tower is base or tower is decoder or not isinstance(decoder, nn.Module):
            raise UserError(
                f"backbone of class {type(base).__name__}: its decoder and its vision tower are not where transformers "
                "keeps them (get_decoder, get_encoder), so that they cannot be frozen; choose another model"
            )
        language = {id(parameter) for parameter in decoder.parameters()}
        vision = {id(parameter) for name, parameter in tower.named_parameters() if not _MERGER.search(name)}
        rest = [parameter for parameter in base.parameters() if id(parameter) not in language]
        return Parts(
            decoder,
            tuple(parameter for parameter in rest if id(parameter) in vision),
            tuple(parameter for parameter in rest if id(parameter) not in vision),
        )

    def features(self, model: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
        """(N, F): what stands at the visual positions of these media, reading order.

        F is H, or H * (1 + D) where D of the decoder's first layers get features of their own (deepstack), which
        stand side by side behind the first H. Tensors that the vision encoder does not take are ignored. Beside
        ``pixel_values_videos``, ``video_items`` is not 0 where an item of the prompt is a video.

        Raises:
            UserError: The model takes no images.
        """
        base = base_of(model)
        if not hasattr(base, "get_image_features"):
            raise UserError(f"backbone of class {type(base).__name__}: it takes no images; use an image-text model")
        images = _of_kind(base, base.get_image_features, tensors, "pixel_values")
        if "pixel_values_videos" not in tensors:
            return torch.cat(images)
        rest, videos = iter(images), iter(_of_kind(base, base.get_video_features, tensors, "pixel_values_videos"))
        return torch.cat([next(videos if video else rest) for video in tensors["video_items"].tolist()])

    def decode(self, model: nn.Module, batch: ComparisonBatch, features: Tensor | None, **attention: Any) -> Tensor:
        """(B, T, H) hidden states behind the final norm of every token of the batch.

        Args:
            features: (N, F) as of :meth:`features`, in the order of ``batch.visual_rows``; None without images.
            attention: Handed on to the decoder: ``attention_mask``, ``tree``.
        """
        base = base_of(model)
        if features is not None and batch.axes is None and hasattr(base, "get_rope_index"):
            raise ValueError(f"{type(base).__name__} has positions on several axes, but the batch has none")
        inputs = _embedded(base, batch.input_ids, batch.visual_rows, features)
        position = batch.position if batch.axes is None else batch.axes  # (B, T) or (3, B, T)
        return base.get_decoder()(position_ids=position, use_cache=False, **inputs, **attention).last_hidden_state

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
        base = base_of(model)
        output = base.get_decoder()(
            position_ids=position,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
            **_embedded(base, ids, visual_rows, features),
        )
        return output.last_hidden_state

    def separate(self, model: nn.Module, ids: Tensor, attention_mask: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """(S, L, H) hidden states of plain sequences, by the model's own forward pass: what a prefix tree must equal.

        Args:
            ids: (S, L) token ids with the image token at visual positions, padded at either side.
            attention_mask: (S, L) True at tokens.
            tensors: The images of all sequences, one sequence behind the other; images that several sequences share
                stand there several times.

        Raises:
            UserError: Tokens of a prompt see later ones, so that where it ends would have to be known (PaliGemma).
        """
        base = base_of(model)
        if getattr(base.get_decoder().config, "use_bidirectional_attention", None) is True:
            raise UserError(
                f"backbone of class {type(base).__name__}: tokens see later ones, which a causal language model must "
                "not; choose another model"
            )
        names = argument_names(base.forward)
        inputs = {name: tensor.to(ids.device) for name, tensor in tensors.items() if name in names}
        kinds = torch.zeros_like(ids)
        for kind, modality in enumerate(("image", "video"), start=1):
            token = getattr(base.config, f"{modality}_token_id", None)
            if token is not None:
                kinds = kinds.masked_fill(ids == token, kind)
        if inputs:
            inputs |= {name: kinds for name in ("mm_token_type_ids", "token_type_ids") if name in names}
        if not (inputs and hasattr(base, "get_rope_index")):  # else the model counts its positions itself
            inputs["position_ids"] = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
        return base(input_ids=ids, attention_mask=attention_mask, use_cache=False, **inputs).last_hidden_state

    def refusal(self, model: nn.Module) -> str | None:
        """Why the model cannot run prefix trees, in words; None where it can."""
        base = base_of(model)
        return refusal(base, base.get_decoder())

    def longest_tree(self, model: nn.Module) -> int | None:
        """Tokens of the longest sequence for which every layer sees all earlier tokens; None where that is any."""
        return reach(base_of(model).get_decoder().config)

    def window(self, model: nn.Module) -> int | None:
        """As many as the decoder's configuration names.

        Fewer where rotary angles change once a sequence passes their original length: keys in the cache were turned by
        other angles then.
        """
        config = base_of(model).get_decoder().config
        rope = getattr(config, "rope_parameters", None) or {}
        limits = [rope.get("original_max_position_embeddings")] if rope.get("rope_type") in _CHANGING else []
        limits.append(getattr(config, "max_position_embeddings", None))
        return min((limit for limit in limits if limit is not None), default=None)


def _embedded(base: PreTrainedModel, ids: Tensor, rows: Tensor | None, features: Tensor | None) -> dict[str, Any]:
    """What a decoder reads in place of tokens (B, T), where ``features`` (N, F) stand at the flat columns ``rows``."""
    if rows is None or features is None:
        return {"inputs_embeds": base.get_input_embeddings()(ids)}  # (B, T, H)
    visual = torch.zeros_like(ids, dtype=torch.bool).flatten().index_fill(0, rows, True).view_as(ids)
    embeds = base.get_input_embeddings()(ids.masked_fill(visual, 0))  # an image token may lie outside the embedding
    width = embeds.shape[-1]
    features = features.to(embeds.device, embeds.dtype)
    embeds = embeds.flatten(0, 1).index_copy(0, rows, features[:, :width]).view_as(embeds)
    if features.shape[1] == width:
        return {"inputs_embeds": embeds}
    deeper = features[rows.argsort(), width:]  # the decoder reads them row by row
    levels = list(deeper.split(width, dim=1))
    return {"inputs_embeds": embeds, "visual_pos_masks": visual, "deepstack_visual_embeds": levels}


def _of_kind(
    base: PreTrainedModel, encode: Callable[..., Any], tensors: dict[str, Tensor], pixels: str
) -> list[Tensor]:
    """Features of all images, or of all videos: one tensor (n, F) for each item where the model tells them apart."""
    if pixels not in tensors:
        return []
    names = argument_names(encode)
    queued = base.device.type != "cpu"  # the host does not wait for the copy
    inputs = {n: t.to(base.device, non_blocking=queued) for n, t in tensors.items() if n in names}
    output = encode(**inputs, return_dict=True)
    items = _as_items(output.pooler_output)
    layers = [items, *map(_as_items, getattr(output, "deepstack_features", None) or ())]
    features = torch.cat([torch.cat(layer) for layer in layers], dim=-1)  # (N, F)
    return list(features.split([len(item) for item in items]))


def _as_items(features: Tensor | tuple[Tensor, ...] | list[Tensor]) -> list[Tensor]:
    """Each (n, H): the model gives (N, H), a block (items, n, H), or one tensor for each item."""
    if not isinstance(features, Tensor):
        return [item.flatten(0, -2) for item in features]
    return [features] if features.ndim == 2 else list(features.flatten(1, -2))
