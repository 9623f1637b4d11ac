"""Adapters are off inside, and as they were after."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from lit_ixc.adapters import Lora, adapters_off, add_lora
from lit_ixc.ixc25.miniature import build, tiny_config
from lit_ixc.ixc25.model import IXC25ForConditionalGeneration

IDS = torch.tensor([[10, 11, 12]])


def adapted() -> IXC25ForConditionalGeneration:
    torch.manual_seed(1)
    model = build(tiny_config(), seed=0).eval()
    add_lora(model, Lora(rank=2, alpha=4, dropout=0.0))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


def switches(model: nn.Module) -> list[bool]:
    return [module.disable_adapters for module in model.modules() if isinstance(module, BaseTunerLayer)]


def test_off_inside_and_on_again_after() -> None:
    plain, model = logits(build(tiny_config(), seed=0).eval()), adapted()
    on = logits(model)
    assert not torch.allclose(on, plain, atol=1e-3)
    with adapters_off(model):
        assert torch.equal(logits(model), plain)
        with adapters_off(model):
            pass
        assert torch.equal(logits(model), plain)  # the inner end switches nothing on
    assert torch.equal(logits(model), on)


def test_on_again_after_an_exception() -> None:
    model = adapted()
    with pytest.raises(KeyError), adapters_off(model):
        raise KeyError
    assert set(switches(model)) == {False}


def test_a_layer_that_was_off_stays_off() -> None:
    model = adapted()
    first = next(module for module in model.modules() if isinstance(module, BaseTunerLayer))
    first.enable_adapters(False)
    before = switches(model)
    with adapters_off(model):
        assert set(switches(model)) == {True}
    assert switches(model) == before and before.count(True) == 1


def test_what_trains_stays_as_it_is_inside() -> None:
    model = adapted()
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with adapters_off(model):
        assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert any(before.values())


def test_gradients_of_a_pass_before_are_whole() -> None:
    """The reference may run between the policy's forward and backward pass."""
    gradients = []
    for between in (False, True):
        model = adapted()
        loss = model(IDS).logits.square().mean()
        if between:
            with adapters_off(model):
                logits(model)
        loss.backward()
        gradients.append([p.grad for name, p in model.named_parameters() if ".lora_" in name])
    for one, other in zip(*gradients, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    assert any(one is not None and one.any() for one in gradients[1])


def test_without_adapters_nothing_happens() -> None:
    model = build(tiny_config(), seed=0).eval()
    before = logits(model)
    with adapters_off(model):
        assert torch.equal(logits(model), before)


def test_adapters_alone_train_beside_a_language_model_head() -> None:
    model = adapted()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if name.startswith("output")} == set()
