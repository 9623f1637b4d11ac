"""Sampling answers as tokens: exactness, independence of what is beside, and what it leaves behind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from trees import IMAGE_TOKEN, media, states_in_tree

from lit_ixc import generation
from lit_ixc.adapters import Lora, add_lora
from lit_ixc.backbone import hidden_states
from lit_ixc.batch import EncodedComparison, EncodedMedia, EncodedSequence
from lit_ixc.decoding import Decoding
from lit_ixc.generation import Drawn, check_length, draw
from lit_ixc.ixc25.family import IXC25Family
from lit_ixc.ixc25.miniature import build, tiny_config
from lit_ixc.ixc25.model import IXC25ForConditionalGeneration
from lit_ixc.kv_cache import RoomyLayer
from lit_ixc.layout import collate
from lit_ixc.records import RecordError, UserError


class Open(NamedTuple):
    sequence: EncodedSequence
    media: EncodedMedia


class Chat:
    """What sampling asks of a processor, for a vocabulary of 320 whose last two ids are no text."""

    pad_token_id, stop_ids = 2, (2, 4)

    def unwritable(self, vocabulary: int) -> Tensor:
        return torch.arange(vocabulary) >= 318


CHAT: Any = Chat()


def prompt(ids: list[int], *grid: tuple[int, int], seed: int = 0) -> Open:
    images = media(grid, seed)
    visual = sum(images.lengths)
    row = [IMAGE_TOKEN] * visual + ids
    flags = [index < visual for index in range(len(row))]
    return Open(EncodedSequence(row, flags, [False] * len(row), len(row), len(row)), images)


PROMPTS = [prompt([10, 11, 12]), prompt([20, 21], (1, 1), seed=1), prompt([30, 31, 32, 33], (1, 2), (1, 1), seed=2)]
NAMES = ["a", "b", "c"]
TWELVE = Decoding(max_new_tokens=12)


@pytest.fixture(scope="module")
def model() -> IXC25ForConditionalGeneration:
    return build(tiny_config(), seed=0)


def ids_of(drawn: list[list[Drawn]]) -> list[list[tuple[int, ...]]]:
    return [[answer.ids for answer in group] for group in drawn]


@contextmanager
def eager_to_stop(model: IXC25ForConditionalGeneration, by: float = 2.0) -> Iterator[list[int]]:
    """Answers end sooner; gives the rows of each forward pass."""
    calls: list[int] = []

    def lead(head: Any, inputs: Any, logits: Tensor) -> None:
        logits[:, list(CHAT.stop_ids)] += by
        calls.append(len(logits))

    handle = model.output.register_forward_hook(lead)
    yield calls
    handle.remove()


def test_greedy_tokens_are_those_of_generate(model: IXC25ForConditionalGeneration) -> None:
    expected = []
    for one in PROMPTS:
        output = model.generate(
            input_ids=torch.tensor([one.sequence.ids]),
            attention_mask=torch.ones(1, len(one.sequence.ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=10,
            suppress_tokens=[318, 319],
            eos_token_id=list(CHAT.stop_ids),
            **one.media.tensors,
        )
        expected.append(tuple(output[0, len(one.sequence.ids) :].tolist()))
    greedy = Decoding(temperature=0, max_new_tokens=10)
    assert ids_of(draw(model, CHAT, PROMPTS, NAMES, 1, greedy, 0)) == [[ids] for ids in expected]
    assert ids_of(draw(model, CHAT, PROMPTS, NAMES, 3, greedy, 0)) == [[ids] * 3 for ids in expected]
    assert len(set(expected)) == 3


@pytest.mark.parametrize(
    ("decoding", "temperature"),
    [
        (TWELVE, 1.0),
        (TWELVE._replace(temperature=0.7, top_k=20), 0.7),
        (TWELVE._replace(temperature=0), 1.0),  # greedy counts as temperature 1
    ],
)
def test_logprobs_are_those_of_a_full_pass(
    model: IXC25ForConditionalGeneration, decoding: Decoding, temperature: float
) -> None:
    n = 3 if decoding.temperature else 1
    drawn = draw(model, CHAT, PROMPTS, NAMES, n, decoding, 0)
    items = []
    for number, (asked, group) in enumerate(zip(PROMPTS, drawn, strict=True)):
        start, flags = len(asked.sequence.ids), asked.sequence.visual
        whole = [
            EncodedSequence(
                [*asked.sequence.ids, *answer.ids],
                [*flags, *[False] * len(answer.ids)],
                [False] * start + [True] * len(answer.ids),
                start,
                start + len(answer.ids),
            )
            for answer in group
        ]
        ranks, lengths = tuple(range(n)), (0,) * n
        items.append(
            EncodedComparison(str(number), "general", "made", "text", whole, asked.media, ranks, None, lengths)
        )
    batch = collate(items, 2)
    with torch.no_grad():
        states = states_in_tree(hidden_states(model, batch), batch)
        for asked, group, own in zip(PROMPTS, drawn, states, strict=True):
            for answer, state in zip(group, own, strict=True):
                logits = model.output(state[len(asked.sequence.ids) - 1 : -1]) / temperature
                expected = logits.log_softmax(-1).gather(1, torch.tensor(answer.ids)[:, None]).flatten()
                torch.testing.assert_close(torch.tensor(answer.logprobs), expected, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("wait", [1, 5])
def test_neither_batch_mates_nor_rows_that_leave_change_an_answer(
    model: IXC25ForConditionalGeneration, monkeypatch: pytest.MonkeyPatch, wait: int
) -> None:
    """With a look at each step, and with one every five: what is drawn behind an end is no part of the answer."""
    monkeypatch.setattr(generation, "steps_per_question", lambda device: wait)
    decoding = Decoding(max_new_tokens=200)
    with eager_to_stop(model) as calls:
        together = draw(model, CHAT, PROMPTS, NAMES, 4, decoding, 0)
        rows = list(calls)
        monkeypatch.setattr(generation, "steps_per_question", lambda device: 1)
        alone = [draw(model, CHAT, [one], [name], 4, decoding, 0)[0] for one, name in zip(PROMPTS, NAMES, strict=True)]
        first = draw(model, CHAT, PROMPTS, NAMES, 1, decoding, 0)
    assert ids_of(together) == ids_of(alone)
    assert ids_of(first) == [group[:1] for group in ids_of(together)]
    for group, other in zip(together, alone, strict=True):
        for answer, same in zip(group, other, strict=True):
            assert answer.finish == "stop" and answer.ids[-1] in (2, 4) and not {2, 4} & set(answer.ids[:-1])
            torch.testing.assert_close(torch.tensor(answer.logprobs), torch.tensor(same.logprobs), atol=1e-5, rtol=0)
    lengths = sorted(len(answer.ids) for group in together for answer in group)
    assert lengths[0] < lengths[5] < lengths[-1] - 5
    assert rows[:2] == [3, 12] and 1 <= rows[-1] <= 4 and len(set(rows[1:])) > 2  # 12 rows, and fewer and fewer
    assert all(later <= 0.75 * earlier for earlier, later in zip(rows[1:], rows[2:], strict=False) if later != earlier)
    assert len(rows) == math.ceil(lengths[-1] / wait) * wait


def test_a_cache_grows_as_it_is_used() -> None:
    """Each step gives all keys so far, over the borders of the memory that it claims; rows are repeated and leave."""
    generator = torch.Generator().manual_seed(0)
    made = lambda rows, tokens: torch.randn(rows, 2, tokens, 4, generator=generator)  # noqa: E731
    layer, keys, values = RoomyLayer(), made(2, 3), made(2, 3)
    layer.update(keys, values)
    for step in range(150):
        if step in (0, 70):
            layer.batch_repeat_interleave(2)
            keys, values = keys.repeat_interleave(2, 0), values.repeat_interleave(2, 0)
        if step in (10, 71):
            kept = torch.tensor([0, 3])
            layer.batch_select_indices(kept)
            keys, values = keys[kept], values[kept]
        new = made(len(keys), 1), made(len(keys), 1)
        keys, values = torch.cat([keys, new[0]], 2), torch.cat([values, new[1]], 2)
        found = layer.update(*new)
        assert torch.equal(found[0], keys) and torch.equal(found[1], values)
        assert layer.get_seq_length() == step + 4 and layer.get_mask_sizes(1) == (step + 5, 0)


def test_each_prompt_s_images_are_encoded_once_or_not_at_all(
    model: IXC25ForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    encode = IXC25Family.features

    def counted(self: IXC25Family, model: Any, tensors: dict[str, Tensor]) -> Tensor:
        calls.append(len(tensors["image_grid"]))
        return encode(self, model, tensors)

    monkeypatch.setattr(IXC25Family, "features", counted)
    drawn = draw(model, CHAT, PROMPTS, NAMES, 4, TWELVE, 0)
    assert calls == [1, 2]
    with torch.no_grad():
        known = [
            one._replace(media=one.media._replace(tensors={}, features=encode(IXC25Family(), model, one.media.tensors)))
            if one.media.lengths
            else one
            for one in PROMPTS
        ]
    assert draw(model, CHAT, known, NAMES, 4, TWELVE, 0) == drawn
    assert calls == [1, 2]
    draw(model, CHAT, [PROMPTS[2], PROMPTS[2]], NAMES[:2], 2, TWELVE, 0)
    assert calls == [1, 2, 2]  # the same media for two prompts


def test_other_seeds_and_names_draw_other_answers(model: IXC25ForConditionalGeneration) -> None:
    one = PROMPTS[:1] * 2
    same, other = (
        ids_of(draw(model, CHAT, one, ["a", "a"], 2, TWELVE, 0)),
        ids_of(draw(model, CHAT, one, ["a", "b"], 2, TWELVE, 0)),
    )
    assert same[0] == same[1] == other[0] != other[1]
    assert ids_of(draw(model, CHAT, one, ["a", "a"], 2, TWELVE, 1)) != same


def test_a_training_policy_is_sampled_without_dropout_and_goes_on_training() -> None:
    policy = build(tiny_config(), seed=0)
    expected = draw(policy, CHAT, PROMPTS, NAMES, 2, TWELVE, 0)
    add_lora(policy, Lora(rank=4, dropout=0.5))
    policy.gradient_checkpointing_enable()
    policy.train()
    policy.vit.eval()
    before = {name: module.training for name, module in policy.named_modules()}
    assert ids_of(draw(policy, CHAT, PROMPTS, NAMES, 2, TWELVE, 0)) == ids_of(expected)  # new adapters change nothing
    assert {name: module.training for name, module in policy.named_modules()} == before
    assert before["model.layers.0"] and not before["vit"]


def test_weights_that_autocast_has_cast_still_get_gradients(model: IXC25ForConditionalGeneration) -> None:
    """Autocast keeps casts of weights, also those made without gradients, until its block ends."""
    with torch.autocast("cpu", torch.bfloat16):
        drawn = draw(model, CHAT, PROMPTS[:1], ["a"], 1, Decoding(max_new_tokens=2), 0)
        model.output(torch.ones(1, 64)).sum().backward()
    assert model.output.weight.grad is not None
    model.output.weight.grad = None
    assert all(math.isfinite(number) for number in drawn[0][0].logprobs)


def test_prompt_and_answer_must_fit_where_angles_are_not_scaled() -> None:
    config = tiny_config()
    sequence = PROMPTS[0].sequence
    check_length(build(config, 0), sequence, Decoding(max_new_tokens=4096))
    config.rope_ntk_factor = None
    check_length(build(config, 0), sequence, Decoding(max_new_tokens=509))  # 3 + 509 of 512
    with pytest.raises(RecordError, match="passes the model's 512 positions"):
        check_length(build(config, 0), sequence, Decoding(max_new_tokens=510))


def test_logits_that_are_not_numbers_are_an_error() -> None:
    broken = build(tiny_config(), seed=0)
    with torch.no_grad():
        broken.output.weight[7] = math.nan
    with pytest.raises(UserError, match="not numbers"):
        draw(broken, CHAT, PROMPTS, NAMES, 1, TWELVE, 0)
