"""Low-rank adapters on the decoder of a backbone (LoRA, arXiv 2106.09685), by peft."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

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

    The adapters are fp32, also beside weights in half precision (with the Trainer's ``bf16-mixed``).

    Raises:
        UserError: ``lora.targets`` names no linear layer of the decoder.
    """
    family = family_of(model)
    decoder = family.parts(model).decoder
    decoder.requires_grad_(False)  # peft takes PLoRA's parameters for its own and would leave them as they are
    output = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    if output is not None:
        output.requires_grad_(False)  # the language-model head stands outside of the decoder
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
    for name, parameter in model.named_parameters():
        if ".lora_" in name:  # in half precision their steps would be rounded away
            parameter.data = parameter.data.float()
    for name, parameter in model.named_parameters():  # peft freezes all that is no adapter
        if name in others:
            parameter.requires_grad_(others[name])


def merge_lora(model: nn.Module) -> None:
    """Fold adapters into the weights in place and remove them; a model without adapters is left as it is."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "merge") and isinstance(getattr(module, "base_layer", None), nn.Linear):
            module.merge()
            model.set_submodule(name, module.get_base_layer())


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Run a model without its adapters inside; a model without adapters is left as it is. May be nested.

    Peft's own switch would take ``requires_grad`` from the adapters too. Strategies that shard parameters settle at the
    first forward pass which of them have a gradient, and that may be one in here.
    """
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, off in zip(layers, before, strict=True):
            layer._disable_adapters = off
