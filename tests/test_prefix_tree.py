"""Prefix trees against sequences run one by one: scores, loss and gradients of the test model, for every kernel.

The other side of each comparison knows nothing of trees: a copy of the model with plain ("eager") attention runs each
sequence alone, unbatched, with its own images.
"""

from __future__ import annotations

import contextlib
import copy
import random
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from torch import Tensor, nn
from torch._dynamo.utils import counters

from lit_ixc import attention, layout
from lit_ixc.adapters import Lora, add_lora
from lit_ixc.attention import XformersKernel, attention_inputs
from lit_ixc.backbone import BackboneSource, freeze, hidden_states, image_features, without_lm_head
from lit_ixc.batch import ComparisonBatch, EncodedComparison
from lit_ixc.heads import LastToken, LinearHead, MeanAllTokens, Pooling
from lit_ixc.ixc25.miniature import build, tiny_config
from lit_ixc.ixc25.model import IXC25ForConditionalGeneration, IXC25Model
from lit_ixc.layout import collate
from lit_ixc.losses import bradley_terry
from lit_ixc.records import UserError
from lit_ixc.reward import RewardModule
from tests.trees import (
    ALL_SHARED,
    EMPTY_PREFIX,
    MANY_IMAGES,
    Case,
    assert_equal_gradients,
    backward,
    cases,
    comparison,
    flex_on_cpu,
    media,
    states_alone,
    xformers_on_cpu,
)

KERNELS = ("dense", "sdpa", "flex", "separate")


def make_model(**changes: Any) -> IXC25Model:
    """The test model with its head dropped, everything trainable, in training mode, without dropout."""
    config = tiny_config()
    config.plora_dropout = 0.0
    for name, value in changes.items():
        setattr(config, name, value)
    return without_lm_head(build(config, seed=0)).train()


def plain_copy(model: IXC25Model) -> IXC25Model:
    """A copy that computes attention as transformers' eager function does."""
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    return plain


@pytest.fixture(scope="module")
def model() -> IXC25Model:
    return make_model()


def direction() -> Tensor:
    """(H,) a linear head."""
    return torch.randn(64, generator=torch.Generator().manual_seed(1)) * 65**-0.5


def objective(scores: list[Tensor]) -> Tensor:
    """Bradley-Terry over each comparison, and a weight of 0.5 to 1.5 for every score.

    So no score goes unseen, and what equal answers give to a gradient does not cancel down to its rounding.
    """
    draw = torch.Generator().manual_seed(2)
    loss = torch.zeros(())
    for of_one in scores:
        weights = torch.rand(len(of_one), generator=draw) + 0.5
        loss = loss + bradley_terry(of_one[None], torch.arange(len(of_one))[None]) + (weights * of_one).sum()
    return loss


def loss_alone(model: nn.Module, items: list[EncodedComparison]) -> tuple[list[Tensor], Tensor]:
    """Scores of each comparison, by their last tokens and by the mean of all, and the loss of both.

    So every state of a sequence counts.
    """
    states = [states_alone(model, item) for item in items]
    last = [torch.stack([one[-1].float() @ direction() for one in of_one]) for of_one in states]
    mean = [torch.stack([one.float().mean(0) @ direction() for one in of_one]) for of_one in states]
    return [*last, *mean], objective(last) + objective(mean)


def loss_in_tree(
    model: nn.Module, batch: ComparisonBatch, kernel: Any, features: Tensor | None = None
) -> tuple[list[Tensor], Tensor]:
    """The same of a batch of trees, through the heads of the library."""
    hidden = hidden_states(model, batch, features, kernel).float()
    last, mean = (_scores(hidden, batch, pooling) for pooling in (LastToken(), MeanAllTokens()))
    return [*last, *mean], objective(last) + objective(mean)


def _scores(hidden: Tensor, batch: ComparisonBatch, pooling: Pooling) -> list[Tensor]:
    head = LinearHead(64, pooling)
    head.v_head.weight = nn.Parameter(direction()[None], requires_grad=False)
    return [row[:count] for row, count in zip(head(hidden, batch), batch.exists.sum(1).tolist(), strict=True)]


def assert_equal_runs(model: nn.Module, plain: nn.Module, case: Case, kernels: tuple[str, ...]) -> None:
    """Scores, loss and the gradient of every trainable parameter of a batch of trees are those of lone sequences."""
    batch = case.batch()
    expected, loss = loss_alone(plain, case.items())
    gradients = backward(plain, loss)
    for kernel in kernels:
        scores, found = loss_in_tree(model, batch, kernel)
        torch.testing.assert_close(torch.cat(scores), torch.cat(expected), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found, loss, atol=1e-5, rtol=1e-5)
        assert_equal_gradients(backward(model, found), gradients, kernel)


@settings(max_examples=14)
@given(cases())
@example(EMPTY_PREFIX)
@example(ALL_SHARED)
@example(MANY_IMAGES)
@flex_on_cpu()
def test_trees_equal_lone_sequences(model: IXC25Model, case: Case) -> None:
    """Scores, loss and every gradient, vision tower and separators included, for every kernel of the CPU."""
    assert_equal_runs(model, plain_copy(model), case, KERNELS)


@pytest.mark.parametrize("mixed", [False, True], ids=["bf16-true", "bf16-mixed"])
def test_bf16_is_as_close_to_fp32_as_lone_sequences_are(mixed: bool) -> None:
    """Rounding to 8 bits moves the trees no further from the fp32 result than it moves the lone sequences.

    Root mean squares are compared. The ratio of two such over 192 scores scatters by some 10 %: at most 1.25. That of a
    batch's whole gradient scatters by some 15 %, over twelve batches by 5 %: at most 1.15.
    """
    dtype = torch.float32 if mixed else torch.bfloat16
    low = make_model().bfloat16().to(dtype)
    exact, alone = plain_copy(low).float(), plain_copy(low)
    context = torch.autocast("cpu", torch.bfloat16) if mixed else contextlib.nullcontext()
    errors: dict[str, list[float]] = {name: [0.0, 0.0] for name in ("alone", "sdpa", "dense")}
    for seed in range(12):
        draw = random.Random(seed)
        shapes = [(seed, images, draw.randint(0, 6), 2, [draw.randint(1, 6) for _ in range(4)]) for images in (0, 2)]
        case = Case(shapes)
        batch = case.batch()
        batch = batch.replaced(media=tuple(one.map(lambda x: x.to(dtype)) for one in batch.media))
        scores, loss = loss_alone(exact, case.items())
        expected = (scores, backward(exact, loss))
        for kernel in errors:
            network = alone if kernel == "alone" else low
            with context:
                scores, loss = (
                    loss_alone(alone, case.items()) if kernel == "alone" else loss_in_tree(low, batch, kernel)
                )
            found = (scores, backward(network, loss))
            errors[kernel][0] += (torch.cat(found[0]) - torch.cat(expected[0])).square().sum().item()
            errors[kernel][1] += _relative(found[1], expected[1]) ** 2
    for kernel in ("sdpa", "dense"):
        ratios = [(mine / its) ** 0.5 for mine, its in zip(errors[kernel], errors["alone"], strict=True)]
        assert ratios[0] <= 1.25 and ratios[1] <= 1.15, f"{kernel}: {ratios}"


def _relative(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    one, other = (torch.cat([g.flatten().float() for g in gradients.values()]) for gradients in (found, expected))
    return float((one - other).norm() / other.norm())


@xformers_on_cpu()
def test_model_over_blocks_of_xformers(model: IXC25Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole model, where ``auto`` takes xformers."""
    monkeypatch.setattr(attention, "_xformers_missing", lambda device, dtype: None)
    assert isinstance(attention_inputs(EMPTY_PREFIX.batch(), "auto", torch.float32)["tree"], XformersKernel)
    for case in (EMPTY_PREFIX, ALL_SHARED, MANY_IMAGES):
        assert_equal_runs(model, plain_copy(model), case, ("auto", "xformers"))


# What goes with it: checkpointing, compilation, adapters, the vision tower frozen, long sequences.


@pytest.mark.parametrize("kernel", KERNELS)
@flex_on_cpu()
def test_gradient_checkpointing_changes_nothing(kernel: Any) -> None:
    """Layers run a second time in the backward pass, over the same tree, to the same bits."""
    model, batch = make_model(), MANY_IMAGES.batch()
    expected = backward(model, loss_in_tree(model, batch, kernel)[1])
    model.gradient_checkpointing_enable()
    calls: list[int] = []
    model.model.layers[0].attention.register_forward_pre_hook(lambda *args: calls.append(1))
    found = backward(model, loss_in_tree(model, batch, kernel)[1])
    assert len(calls) == 2
    assert all(torch.equal(gradient, expected[name]) for name, gradient in found.items())


class Given(BackboneSource):
    """The test model, one layer of it."""

    def load(self, lm_head: bool) -> IXC25Model:
        return make_model(num_hidden_layers=1)


@pytest.mark.parametrize(
    ("backend", "kernel", "checkpointing"),
    [
        ("eager", "sdpa", False),
        ("eager", "sdpa", True),
        pytest.param("aot_eager", "dense", True, marks=pytest.mark.slow),
        pytest.param("aot_eager", "separate", False, marks=pytest.mark.slow),
        pytest.param("inductor", "sdpa", False, marks=pytest.mark.slow),
        pytest.param("inductor", "sdpa", True, marks=pytest.mark.slow),
    ],
)
def test_compiled_layers(monkeypatch: pytest.MonkeyPatch, backend: str, kernel: Any, checkpointing: bool) -> None:
    """Layers compiled as a module does with ``compile``, and compiled indeed; batches of other shapes behind the first.

    The back end ``inductor`` is what a user gets; the others trace the same and translate less.
    """
    torch.compiler.reset()
    counters.clear()
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_module(self, backend=backend))
    frozen = {"freeze_vision": False, "freeze_projector": False}
    module = RewardModule(Given(), attention=kernel, compile=True, gradient_checkpointing=checkpointing, **frozen)  # type: ignore[arg-type]
    module.configure_model()
    plain = plain_copy(make_model(num_hidden_layers=1))
    for case in (MANY_IMAGES, ALL_SHARED):
        assert_equal_runs(module.model, plain, case, (kernel,))
    assert counters["stats"]["calls_captured"] > 50  # operations; a layer has about 90


def test_dense_mask_in_eager_attention(model: IXC25Model) -> None:
    """Eager attention adds its mask to the scores, where True and False would count as 1 and 0."""
    assert_equal_runs(plain_copy(model), plain_copy(model), MANY_IMAGES, ("dense",))


def test_adapters_and_the_way_to_the_images() -> None:
    """LoRA on the language model; projector and separators, which K answers share, get the sum of their gradients."""
    model = make_model()
    freeze(model, vision=True, projector=False, language=False)
    add_lora(model, Lora(rank=4, alpha=8.0, dropout=0.0))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # starts at zero, which would hide the gradient of the other factor
            nn.init.normal_(parameter, std=0.1)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    kinds = {"lora_A", "lora_B", "vision_proj", "plora_glb_GN", "plora_sub_GN"}
    assert all(any(kind in name for name in trained) for kind in kinds) and not any("vit." in name for name in trained)
    assert_equal_runs(model, plain_copy(model), MANY_IMAGES, ("sdpa", "dense"))


def test_frozen_images_are_encoded_prompt_by_prompt() -> None:
    """With the way to the images frozen, features are constants, and the trees still equal lone sequences."""
    model = make_model()
    freeze(model, vision=True, projector=True, language=False)
    batch = MANY_IMAGES.batch()
    features = image_features(model, batch)
    assert features is not None and not features.requires_grad
    assert_equal_runs(model, plain_copy(model), MANY_IMAGES, ("sdpa", "dense", "separate"))
    known = loss_in_tree(model, batch, "sdpa", features)[1]
    assert torch.equal(known, loss_in_tree(model, batch, "sdpa")[1])


@pytest.mark.parametrize("row_tokens", [None, 1000])
@pytest.mark.parametrize("longest", [30, 24])
def test_scaled_rotary_angles(monkeypatch: pytest.MonkeyPatch, longest: int, row_tokens: int | None) -> None:
    """Beyond the trained positions an angle follows the sequence's own length: rows are separate then, and exact.

    The states of a shared token differ between its sequences there, so that the last tokens alone are compared.
    """
    model = make_model(max_position_embeddings=24)
    plain = plain_copy(model)
    tail = longest - 13 - 2 - 3  # 13 visual tokens, a prompt of 2, three tokens behind the answer; the others: 20, 9, 6
    items = [
        comparison([10, 11], [[20 + i for i in range(tail)], [30, 31]], images=media([(1, 1)], 1), name="0"),
        comparison([12, 13], [[40, 41, 42, 43], [44]], name="1"),
    ]
    split: list[ComparisonBatch] = []
    separate = layout.separate
    monkeypatch.setattr(layout, "separate", lambda batch: (split.append(batch), separate(batch))[1])
    batch = collate(items, 2, row_tokens=row_tokens)
    expected = [torch.stack([one[-1] @ direction() for one in states_alone(plain, item)]) for item in items]
    gradients = backward(plain, objective(expected))
    for features in (None, image_features(model, batch)):
        scores = _scores(hidden_states(model, batch, features), batch, LastToken())
        torch.testing.assert_close(torch.cat(scores), torch.cat(expected), atol=1e-5, rtol=1e-5)
        assert_equal_gradients(backward(model, objective(scores)), gradients)
    assert len(split) == (2 if longest > 24 else 0)


def test_xformers_on_a_cpu_is_refused(model: IXC25Model) -> None:
    with pytest.raises(UserError, match="attention = xformers: .* run on NVIDIA GPUs alone; choose auto or sdpa"):
        hidden_states(model, EMPTY_PREFIX.batch(), attention="xformers")


def test_a_layer_that_drops_the_tree_is_noticed(model: IXC25Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the remedies that the message may name help."""
    kind = type(model.model.layers[0].attention)
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, *args, tree=None, **kwargs: forward(self, *args, **kwargs))
    for kernel in ("sdpa", "flex"):
        with pytest.raises(UserError, match="Attention was not given the prefix tree"):
            hidden_states(model, EMPTY_PREFIX.batch(), attention=kernel)  # type: ignore[arg-type]
    for kernel in ("dense", "separate"):
        assert_equal_runs(model, plain_copy(model), EMPTY_PREFIX, (kernel,))


def test_plain_runs_go_on_after_a_tree() -> None:
    """The attention function that a tree leaves behind generates and runs padded batches to the same bits."""
    model: IXC25ForConditionalGeneration = build(tiny_config(), seed=0)
    picture = media([(1, 1)], 2)
    ids = torch.tensor([[319] * 13 + [10, 11, 12]])
    padded = torch.tensor([[10, 11, 12, 13], [2, 2, 14, 15]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])

    def run() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            tokens = model.generate(ids, max_new_tokens=6, do_sample=False, **picture.tensors)
            return tokens, model(padded, attention_mask=mask).logits  # type: ignore[return-value]

    before = run()
    hidden_states(model, EMPTY_PREFIX.batch())
    assert model.config._attn_implementation == attention.FUNCTION
    assert model.config.vision_config._attn_implementation == "sdpa"
    for one, other in zip(run(), before, strict=True):
        assert torch.equal(one, other)
