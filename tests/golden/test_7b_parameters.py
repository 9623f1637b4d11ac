"""Parameter names, shapes and count of the released 7B, on the meta device."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_ixc.ixc25 import IXC25Config, IXC25ForConditionalGeneration, IXC25Model


@pytest.fixture(scope="module")
def architecture(golden_dir: Path) -> dict[str, Any]:
    return json.loads((golden_dir / "arch_7b.json").read_text())


def shapes(model: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(parameter.shape) for name, parameter in model.state_dict().items()}


def test_names_shapes_and_count_are_the_released_ones(architecture: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = IXC25ForConditionalGeneration(IXC25Config())
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert shapes(model) == {name: entry["shape"] for name, entry in architecture["core"].items()}
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_679_815_168


def test_backbone_lacks_the_language_model_head_only(architecture: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = IXC25Model(IXC25Config())
    expected = {name: entry["shape"] for name, entry in architecture["core"].items() if name != "output.weight"}
    assert shapes(model) == expected
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == architecture["variants"]["reward_7b"]["parameter_count_core_minus_output"]


def test_defaults_are_the_released_configuration(architecture: dict[str, Any]) -> None:
    config, released = IXC25Config(), architecture["config"]
    same = set(released) & set(config.to_dict()) - {"architectures", "model_type", "use_cache"}
    assert len(same) >= 12
    assert {name: getattr(config, name) for name in same} == {name: released[name] for name in same}
    assert released["rope_scaling"] == {"type": "dynamic", "factor": config.rope_ntk_factor}
    plora = architecture["plora"]
    assert (config.plora_rank, config.plora_alpha) == (plora["lora_r"], plora["lora_alpha"])
    assert config.plora_dropout == plora["lora_dropout"]
    clip, vision = architecture["clip_config"], config.vision_config.to_dict()
    assert {name: vision[name] for name in clip if name in vision} == {n: v for n, v in clip.items() if n in vision}
