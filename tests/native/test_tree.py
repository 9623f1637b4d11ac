"""Prefix trees on models of transformers against their own forward pass, every sequence alone with its own images."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from native.miniatures import FAMILIES, SENTENCES, VISION_FAMILIES, miniature, picture, question
from torch import Tensor
from transformers import PreTrainedModel

from lit_ixc.adapters import Lora, add_lora
from lit_ixc.backbone import freeze, hidden_states, image_features, refusal
from lit_ixc.batch import ComparisonBatch, EncodedComparison
from lit_ixc.layout import collate, tree_row
from lit_ixc.native import NativeFamily, NativeProcessor
from lit_ixc.records import Message, Prompt, TextPart
from tests.trees import assert_equal_gradients, backward, states_in_tree

FAMILY = NativeFamily()


def encoded(processor: NativeProcessor, prompt: Prompt, answers: list[str], name: str) -> EncodedComparison:
    media = processor.encode_media(prompt.media)
    sequences = [
        processor.encode_conversation(prompt, [Message("assistant", (TextPart(answer),))], media, "reward")
        for answer in answers
    ]
    lengths = tuple(map(len, answers))
    ranks = tuple(range(len(answers)))
    return EncodedComparison(name, "", "", "image" if media.lengths else "text", sequences, media, ranks, None, lengths)


def comparisons(family: str, processor: NativeProcessor, seed: int = 0) -> list[EncodedComparison]:
    """One to three answers that may begin alike, about text, two pictures of different shapes, and one; short first."""
    draw = random.Random(seed)

    def answers(count: int) -> list[str]:
        start = "The answer is " * draw.randint(0, 2)
        return [start + " ".join(draw.choices(SENTENCES[1].split(), k=draw.randint(1, 6))) for _ in range(count)]

    prompts = [question("Which of the two frames is brighter?"), question("What is it?"), question(SENTENCES[0])]
    if family in VISION_FAMILIES:
        wide, tall, square = picture(24, 12, seed), picture(10, 21, seed + 1), picture(16, 16, seed + 2)
        prompts[1] = question(wide, "One, and then two.", tall, "Which is brighter?")
        prompts[2] = question(SENTENCES[0], square)
    counts = draw.sample([1, 2, 3], 3)
    items = [
        encoded(processor, prompt, answers(count), str(number))
        for number, (prompt, count) in enumerate(zip(prompts, counts, strict=True))
    ]
    return sorted(items, key=lambda item: tree_row(item.sequences).length)


def loss_of(states: list[list[Tensor]]) -> Tensor:
    """Every entry of every state of every sequence, with a random weight of its own."""
    draw = torch.Generator().manual_seed(0)
    return torch.stack(
        [(one * torch.randn(one.shape, generator=draw)).mean() for of_one in states for one in of_one]
    ).sum()


def states_alone(model: PreTrainedModel, items: list[EncodedComparison]) -> list[list[Tensor]]:
    """(L, H) of each sequence by the model's own forward pass, unbatched."""
    return [
        [
            FAMILY.separate(model, torch.tensor([one.ids]), torch.ones(1, len(one.ids)).long(), item.media.tensors)[0]
            for one in item.sequences
        ]
        for item in items
    ]


def assert_equal_runs(
    model: PreTrainedModel, items: list[EncodedComparison], batches: list[ComparisonBatch], kernels: tuple[Any, ...]
) -> dict[str, Tensor]:
    """Every state, and the gradient of every trainable parameter; the gradients are returned."""
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    expected = states_alone(plain, items)
    gradients = backward(plain, loss_of(expected))
    for kernel in kernels:
        for batch in batches:
            found = states_in_tree(hidden_states(model, batch, attention=kernel), batch)
            for one, other in zip(found, expected, strict=True):
                for mine, its in zip(one, other, strict=True):
                    assert (mine - its).norm() <= 1e-5 * its.norm(), kernel
            assert_equal_gradients(backward(model, loss_of(found)), gradients, kernel)
    return gradients


def layouts(items: list[EncodedComparison], pad: int) -> list[ComparisonBatch]:
    """A row each, padded at the left; all in one row; and rows in another order than the comparisons'.

    Packing begins with the longest tree, and the comparisons are sorted the other way round.
    """
    lengths = [tree_row(item.sequences).length for item in items]
    assert lengths == sorted(lengths)
    packed = collate(items, pad, "right", 8, row_tokens=lengths[-1])
    assert packed.trees[-1].start < packed.trees[0].start
    return [collate(items, pad, "left"), collate(items, pad, row_tokens=sum(lengths)), packed]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_trees_equal_the_model_s_own_forward_pass(family: str, seed: int) -> None:
    """Everything trains: decoder, projector and vision tower; text beside pictures, padded and packed."""
    model, processor = miniature(family, seed)
    assert refusal(model) is None
    items = comparisons(family, processor, seed)
    batches = layouts(items, processor.pad_token_id)
    gradients = assert_equal_runs(model, items, batches, ("sdpa", "dense", "separate"))
    assert sum(bool(gradient.any()) for gradient in gradients.values()) >= 0.9 * len(gradients)


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_mask_in_eager_attention(family: str) -> None:
    """Eager attention adds its mask to the scores, where True and False would count as 1 and 0."""
    model, processor = miniature(family, 0)
    model.set_attn_implementation("eager")
    items = comparisons(family, processor)
    assert_equal_runs(model, items, layouts(items, processor.pad_token_id)[2:], ("dense",))


@pytest.mark.parametrize("family", FAMILIES)
def test_with_the_language_model_head(family: str) -> None:
    """The head stays out of the way: it gets no gradient, all else gets the same."""
    model, processor = miniature(family, 0, lm_head=True)
    items = comparisons(family, processor)
    gradients = assert_equal_runs(model, items, layouts(items, processor.pad_token_id)[1:2], ("sdpa",))
    headless, _ = miniature(family, 0)
    assert len(gradients) > len(list(headless.parameters()))
    assert not gradients["lm_head.weight"].any()


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_frozen_vision_and_known_features(family: str) -> None:
    """Frozen pictures are encoded prompt by prompt; features that are known already give the same bits."""
    model, processor = miniature(family, 0)
    freeze(model, vision=True, projector=True, language=False)
    items = comparisons(family, processor)
    batch = layouts(items, processor.pad_token_id)[2]
    gradients = assert_equal_runs(model, items, [batch], ("sdpa", "dense"))
    assert gradients.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    features = image_features(model, batch)
    assert features is not None and not features.requires_grad
    assert torch.equal(hidden_states(model, batch, features), hidden_states(model, batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_and_checkpointing(family: str) -> None:
    """LoRA on the decoder, projector trained, layers recomputed in the backward pass."""
    model, processor = miniature(family, 0)
    freeze(model, vision=True, projector=False, language=False)
    add_lora(model, Lora(rank=2, alpha=4.0, dropout=0.0))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.train()
    items = comparisons(family, processor)
    batches = layouts(items, processor.pad_token_id)[2:]
    gradients = assert_equal_runs(model, items, batches, ("sdpa",))
    assert all(gradient.any() for name, gradient in gradients.items() if "lora_" in name)
    model.gradient_checkpointing_enable()
    calls: list[int] = []
    layer = FAMILY.parts(model).decoder.layers[0]  # type: ignore[union-attr, index]
    layer.self_attn.register_forward_pre_hook(lambda *args: calls.append(1))  # type: ignore[union-attr]
    found = backward(model, loss_of(states_in_tree(hidden_states(model, batches[0]), batches[0])))
    assert len(calls) == 2
    assert_equal_gradients(found, gradients)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_positions_on_several_axes_matter(family: str) -> None:
    """The check that the tests above could fail: positions differ among the axes, and a batch without is refused."""
    model, processor = miniature(family, 0)
    items = comparisons(family, processor)
    batch = collate(items, processor.pad_token_id)
    assert batch.axes is not None and bool((batch.axes[1] != batch.axes[0]).any())
    with pytest.raises(ValueError, match="has positions on several axes"):
        hidden_states(model, batch.replaced(axes=None))
