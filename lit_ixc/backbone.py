"""Backbones: where they come from, what of them trains, and their hidden states over a batch of prefix trees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings

from lit_ixc.attention import tree_mask
from lit_ixc.batch import ComparisonBatch
from lit_ixc.ixc25.language import PLoRALinear
from lit_ixc.ixc25.miniature import build, mini_config
from lit_ixc.ixc25.model import IXC25ForConditionalGeneration, IXC25Model
from lit_ixc.ixc25.released import from_released
from lit_ixc.records import UserError

Dtype = Literal["float32", "bfloat16", "float16"]


class BackboneSource(ABC):
    """A way to get a model. Modules call it late, under the strategy that will own the weights."""

    @abstractmethod
    def load(self, lm_head: bool) -> IXC25Model:
        """The model, with its language-model head or without."""


class Miniature(BackboneSource):
    """A small IXC-2.5 with random weights, for CPUs.

    Args:
        seed: Seed of the weights.
        sinusoidal_positions: Start the vision positions as a 2-D sine/cosine table (arXiv 2205.01580) and the patch
            embedding at unit scale: patches are told apart from the first step.
        sizes: As in ``mini_config``.
    """

    def __init__(self, seed: int = 0, sinusoidal_positions: bool = True, **sizes: Any) -> None:
        self.seed, self.sinusoidal_positions = seed, sinusoidal_positions
        self.config = mini_config(**sizes)

    def load(self, lm_head: bool) -> IXC25Model:
        model = build(self.config, self.seed)
        if self.sinusoidal_positions:
            start_vision(model)
        return model if lm_head else without_lm_head(model)


class Pretrained(BackboneSource):
    """A folder written by ``save_pretrained`` (also the ``export`` folder of a training run).

    Args:
        path: The folder.
        dtype: Floating-point type of the weights.
        attn_implementation: A name that transformers knows, e.g. ``sdpa`` or ``eager``.
    """

    def __init__(self, path: str, dtype: Dtype = "float32", attn_implementation: str = "sdpa") -> None:
        self.path, self.dtype, self.attn_implementation = path, dtype, attn_implementation

    def load(self, lm_head: bool) -> IXC25Model:
        if not (Path(self.path) / "config.json").is_file():
            raise UserError(f"backbone path = {self.path}: no config.json there; train or export the backbone first")
        kind = IXC25ForConditionalGeneration if lm_head else IXC25Model
        dtype = getattr(torch, self.dtype)
        return kind.from_pretrained(self.path, dtype=dtype, attn_implementation=self.attn_implementation)


class Released(BackboneSource):
    """A folder with the published IXC-2.5 (or IXC-2.5-Reward) files.

    Args:
        path: The folder with ``config.json`` and the shards.
        dtype: Floating-point type of the weights.
        attn_implementation: A name that transformers knows, e.g. ``sdpa`` or ``eager``.
    """

    def __init__(self, path: str, dtype: Dtype = "bfloat16", attn_implementation: str = "sdpa") -> None:
        self.path, self.dtype, self.attn_implementation = path, dtype, attn_implementation

    def load(self, lm_head: bool) -> IXC25Model:
        model = from_released(self.path, dtype=getattr(torch, self.dtype), with_head=lm_head).model
        model.set_attn_implementation(self.attn_implementation)
        return model


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on the language model; the rest of it is frozen, the reward head stays trainable.

    Args:
        rank: Rank r (512 in the released script).
        alpha: Scale; adapters are multiplied by alpha / r.
        dropout: Dropout before the adapters.
        targets: Names of the linear layers that get adapters.
    """

    rank: int = 64
    alpha: float = 64.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("wqkv", "wo", "w1", "w2", "w3")


def image_features(model: IXC25Model, batch: ComparisonBatch) -> Tensor | None:
    """The vectors (N, H) at the batch's visual positions, in order; None without images."""
    return torch.cat(model.image_features(**batch.media)) if batch.media else None


def hidden_states(model: IXC25Model, batch: ComparisonBatch, image_embeds: Tensor | None = None) -> Tensor:
    """Final-norm hidden states (B, T, H) of every token; each image of the batch is encoded once.

    Args:
        image_embeds: What ``image_features`` gave, where it is known already.
    """
    images = batch.media if image_embeds is None else {"image_embeds": image_embeds}
    inputs: dict[str, Any] = {"attention_mask": tree_mask(batch), "position_ids": batch.position, **images}
    if isinstance(model, IXC25ForConditionalGeneration):
        inputs |= {"output_hidden_states": True, "logits_to_keep": 1}  # logits are taken where a target stands
    output = model(batch.input_ids, image_mask=batch.visual, use_cache=False, **inputs)
    return output.hidden_states[-1] if "hidden_states" in output else output.last_hidden_state


def freeze(model: IXC25Model, vision: bool, projector: bool, language: bool) -> None:
    """Freeze parts of a backbone. The separators go with the projector: they live in its input space."""
    parts: list[tuple[bool, Sequence[nn.Parameter]]] = [
        (vision, list(model.vit.parameters())),
        (projector, [model.plora_glb_GN, model.plora_sub_GN, *model.vision_proj.parameters()]),
        (language, list(model.model.parameters())),
    ]
    for frozen, parameters in parts:
        for parameter in parameters:
            parameter.requires_grad_(not frozen)


def add_lora(model: IXC25Model, lora: Lora) -> None:
    """Put adapters into the language model in place and freeze everything else of it."""
    for parameter in model.model.parameters():
        parameter.requires_grad_(False)
    vision = {name: p.requires_grad for name, p in model.named_parameters() if not name.startswith("model.")}
    targets = rf"model\.layers\.\d+\..*\.({'|'.join(lora.targets)})"
    config = LoraConfig(
        r=lora.rank, lora_alpha=cast(int, lora.alpha), lora_dropout=lora.dropout, target_modules=targets
    )
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():  # peft freezes all that is no adapter
        if name in vision:
            parameter.requires_grad_(vision[name])


def merge_lora(model: IXC25Model) -> None:
    """Fold adapters into the weights in place and remove them; a model without adapters is left as it is."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "merge") and isinstance(getattr(module, "base_layer", None), PLoRALinear):
            module.merge()
            model.set_submodule(name, module.get_base_layer())


def without_lm_head(model: IXC25ForConditionalGeneration) -> IXC25Model:
    """The same weights as a backbone; the head is dropped."""
    with torch.random.fork_rng(devices=[]):  # the construction draws weights that are replaced at once
        backbone = IXC25Model(model.config)
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("output.")}
    backbone.load_state_dict(weights, assign=True)
    return backbone.eval()


def start_vision(model: IXC25Model, scale: float = 0.5) -> None:
    """Start the vision tower of a model that will train from random weights (see ``Miniature``)."""
    embeddings = cast(CLIPVisionEmbeddings, model.get_submodule("vit.vision_tower.vision_model.embeddings"))
    side = embeddings.image_size // embeddings.patch_size
    table = torch.zeros(side, embeddings.embed_dim // 4)
    table += torch.arange(side)[:, None] * torch.pi / side ** torch.linspace(0, 1, table.shape[1])
    axis = torch.cat([table.sin(), table.cos()], dim=-1)  # (side, width / 2)
    grid = torch.cat([axis[:, None].expand(side, side, -1), axis[None].expand(side, side, -1)], dim=-1)
    patch = embeddings.patch_embedding.weight
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        embeddings.position_embedding.weight[1:] = scale * grid.flatten(0, 1)
        patch.copy_(torch.randn(patch.shape, generator=generator) * patch[0].numel() ** -0.5)
