"""Sampling: the distribution it draws from, and what an answer does not depend on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lit_ixc.decoding import Decoding, check_decoding, choose, uniforms
from lit_ixc.generation import Sampled, sample
from lit_ixc.ixc25.miniature import build, mini_config
from lit_ixc.ixc25.model import IXC25ForConditionalGeneration
from lit_ixc.ixc25.processing import IXC25Processor
from lit_ixc.processors import MiniatureProcessor
from lit_ixc.records import ImagePart, Prompt, RecordError, UserError, text_message
from tests.datamodules.fakes import png

VOCABULARY = 320  # more than the tokenizer has


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> IXC25Processor:
    made = MiniatureProcessor(str(tmp_path_factory.mktemp("processor")), vocab_size=280, tile_size=32, patch_size=8)
    made.prepare(lambda: ["What colour is the circle? It is red."] * 5)
    return made.processor


@pytest.fixture(scope="module")
def model() -> IXC25ForConditionalGeneration:
    return build(mini_config(VOCABULARY, hidden_size=32, num_hidden_layers=2, tile_size=32), seed=0)


def prompt(text: str, *images: tuple[int, int, int]) -> Prompt:
    parts = tuple(ImagePart(f"{k}.png", png(colour, (40, 30))) for k, colour in enumerate(images))
    return Prompt((text_message("user", text),), parts)


PROMPTS = [
    ("a", prompt("What?")),
    ("b", prompt("What colour is the circle in this picture?", (200, 0, 0))),
    ("c", prompt("And these two?", (0, 200, 0), (0, 0, 200))),
]
TEN = Decoding(max_new_tokens=10)


def answers(found: list[list[Sampled] | RecordError]) -> list[list[Sampled]]:
    assert not any(isinstance(one, RecordError) for one in found)
    return found  # type: ignore[return-value]


# Probabilities 0.5, 0.3, 0.2 of the tokens 2, 0, 1; nothing of the others.
LOGITS = torch.tensor([[0.3, 0.2, 0.5, 1e-9]]).log()


@pytest.mark.parametrize(
    ("decoding", "expected"),
    [
        (Decoding(), {2: 500, 0: 300, 1: 200}),
        (Decoding(top_k=2), {2: 625, 0: 375}),  # 0.5 and 0.3 of 0.8
        (Decoding(top_p=0.8), {2: 625, 0: 375}),  # 0.5 + 0.3 reach 0.8
        (Decoding(top_p=0.81), {2: 500, 0: 300, 1: 200}),
        (Decoding(top_p=0.1), {2: 1000}),  # the most probable token always stays
        (Decoding(temperature=0.5), {2: 658, 0: 237, 1: 105}),  # squares 25 : 9 : 4 of 38
        (Decoding(temperature=0), {2: 1000}),
    ],
)
def test_a_grid_of_draws_gives_the_distribution(decoding: Decoding, expected: dict[int, int]) -> None:
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert Counter(choose(LOGITS.expand(1000, -1), uniform, decoding).tolist()) == expected


def test_a_draw_that_rounds_up_to_one_stays_among_what_is_allowed() -> None:
    assert choose(LOGITS, torch.tensor([1.0], dtype=torch.float64), Decoding(top_k=2)).tolist() == [2]


def test_draws_depend_on_seed_name_and_number_alone() -> None:
    first = uniforms(0, "a", 0, 5)
    assert torch.equal(first, uniforms(0, "a", 0, 9)[:5]) and bool(((first >= 0) & (first < 1)).all())
    others = [uniforms(1, "a", 0, 5), uniforms(0, "b", 0, 5), uniforms(0, "a", 1, 5), uniforms(0, "1/a", 0, 5)]
    assert not any(torch.equal(first, other) for other in others)


def test_an_answer_does_not_depend_on_what_is_sampled_beside_it(
    model: IXC25ForConditionalGeneration, processor: IXC25Processor
) -> None:
    together = answers(sample(model, processor, PROMPTS, 3, TEN, 0))
    alone = [answers(sample(model, processor, [one], 3, TEN, 0))[0] for one in PROMPTS]
    fewer = answers(sample(model, processor, PROMPTS[::-1], 2, TEN, 0))[::-1]

    def texts(found: list[list[Sampled]]) -> list[list[tuple[str, int, str]]]:
        return [[(one.text, one.tokens, one.finish) for one in row] for row in found]

    assert texts(together) == texts(alone)
    assert texts(fewer) == [row[:2] for row in texts(together)]
    assert len({one.text for row in together for one in row}) == 9  # and all differ
    assert texts(answers(sample(model, processor, PROMPTS, 3, TEN, 1))) != texts(together)
    torch.testing.assert_close(
        [one.logprob for row in together for one in row],
        [one.logprob for row in alone for one in row],
        atol=2e-4,
        rtol=0,
    )


def test_greedy_is_what_generate_gives(model: IXC25ForConditionalGeneration, processor: IXC25Processor) -> None:
    found = answers(sample(model, processor, PROMPTS[:1], 1, Decoding(temperature=0, max_new_tokens=8), 0))[0][0]
    _, one = PROMPTS[0]
    ids = processor.encode_prompt(one, processor.encode_media(one.media)).ids
    banned = [processor.image_token_id, *range(len(processor.tokenizer), VOCABULARY)]
    output = model.generate(
        input_ids=torch.tensor([ids]),
        max_new_tokens=8,
        do_sample=False,
        suppress_tokens=banned,
        eos_token_id=processor.tokenizer.stop_ids,
    )
    new = output[0, len(ids) :].tolist()
    assert found.text == processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    assert found.tokens == len(new)


def test_logprob_is_the_model_s_own(model: IXC25ForConditionalGeneration, processor: IXC25Processor) -> None:
    """Sum of the log-probabilities of the tokens of a sharpened draw, read from a pass over the whole sequence."""
    name, one = PROMPTS[1]
    decoding = Decoding(temperature=0.7, top_k=1, max_new_tokens=4)
    found = answers(sample(model, processor, [(name, one)], 2, decoding, 0))[0]
    media = processor.encode_media(one.media)
    ids = list(processor.encode_prompt(one, media).ids)
    total = 0.0
    for _ in range(found[0].tokens):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), **media.tensors, use_cache=False).logits[0, -1]
        allowed = logits[: len(processor.tokenizer)].clone()
        allowed[processor.image_token_id] = -torch.inf
        ids.append(int(allowed.argmax()))
        total += float(logits.log_softmax(-1)[ids[-1]])
    assert found[0] == found[1] and found[0].logprob == pytest.approx(total, abs=1e-3)


@contextmanager
def scripted(model: IXC25ForConditionalGeneration, steps: list[int], stop: int) -> Iterator[list[int]]:
    """A stop token is the only choice at a step of its own for each row; gives the rows of each forward pass."""
    calls: list[int] = []

    def lead(head: torch.nn.Module, inputs: object, logits: torch.Tensor) -> torch.Tensor:
        left = [step for step in steps if step >= len(calls)]  # a third of the rows is enough for them to leave
        for row, step in enumerate(left):
            if step == len(calls):
                logits[row] = -100.0
                logits[row, stop] = 100.0
        calls.append(len(logits))
        return logits

    handle = model.output.register_forward_hook(lead)
    yield calls
    handle.remove()


def test_a_row_that_ended_is_cut_there_and_leaves(
    model: IXC25ForConditionalGeneration, processor: IXC25Processor
) -> None:
    stop = processor.tokenizer.end_of_turn_id
    with scripted(model, [2, 99, 1], stop) as calls:
        found = answers(sample(model, processor, PROMPTS, 1, Decoding(max_new_tokens=6), 0))
    assert [(one.tokens, one.finish) for (one,) in found] == [(3, "stop"), (6, "length"), (2, "stop")]
    assert calls == [3, 3, 2, 1, 1, 1]  # the prompts, and five steps: the sixth token is chosen, not fed
    with scripted(model, [2, 99, 1], stop):
        short = answers(sample(model, processor, PROMPTS, 1, Decoding(max_new_tokens=3), 0))
    assert found[0] == short[0] and found[2] == short[2]  # nothing behind the end counts
    assert found[1][0].logprob < short[1][0].logprob
    with scripted(model, [1, 2, 1], stop) as calls:
        sample(model, processor, PROMPTS, 1, Decoding(max_new_tokens=50), 0)
    assert calls == [3, 3, 1]  # no step after the last row has ended


def test_what_is_no_text_is_never_drawn(model: IXC25ForConditionalGeneration, processor: IXC25Processor) -> None:
    def eager(head: torch.nn.Module, inputs: object, logits: torch.Tensor) -> None:
        logits[..., [processor.image_token_id, VOCABULARY - 1]] += 1000.0  # all but sure of ids that are no text

    handle = model.output.register_forward_hook(eager)
    found = answers(sample(model, processor, PROMPTS, 2, TEN, 0))
    handle.remove()
    assert all(one.text and one.logprob < -1000 for row in found for one in row)


def test_prompts_that_cannot_be_answered_stand_beside_those_that_can(
    model: IXC25ForConditionalGeneration, processor: IXC25Processor
) -> None:
    broken = Prompt((text_message("user", "What?"),), (ImagePart("broken.png", b"no image"),))
    long = ("d", prompt("word " * 400))
    length = len(processor.encode_prompt(PROMPTS[0][1], processor.encode_media([])).ids)
    limits = TEN._replace(max_prompt_tokens=length)
    found = sample(model, processor, [("x", broken), PROMPTS[0], long], 2, limits, 0)
    assert isinstance(found[0], RecordError) and "broken.png" in str(found[0])
    assert isinstance(found[2], RecordError) and found[2].reason == "prompt_too_long"
    assert found[1] == sample(model, processor, PROMPTS[:1], 2, TEN, 0)[0]
    limits = TEN._replace(max_prompt_tokens=length - 1)
    assert [type(one) for one in sample(model, processor, PROMPTS[:1], 2, limits, 0)] == [RecordError]


@pytest.mark.parametrize(
    ("decoding", "n", "name"),
    [
        (Decoding(temperature=-1), 1, "temperature = -1"),
        (Decoding(temperature=0), 2, "temperature = 0: 2 greedy samples"),
        (Decoding(top_p=0), 1, "top_p = 0"),
        (Decoding(top_p=1.5), 1, "top_p = 1.5"),
        (Decoding(top_k=-1), 1, "top_k = -1"),
        (Decoding(max_new_tokens=0), 1, "max_new_tokens = 0"),
        (Decoding(max_prompt_tokens=0), 1, "max_prompt_tokens = 0"),
    ],
)
def test_settings_out_of_range(decoding: Decoding, n: int, name: str) -> None:
    with pytest.raises(UserError, match=name):
        check_decoding(decoding, n)


def test_the_files_of_a_policy_are_told_apart(tmp_path: Path) -> None:
    from lit_ixc.backbone import Pretrained
    from lit_ixc.pairing.policy import ModelPolicy
    from lit_ixc.processors import SavedProcessor

    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(3_000_000))
    policy = ModelPolicy(Pretrained(str(tmp_path)), SavedProcessor(str(tmp_path)), top_k=5)
    before = policy.fingerprint()
    assert policy.describe()["model"] == str(tmp_path) and policy.describe()["top_k"] == 5
    weights.write_bytes(bytes(3_000_000))  # written anew with the same contents
    assert policy.fingerprint() == before
    weights.write_bytes(bytes(2_999_000) + b"x" * 1000)
    assert policy.fingerprint() != before
