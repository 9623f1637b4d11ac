"""Whether two models make the same of an image, so that one may use what the other has computed."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from lit_ixc.backbone import family_of

#: Parts of a configuration that say nothing of the vision encoder.
_IRRELEVANT = {"text_config", "_name_or_path", "architectures", "transformers_version", "dtype", "use_cache"}


def same_vision(one: nn.Module, other: nn.Module) -> bool:
    """Whether vision tower and projector of two models are frozen and equal, weights and configuration.

    Where they are sharded over processes this cannot be seen from one of them, and the answer is no.
    """
    configs = [_settings(cast(Any, model).config.to_dict()) for model in (one, other)]
    if type(family_of(one)) is not type(family_of(other)) or configs[0] != configs[1]:
        return False
    weights = [[*parts.vision, *parts.projector] for parts in (family_of(m).parts(m) for m in (one, other))]
    if not weights[0] or len(weights[0]) != len(weights[1]):
        return False
    if any(isinstance(weight, DTensor) or weight.requires_grad for own in weights for weight in own):
        return False
    pairs = zip(*weights, strict=True)
    return all(a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b.to(a.device)) for a, b in pairs)


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _settings(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in _IRRELEVANT and not str(name).endswith("dropout")
    }
