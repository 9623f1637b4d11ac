"""IXC-2.5 as a model family."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from lit_ixc.batch import ComparisonBatch
from lit_ixc.family import Family, Parts
from lit_ixc.ixc25.model import IXC25Model


class IXC25Family(Family):
    """Models of :class:`lit_ixc.ixc25.model.IXC25Model`, with the language-model head or without."""

    def parts(self, model: nn.Module) -> Parts:
        """The separators count as projector: they live in its input space."""
        ixc = _ixc(model)
        separators = (ixc.plora_glb_GN, ixc.plora_sub_GN)
        return Parts(ixc.model, tuple(ixc.vit.parameters()), (*separators, *ixc.vision_proj.parameters()))

    def lora_targets(self, model: nn.Module) -> tuple[str, ...]:
        return ("wqkv", "wo", "w1", "w2", "w3")

    def features(self, model: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
        return torch.cat(_ixc(model).image_features(tensors["pixel_values"], tensors["image_grid"]))

    def decode(self, model: nn.Module, batch: ComparisonBatch, features: Tensor | None, **attention: Any) -> Tensor:
        output = IXC25Model.forward(  # not the head's: logits are taken where a target stands
            _ixc(model),
            batch.input_ids,
            position_ids=batch.position,
            image_rows=batch.visual_rows,
            image_embeds=features,
            use_cache=False,
            **attention,
        )
        return output.last_hidden_state

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
        if visual_rows is None:
            visual_rows = torch.empty(0, dtype=torch.long, device=ids.device)
        output = IXC25Model.forward(
            _ixc(model),
            ids,
            attention_mask,
            position,
            past_key_values=cache,
            image_rows=visual_rows,
            image_embeds=features,
            use_cache=True,
        )
        return output.last_hidden_state

    def separate(self, model: nn.Module, ids: Tensor, attention_mask: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        inputs = {"attention_mask": attention_mask, "use_cache": False, **tensors}
        return IXC25Model.forward(_ixc(model), ids, **inputs).last_hidden_state

    def longest_tree(self, model: nn.Module) -> int | None:
        """Beyond the trained positions the rotary base follows the length of each sequence, shared tokens or not."""
        config = _ixc(model).config
        return config.max_position_embeddings if config.rope_ntk_factor is not None else None

    def window(self, model: nn.Module) -> int | None:
        """The trained positions, where rotary angles are not scaled beyond them."""
        config = _ixc(model).config
        return config.max_position_embeddings if config.rope_ntk_factor is None else None


def _ixc(model: nn.Module) -> IXC25Model:
    assert isinstance(model, IXC25Model)
    return model
