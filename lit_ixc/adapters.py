"""Low-rank adapters on the decoder of a backbone (LoRA, arXiv 2106.09685), by peft."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast

from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from lit_ixc.backbone import family_of
from lit_ixc.family import linear_layers
from lit_ixc.records import UserError


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on the language model; the rest of it is frozen, the reward head stays trainable.

    Args:
        rank: Rank r (512 in the released script).
        alpha: Scale; adapters are multiplied by alpha / r.
        dropout: Dropout before the adapters.
        targets: Names of the linear layers that get adapters; None: all of the decoder's.
    """

    rank: int = 64
    alpha: float = 64.0
    dropout: float = 0.05
    targets: tuple[str, ...] | None = None


def add_lora(model: nn.Module, lora: Lora) -> None:
    """Put adapters into the language model in place and freeze everything else of it.

    Raises:
        UserError: ``lora.targets`` names no linear layer of the decoder.
    """
    family = family_of(model)
    decoder = family.parts(model).decoder
    decoder.requires_grad_(False)  # peft takes PLoRA's parameters for its own and would leave them as they are
    own = {id(parameter) for parameter in decoder.parameters()}
    others = {name: p.requires_grad for name, p in model.named_parameters() if id(p) not in own}
    path = next(name for name, module in model.named_modules() if module is decoder)
    names = lora.targets if lora.targets is not None else family.lora_targets(model)
    linear = linear_layers(decoder)
    if unknown := sorted(set(names) - set(linear)):
        raise UserError(f"lora.targets = {unknown}: no such linear layers here; there are {', '.join(linear)}")
    targets = rf"{re.escape(path + '.') if path else ''}(.*\.)?({'|'.join(names)})"
    config = LoraConfig(
        r=lora.rank, lora_alpha=cast(int, lora.alpha), lora_dropout=lora.dropout, target_modules=targets
    )
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():  # peft freezes all that is no adapter
        if name in others:
            parameter.requires_grad_(others[name])


def merge_lora(model: nn.Module) -> None:
    """Fold adapters into the weights in place and remove them; a model without adapters is left as it is."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "merge") and isinstance(getattr(module, "base_layer", None), nn.Linear):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
