"""The IXC-2.5 classes beyond the goldens: each rule by a small literal case, each option by parity."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lit_ixc.ixc25 import IXC25Config, IXC25ForConditionalGeneration, IXC25Model
from lit_ixc.ixc25.language import PLoRALinear, rotary_tables
from lit_ixc.ixc25.miniature import build, mini_config, tiny_config
from lit_ixc.ixc25.vision import merge_2x2, visual_sequence, visual_sequences, visual_token_count

IMAGE = 319  # image_token_id of tiny_config
LORA_TARGETS = ["wqkv", "wo", "w1", "w2", "w3"]


@pytest.fixture(params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> IXC25ForConditionalGeneration:
    model = build(tiny_config(), seed=0)
    model.set_attn_implementation(request.param)
    return model


@pytest.fixture
def sdpa() -> IXC25ForConditionalGeneration:
    return build(tiny_config(), seed=0)


def text(*lengths: int, seed: int = 1) -> list[Tensor]:
    """Random ids outside the special ones and the image id, one (T,) tensor per length."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, IMAGE, (length,), generator=generator) for length in lengths]


def images(*grid: tuple[int, int], seed: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    count = sum(1 + h * w for h, w in grid)
    return {
        "pixel_values": torch.randn(count, 3, 56, 56, generator=generator),
        "image_grid": torch.tensor(grid),
    }


def prompt(h: int, w: int, before: int = 3, after: int = 5, seed: int = 1) -> Tensor:
    """(T,) ids: text, the visual positions of one image of h x w tiles, text."""
    head, tail = text(before, after, seed=seed)
    return torch.cat([head, torch.full((visual_token_count(h, w, 2),), IMAGE), tail])


def pad(rows: list[Tensor], side: str, to: int | None = None) -> dict[str, Tensor]:
    length = to or max(map(len, rows))
    ids = torch.full((len(rows), length), 2)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
        ids[i, place], mask[i, place] = row, 1
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


# --- vision ---------------------------------------------------------------------------------------------------------


def test_visual_token_count_of_the_release() -> None:
    assert visual_token_count(1, 1, 20) == 841  # 400 * (1 + 1) + 1 + 20 * (1 + 1)
    assert visual_token_count(2, 3, 20) == 2861  # 400 * (6 + 1) + 1 + 20 * (2 + 1)
    assert visual_token_count(3, 2, 20) == 2881  # one more row of tiles: 20 more newlines


def test_merge_joins_2x2_blocks_row_by_row() -> None:
    patches = torch.arange(16).view(1, 16, 1)  # 4 x 4 patches of one channel, numbered row-major
    #  0  1 |  2  3
    #  4  5 |  6  7
    # ------+------
    #  8  9 | 10 11
    # 12 13 | 14 15
    assert merge_2x2(patches).tolist() == [[[[0, 1, 4, 5], [2, 3, 6, 7]], [[8, 9, 12, 13], [10, 11, 14, 15]]]]


def test_visual_sequence_stitches_tiles_into_one_map() -> None:
    # One row of two tiles with 2 x 2 tokens each; token = 100 * view + 10 * row + column.
    merged = torch.tensor([[[[100 * v + 10 * r + c] for c in range(2)] for r in range(2)] for v in range(3)])
    newline, separator = torch.tensor([-1]), torch.tensor([-2])
    expected = [0, 1, -1, 10, 11, -1, -2, 100, 101, 200, 201, -1, 110, 111, 210, 211, -1]
    assert visual_sequence(merged, 1, 2, newline, separator).flatten().tolist() == expected
    below = [0, 1, -1, 10, 11, -1, -2, 100, 101, -1, 110, 111, -1, 200, 201, -1, 210, 211, -1]
    assert visual_sequence(merged, 2, 1, newline, separator).flatten().tolist() == below


@given(grid=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3), q=st.integers(1, 4))
def test_sequences_have_the_counted_length(grid: list[tuple[int, int]], q: int) -> None:
    patches = torch.zeros(sum(1 + h * w for h, w in grid), 4 * q * q, 1)
    sequences = visual_sequences(patches, grid, torch.ones(4), torch.ones(4))
    assert [len(sequence) for sequence in sequences] == [visual_token_count(h, w, q) for h, w in grid]


def test_views_that_do_not_fit_the_grid_are_named(sdpa: IXC25ForConditionalGeneration) -> None:
    with pytest.raises(ValueError, match=r"7 views, but image_grid=\[\(2, 2\)\] asks for 5"):
        sdpa.image_features(images((2, 3))["pixel_values"], torch.tensor([[2, 2]]))


def test_vision_batch_limits_the_views_per_call_and_changes_nothing(sdpa: IXC25ForConditionalGeneration) -> None:
    batch = images((2, 3), (1, 1))
    sizes: list[int] = []
    sdpa.vit.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    whole = sdpa.image_features(**batch)
    sdpa.config.vision_batch = 4
    parts = sdpa.image_features(**batch)
    assert sizes == [9, 4, 4, 1]
    assert [len(features) for features in parts] == [visual_token_count(2, 3, 2), visual_token_count(1, 1, 2)]
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


# --- PLoRA ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def plora() -> PLoRALinear:
    layer = PLoRALinear(2, 1, rank=1, alpha=3, dropout=0.5)
    layer.weight.data = torch.tensor([[1.0, 10.0]])
    layer.Plora_A.weight.data = torch.tensor([[1.0, 1.0]])
    layer.Plora_B.weight.data = torch.tensor([[2.0]])
    return layer.eval()


def test_plora_adds_its_branch_on_image_rows_only(plora: PLoRALinear) -> None:
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    # W x = 21, 43, 65, 87; the branch gives 3 * 2 * (x1 + x2) = 66 for (5, 6), flattened row 2.
    assert plora(x).flatten().tolist() == [21.0, 43.0, 65.0, 87.0]
    assert plora(x, torch.tensor([2])).flatten().tolist() == [21.0, 43.0, 131.0, 87.0]
    assert plora(x, torch.empty(0, dtype=torch.long)).flatten().tolist() == [21.0, 43.0, 65.0, 87.0]


def test_plora_drops_only_the_input_of_its_branch(plora: PLoRALinear) -> None:
    x = torch.ones(1, 400, 2)
    y = plora.train()(x, torch.arange(400)).flatten()
    # Each input is dropped or doubled: the branch is 3 * 2 * {0, 2, 4} on top of W x = 11.
    assert set(y.tolist()) == {11.0, 23.0, 35.0}


def test_plora_without_images_has_a_zero_gradient_while_training(plora: PLoRALinear) -> None:
    x = torch.ones(1, 2, 2)
    plora(x).sum().backward()
    assert plora.Plora_A.weight.grad is None
    y = plora.train()(x)
    assert y.flatten().tolist() == [11.0, 11.0]
    y.sum().backward()
    assert plora.Plora_A.weight.grad.tolist() == [[0.0, 0.0]]
    assert plora.Plora_B.weight.grad.tolist() == [[0.0]]


def test_a_training_step_on_text_reaches_every_trainable_parameter() -> None:
    for frozen in ((), ("vit",), ("vit", "vision_proj", "plora_glb_GN", "plora_sub_GN")):
        model = build(tiny_config(), seed=0).train()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen))
        ids = text(7)[0][None]
        model(input_ids=ids, labels=ids).loss.backward()
        # post_layernorm feeds nothing that IXC-2.5 reads.
        idle = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
        assert {name for name in idle if "post_layernorm" not in name} == set(), frozen


def test_idle_vision_does_not_change_the_loss(sdpa: IXC25ForConditionalGeneration) -> None:
    ids = text(7)[0][None]
    assert torch.equal(sdpa.train()(input_ids=ids, labels=ids).loss, sdpa.eval()(input_ids=ids, labels=ids).loss)


# --- attention masks, positions, padding ----------------------------------------------------------------------------


@torch.no_grad()
def test_scores_do_not_depend_on_padding_or_batch_mates(model: IXC25ForConditionalGeneration) -> None:
    # The third row passes M = 512 and gets other rotary angles than its mates.
    rows = [*text(9, 30), text(530, seed=5)[0]]
    alone = [model(input_ids=row[None]).logits[0] for row in rows]
    for side in ("right", "left"):
        batch = pad(rows, side, to=540)
        logits = model(**batch).logits
        for i, expected in enumerate(alone):
            torch.testing.assert_close(
                logits[i][batch["attention_mask"][i].bool()], expected, atol=1e-5, rtol=1e-5, msg=f"{side} {i}"
            )


@torch.no_grad()
def test_default_positions_count_padding_and_right_padding_keeps_the_row_length(
    model: IXC25ForConditionalGeneration,
) -> None:
    rows = text(20, 530)
    batch = pad(rows, "right")
    del batch["position_ids"]
    logits = model(**batch).logits
    for i, row in enumerate(rows):
        torch.testing.assert_close(logits[i, : len(row)], model(input_ids=row[None]).logits[0], atol=1e-5, rtol=1e-5)


def test_rotary_base_grows_only_beyond_the_trained_length() -> None:
    options = {"head_dim": 4, "theta": 100.0, "ntk_factor": 2.0, "max_positions": 8}
    position = torch.tensor([[1]])
    # d = 4: frequencies 1 and theta^(-1/2); at t <= 8 theta = 100, so 1 and 0.1.
    for t in (1, 8):
        cos, sin = rotary_tables(position, torch.tensor([t]), **options)
        torch.testing.assert_close(cos[0, 0], torch.tensor([1.0, 0.1, 1.0, 0.1]).cos())
        torch.testing.assert_close(sin[0, 0], torch.tensor([1.0, 0.1, 1.0, 0.1]).sin())
    # At t = 12: theta' = 100 * (2 * 12 / 8 - 1)^(4/2) = 100 * 2^2 = 400, so 1 and 0.05.
    cos, _ = rotary_tables(position, torch.tensor([12]), **options)
    torch.testing.assert_close(cos[0, 0], torch.tensor([1.0, 0.05, 1.0, 0.05]).cos())
    # Rows of one batch keep their own base; without a factor nothing is scaled.
    cos, _ = rotary_tables(position, torch.tensor([12, 3]), **options)
    torch.testing.assert_close(cos[:, 0, 1], torch.tensor([0.05, 0.1]).cos())
    cos, _ = rotary_tables(position, torch.tensor([12]), **(options | {"ntk_factor": None}))
    torch.testing.assert_close(cos[0, 0, 1], torch.tensor(0.1).cos())


@torch.no_grad()
def test_boolean_tree_mask_equals_separate_responses(model: IXC25ForConditionalGeneration) -> None:
    start, first, second = prompt(1, 1), *text(4, 6, seed=7)
    segment = torch.cat([torch.full((len(part),), k) for k, part in enumerate((start, first, second))])
    positions = torch.cat([torch.arange(len(start)), *(len(start) + torch.arange(len(r)) for r in (first, second))])
    order = torch.arange(len(segment))
    causal = order[:, None] >= order[None, :]
    mask = causal & ((segment[None, :] == 0) | (segment[None, :] == segment[:, None]))
    tree = model(
        input_ids=torch.cat([start, first, second])[None],
        attention_mask=mask[None, None],
        position_ids=positions[None],
        **images((1, 1)),
    ).logits[0]
    for k, response in ((1, first), (2, second)):
        separate = model(input_ids=torch.cat([start, response])[None], **images((1, 1))).logits[0, len(start) :]
        torch.testing.assert_close(tree[segment == k], separate, atol=1e-5, rtol=1e-5)
    # A mask that does not mask (a boolean that is added to scores) would be seen here.
    plain = model(input_ids=torch.cat([start, first, second])[None], **images((1, 1))).logits[0]
    assert (plain[segment == 2] - tree[segment == 2]).abs().max() > 1e-2


@torch.no_grad()
def test_rows_that_attend_nowhere_stay_finite(model: IXC25ForConditionalGeneration) -> None:
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    mask[3:], mask[:, 3:] = False, False  # two padding tokens
    logits = model(input_ids=text(5)[0][None], attention_mask=mask[None, None]).logits
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[0, :3], model(input_ids=text(5)[0][None, :3]).logits[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_keyword_arguments_reach_the_attention_function(sdpa: IXC25ForConditionalGeneration) -> None:
    seen: list[Any] = []

    def spy(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> tuple[Tensor, None]:
        seen.append(kwargs.pop("segments"))
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **kwargs)

    ids = text(6)[0][None]
    expected = sdpa(input_ids=ids).logits
    ALL_ATTENTION_FUNCTIONS.register("spy_for_test", spy)
    sdpa.set_attn_implementation({"": "spy_for_test"})
    assert torch.equal(sdpa(input_ids=ids, segments="here").logits, expected)
    assert seen == ["here"] * sdpa.config.num_hidden_layers


# --- inputs ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_ways_to_give_an_image_agree(sdpa: IXC25ForConditionalGeneration) -> None:
    ids = prompt(2, 1)[None]
    batch = images((2, 1))
    expected = sdpa(input_ids=ids, **batch).logits
    features = torch.cat(sdpa.image_features(**batch))
    assert torch.equal(sdpa(input_ids=ids, image_embeds=features).logits, expected)
    assert torch.equal(sdpa(input_ids=ids, image_mask=ids == IMAGE, image_embeds=features).logits, expected)
    embeddings = sdpa.get_input_embeddings()(ids)
    assert torch.equal(sdpa(inputs_embeds=embeddings, image_mask=ids == IMAGE, **batch).logits, expected)
    embeddings[ids == IMAGE] = features
    assert torch.equal(sdpa(inputs_embeds=embeddings, image_mask=ids == IMAGE).logits, expected)
    # The id at a visual position is never read.
    other = ids.masked_fill(ids == IMAGE, 5)
    assert torch.equal(sdpa(input_ids=other, image_mask=ids == IMAGE, **batch).logits, expected)
    assert not torch.allclose(sdpa(inputs_embeds=embeddings).logits, expected, atol=1e-2), "PLoRA must act"


@torch.no_grad()
def test_images_of_a_batch_go_to_their_rows(sdpa: IXC25ForConditionalGeneration) -> None:
    rows = [torch.cat([prompt(1, 1), prompt(1, 2, seed=3)]), prompt(2, 1, seed=4)]
    batch = images((1, 1), (1, 2), (2, 1))
    logits = sdpa(**pad(rows, "right"), **batch).logits
    cut = {"pixel_values": batch["pixel_values"][5:], "image_grid": batch["image_grid"][2:]}
    alone = sdpa(input_ids=rows[1][None], **cut).logits[0]
    torch.testing.assert_close(logits[1, : len(rows[1])], alone, atol=1e-5, rtol=1e-5)


def test_wrong_inputs_are_named(sdpa: IXC25ForConditionalGeneration) -> None:
    ids, batch = prompt(1, 1)[None], images((1, 1))
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        sdpa(input_ids=ids, inputs_embeds=torch.zeros(1, 1, 64))
    with pytest.raises(ValueError, match="exactly one"):
        sdpa()
    with pytest.raises(ValueError, match="needs image_grid"):
        sdpa(input_ids=ids, pixel_values=batch["pixel_values"])
    with pytest.raises(ValueError, match="13 visual positions .*neither pixel_values nor image_embeds"):
        sdpa(input_ids=ids)
    with pytest.raises(ValueError, match="12 visual positions, but the images give 13 visual tokens"):
        sdpa(input_ids=ids[:, :15], **batch)
    with pytest.raises(ValueError, match="leave logits_to_keep at 0"):
        sdpa(input_ids=text(4)[0][None], labels=text(4)[0][None], logits_to_keep=1)


@torch.no_grad()
def test_loss_predicts_the_next_label(sdpa: IXC25ForConditionalGeneration) -> None:
    ids = text(4)[0][None]
    labels = torch.tensor([[7, -100, 8, -100]])  # only position 1 predicts, the label at position 2
    output = sdpa(input_ids=ids, labels=labels)
    torch.testing.assert_close(output.loss, -output.logits[0, 1].log_softmax(-1)[8])


@torch.no_grad()
def test_logits_to_keep(sdpa: IXC25ForConditionalGeneration) -> None:
    ids = text(6)[0][None]
    logits = sdpa(input_ids=ids).logits
    torch.testing.assert_close(sdpa(input_ids=ids, logits_to_keep=2).logits, logits[:, 4:])
    torch.testing.assert_close(sdpa(input_ids=ids, logits_to_keep=torch.tensor([0, 3])).logits, logits[:, [0, 3]])


@torch.no_grad()
def test_outputs(sdpa: IXC25ForConditionalGeneration) -> None:
    ids = text(6)[0][None]
    output = sdpa(input_ids=ids, output_hidden_states=True)
    assert len(output.hidden_states) == 3
    assert output.past_key_values.get_seq_length() == 6
    assert torch.equal(output.hidden_states[0], sdpa.get_input_embeddings()(ids))
    assert torch.equal(sdpa.get_output_embeddings()(output.hidden_states[-1]), output.logits)
    assert sdpa(input_ids=ids, use_cache=False).past_key_values is None
    assert isinstance(sdpa(input_ids=ids, return_dict=False), tuple)
    backbone = IXC25Model(sdpa.config).eval()
    backbone.load_state_dict(sdpa.state_dict(), strict=False)
    assert torch.equal(backbone(input_ids=ids).last_hidden_state, output.hidden_states[-1])


# --- generation -----------------------------------------------------------------------------------------------------


def greedy(model: IXC25ForConditionalGeneration, **inputs: Any) -> Tensor:
    start = inputs["input_ids"].shape[1]
    return model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=None)[:, start:]


@pytest.fixture
def encoded(sdpa: IXC25ForConditionalGeneration) -> Iterator[list[int]]:
    """Views per call of the vision tower."""
    sizes: list[int] = []
    handle = sdpa.vit.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    yield sizes
    handle.remove()


def generation_batch() -> dict[str, Tensor]:
    batch = pad([prompt(1, 1, after=9), prompt(1, 2, seed=3)], "left")
    del batch["position_ids"]
    return batch | images((1, 1), (1, 2))


def test_generation_decodes_batches_like_single_prompts(
    sdpa: IXC25ForConditionalGeneration, encoded: list[int]
) -> None:
    batch = generation_batch()
    together = greedy(sdpa, **batch)
    assert encoded == [5]  # with the prompt, never again
    first = images((1, 1), (1, 2))
    alone = greedy(
        sdpa,
        input_ids=prompt(1, 2, seed=3)[None],
        pixel_values=first["pixel_values"][2:],
        image_grid=first["image_grid"][1:],
    )
    assert together[1].tolist() == alone[0].tolist()
    assert greedy(sdpa, **batch, image_mask=batch["input_ids"] == IMAGE).tolist() == together.tolist()


def test_generation_without_cache_sees_the_images_at_every_step(sdpa: IXC25ForConditionalGeneration) -> None:
    batch = generation_batch()
    cached = greedy(sdpa, **batch)
    mask = batch["input_ids"] == IMAGE
    assert greedy(sdpa, **batch, use_cache=False, image_mask=mask).tolist() == cached.tolist()


def test_a_cached_conversation_goes_on(sdpa: IXC25ForConditionalGeneration, encoded: list[int]) -> None:
    start, more = prompt(1, 1)[None], text(4, seed=9)[0][None]
    mask = start == IMAGE
    first = sdpa.generate(
        input_ids=start,
        image_mask=mask,
        **images((1, 1)),
        max_new_tokens=3,
        do_sample=False,
        eos_token_id=None,
        return_dict_in_generate=True,
    )
    ids = torch.cat([first.sequences, more], dim=1)
    mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]))
    fresh = greedy(sdpa, input_ids=ids, image_mask=mask, **images((1, 1)))
    encoded.clear()
    cached = greedy(sdpa, input_ids=ids, image_mask=mask, past_key_values=first.past_key_values)
    assert cached.tolist() == fresh.tolist()
    assert encoded == []


def test_samples_of_a_prompt_share_its_encoded_images(sdpa: IXC25ForConditionalGeneration, encoded: list[int]) -> None:
    batch = generation_batch()
    single = greedy(sdpa, **batch)
    encoded.clear()
    beams = greedy(sdpa, **batch, num_beams=1, num_return_sequences=1)
    assert beams.tolist() == single.tolist()
    encoded.clear()
    # Top-1 sampling is greedy, so each of the three samples must equal the greedy answer of its own prompt.
    samples = sdpa.generate(
        **batch, max_new_tokens=6, do_sample=True, top_k=1, num_return_sequences=3, eos_token_id=None
    )
    assert samples[:, batch["input_ids"].shape[1] :].tolist() == [row for row in single.tolist() for _ in range(3)]
    assert encoded == [5]


def test_decoding_a_sampled_image_id_is_ordinary_text(sdpa: IXC25ForConditionalGeneration) -> None:
    with torch.no_grad():
        prefill = sdpa(input_ids=prompt(1, 1)[None], **images((1, 1)))
        step = sdpa(input_ids=torch.tensor([[IMAGE]]), past_key_values=prefill.past_key_values)
    assert step.logits.shape == (1, 1, 320)


# --- training -------------------------------------------------------------------------------------------------------


def gradients(model: IXC25ForConditionalGeneration) -> dict[str, Tensor]:
    model.zero_grad()
    ids = prompt(1, 2)[None]
    torch.manual_seed(0)
    model(input_ids=ids, labels=ids, **images((1, 2))).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients(sdpa: IXC25ForConditionalGeneration) -> None:
    expected = gradients(sdpa.train())
    calls: list[int] = []
    sdpa.model.layers[0].attention.register_forward_hook(lambda *_: calls.append(1))
    sdpa.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    actual = gradients(sdpa)
    assert len(calls) == 2, "the layer must be computed again in the backward pass"
    assert expected.keys() == actual.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def test_bfloat16_weights_and_autocast(sdpa: IXC25ForConditionalGeneration) -> None:
    ids, batch = prompt(1, 1)[None], images((1, 1))
    expected = sdpa(input_ids=ids, **batch).logits
    with torch.autocast("cpu", torch.bfloat16):
        mixed = sdpa.train()(input_ids=ids, labels=ids, **batch)
    mixed.loss.backward()
    half = copy.deepcopy(sdpa).eval().to(torch.bfloat16)
    output = half(input_ids=ids, output_hidden_states=True, **batch)
    assert {state.dtype for state in output.hidden_states} == {torch.bfloat16}
    assert output.logits.dtype == mixed.logits.dtype == torch.float32
    half.vit.float()  # a vision tower kept in fp32: its features are cast before the merge
    split = half(input_ids=ids, **batch)
    for logits in (mixed.logits, output.logits, split.logits):
        assert (logits - expected).abs().mean() < 0.05 * expected.abs().mean() + 0.02
        assert logits.isfinite().all()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_lora_leaves_the_image_branch_alone_and_merges(implementation: str) -> None:
    base = build(tiny_config(), seed=0)
    base.set_attn_implementation(implementation)
    inputs = {"input_ids": prompt(1, 2)[None], **images((1, 2))}
    with torch.no_grad():
        expected = base(**inputs).logits
        wrapped = get_peft_model(base, LoraConfig(r=4, target_modules=LORA_TARGETS, lora_dropout=0.0)).eval()
        adapters = {name for name, _ in wrapped.named_parameters() if ".lora_A." in name}
        assert len(adapters) == base.config.num_hidden_layers * len(LORA_TARGETS)
        assert not any("Plora" in name for name in adapters), "the branch itself gets no adapter"
        assert torch.equal(wrapped(**inputs).logits, expected), "with B = 0 LoRA changes nothing, PLoRA still acts"
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
        adapted = wrapped(**inputs).logits
        assert (adapted - expected).abs().max() > 1e-2
        merged = wrapped.merge_and_unload()
        assert isinstance(merged, IXC25ForConditionalGeneration)
        torch.testing.assert_close(merged(**inputs).logits, adapted, atol=1e-4, rtol=1e-4)


# --- configuration, saving, building --------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [IXC25Model, IXC25ForConditionalGeneration])
def test_save_and_load(cls: type[IXC25Model], tmp_path: Path) -> None:
    config = mini_config(64, 60, vision_hidden_size=64, plora_rank=4, max_position_embeddings=99)
    config.vision_config.layer_norm_eps = 1e-6
    model = cls(config).eval()
    model.save_pretrained(tmp_path)
    loader = AutoModel if cls is IXC25Model else AutoModelForImageTextToText
    saved = model.config.to_dict()
    loaded, report = loader.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is cls
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for values in (saved, read := loaded.config.to_dict()):
        del values["_name_or_path"], values["dtype"], values["vision_config"]["dtype"]
    assert read == saved
    state, expected = loaded.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


def test_vision_fields_equal_to_another_default_survive_saving(tmp_path: Path) -> None:
    """Neither CLIP's own defaults nor the released tower's may replace a saved value."""
    fields = {"hidden_size": 768, "num_hidden_layers": 24, "image_size": 224, "patch_size": 14, "projection_dim": 512}
    config = IXC25Config(vision_config=fields)
    assert config.vision_config.intermediate_size == 3072, "a field left out has CLIP's default, not the release's 4096"
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, IXC25Config)
    assert {name: getattr(loaded.vision_config, name) for name in fields} == fields
    assert (loaded.tile_size, loaded.patches_per_side, loaded.merged_per_side) == (224, 16, 8)
    assert loaded.get_text_config() is loaded


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_token_id": 92544}, "image_token_id=92544 lies outside the vocabulary of vocab_size=92544"),
        ({"num_key_value_heads": 7}, "num_attention_heads=32 must be a multiple of num_key_value_heads=7"),
        ({"hidden_size": 96}, "hidden_size=96 over num_attention_heads=32"),
        ({"vision_config": {"image_size": 42, "patch_size": 14}}, "image_size=42 must be a multiple of twice"),
        ({"vision_batch": 0}, "vision_batch=0 must be at least 1"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings=True is not supported"),
        ({"hidden_size": "wide"}, "'hidden_size' expected int, got str"),
        ({"image_token_id": "92526"}, "'image_token_id' expected int, got str"),
    ],
)
def test_wrong_sizes_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        IXC25Config(**fields)


def test_build_depends_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = build(tiny_config(), seed=3)
    assert torch.equal(torch.rand(1), expected), "the caller's random state must be left alone"
    again, other = build(tiny_config(), seed=3).state_dict(), build(tiny_config(), seed=4).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.state_dict().items())
    assert not torch.equal(other["output.weight"], again["output.weight"])
    assert not first.training


def test_scratch_weights_follow_the_configured_spread() -> None:
    model = build(mini_config(1024, 1023, initializer_range=0.06), seed=0)
    assert 0.9e6 < model.num_parameters() < 1.2e6
    layer = model.model.layers[0]
    assert abs(layer.attention.wqkv.weight.std().item() - 0.06) < 0.002
    assert abs(layer.feed_forward.w1.Plora_A.weight.std().item() - 0.02) < 0.002
    assert abs(layer.feed_forward.w1.Plora_B.weight.std().item() - 0.02) < 0.002
    assert torch.equal(layer.attention_norm.weight, torch.ones(128))
    assert torch.equal(model.vision_proj[0].bias, torch.zeros(128))
    assert model.plora_sub_GN.std().item() > 0.03
