"""The reference is the policy before its first step, in each of the ways to have it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_ixc.adapters import Lora, add_lora
from lit_ixc.backbone import BackboneSource, freeze
from lit_ixc.ixc25.miniature import build, tiny_config
from lit_ixc.records import UserError
from lit_ixc.reference import Reference, ReferenceMode, weights_digest

IDS = torch.tensor([[10, 11, 12]])
LORA = Lora(rank=2, alpha=4, dropout=0.5)


class Tiny(BackboneSource):
    """Counts how often it is loaded; draws random numbers as a load may."""

    def __init__(self) -> None:
        self.loads = 0

    def load(self, lm_head: bool) -> PreTrainedModel:
        assert lm_head
        self.loads += 1
        torch.rand(3)
        return build(tiny_config(), seed=0)


def policy(lora: bool, vision: bool = False) -> PreTrainedModel:
    model = build(tiny_config(), seed=0)
    freeze(model, vision=not vision, projector=True, language=False)
    if lora:
        add_lora(model, LORA)
    return model.train()


def step(model: nn.Module) -> None:
    """Move everything that trains."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


START = logits(build(tiny_config(), seed=0).eval())


@pytest.mark.parametrize(
    ("mode", "lora", "vision", "loads"),
    [
        ("copy", False, False, 1),
        ("copy", True, False, 1),
        ("adapters_off", True, False, 0),
        ("auto", True, False, 0),
        ("auto", False, False, 1),
        ("auto", True, True, 1),  # the vision tower trains beside the adapters: they alone are not the difference
    ],
)
def test_every_mode_gives_the_start(mode: ReferenceMode, lora: bool, vision: bool, loads: int) -> None:
    source, model = Tiny(), policy(lora, vision)
    reference = Reference(source, mode, adapters=lora)
    for _ in range(2):
        with reference.model(model) as start:
            assert torch.equal(start(IDS).logits, START)
        step(model)
    assert not torch.allclose(logits(model.eval()), START, atol=1e-3)
    assert source.loads == loads


@pytest.mark.parametrize("lora", [False, True])
def test_the_policy_is_left_as_it_was(lora: bool) -> None:
    """Dropout, gradients, modes of single parts, and the random numbers."""
    model = policy(lora)
    model.get_output_embeddings().eval()
    modes = [module.training for module in model.modules()]
    trains = [parameter.requires_grad for parameter in model.parameters()]
    state = torch.get_rng_state()
    with Reference(Tiny(), adapters=lora).model(model) as start:
        assert not start.training and not torch.is_grad_enabled()
        assert not start(IDS).logits.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes and True in modes and False in modes
    assert [parameter.requires_grad for parameter in model.parameters()] == trains
    assert torch.is_grad_enabled()


def test_the_policy_trains_on_after_an_exception() -> None:
    model = policy(lora=True)
    step(model)
    with pytest.raises(KeyError), Reference(Tiny(), adapters=True).model(model):
        raise KeyError
    assert model.training and all(module.training for module in model.modules())
    assert not torch.allclose(logits(model), logits(model))  # dropout is on


def test_a_copy_is_frozen_and_no_part_of_a_module_that_holds_it() -> None:
    holder = nn.Module()
    holder.policy = policy(lora=False)
    names = set(holder.state_dict())
    holder.reference = Reference(Tiny(), "copy")
    with holder.reference.model(holder.policy) as start:
        assert start is not holder.policy
        assert not any(parameter.requires_grad for parameter in start.parameters())
    assert set(holder.state_dict()) == names


@pytest.mark.parametrize("lora", [False, True])
def test_a_copy_has_the_types_of_the_policy(lora: bool) -> None:
    model = policy(lora).to(torch.bfloat16)
    with Reference(Tiny(), "copy", adapters=lora).model(model) as start:
        assert {parameter.dtype for parameter in start.parameters()} == {torch.bfloat16}


def test_adapters_off_needs_adapters() -> None:
    with pytest.raises(UserError, match=r"reference = adapters_off: the policy has no adapters; set lora"):
        Reference(Tiny(), "adapters_off")


def test_adapters_off_is_refused_where_more_than_adapters_trains() -> None:
    reference = Reference(Tiny(), "adapters_off", adapters=True)
    with (
        pytest.raises(UserError, match="reference = adapters_off: vit.*set freeze_vision"),
        reference.model(policy(lora=True, vision=True)),
    ):
        pass


def test_weights_are_told_apart_and_adapters_do_not_count() -> None:
    plain = weights_digest(policy(lora=False))
    for seed in (1, 2):
        torch.manual_seed(seed)
        assert weights_digest(policy(lora=True)) == plain
    other = policy(lora=False)
    with torch.no_grad():
        other.get_output_embeddings().weight[3, 5] += 0.1
    assert weights_digest(other) != plain
