"""The model against hidden states, logits and caches of the released code on miniature weights."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lit_ixc.ixc25 import IXC25Config, IXC25ForConditionalGeneration
from lit_ixc.ixc25.language import rotary_tables
from lit_ixc.ixc25.released import SAME_NAME_FIELDS
from lit_ixc.ixc25.vision import merge_2x2, visual_sequence, visual_sequences, visual_token_count

Goldens = dict[str, Tensor]
Compare = Callable[[str, Tensor, Tensor], None]


@pytest.fixture(scope="module")
def config(tiny_dir: Path) -> IXC25Config:
    values = json.loads((tiny_dir / "config.json").read_text())
    llm = values["llm"]
    return IXC25Config(
        vision_config=values["clip"],
        image_token_id=llm["vocab_size"] - 1,
        plora_rank=values["plora"]["lora_r"],
        plora_alpha=values["plora"]["lora_alpha"],
        plora_dropout=values["plora"]["dropout"],
        rope_ntk_factor=llm["rope_scaling"]["factor"],
        **{name: llm[name] for name in SAME_NAME_FIELDS if name in llm},
    )


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(tiny_dir: Path, config: IXC25Config, request: pytest.FixtureRequest) -> IXC25ForConditionalGeneration:
    model = IXC25ForConditionalGeneration._from_config(config, attn_implementation=request.param)
    model.load_state_dict(load_file(tiny_dir / "weights.safetensors"), strict=True)
    assert model.config._attn_implementation == request.param
    return model.eval()


def text_only(ids: Tensor) -> Tensor:
    """No position is visual, whatever ids the fixture drew."""
    return torch.zeros_like(ids, dtype=torch.bool)


def views(pixels: Tensor, tile: int) -> Tensor:
    """(1, 3, h*t, w*t) to (1 + h*w, 3, t, t): the global view by bicubic interpolation, then the tiles row-major."""
    whole = nn.functional.interpolate(pixels, size=(tile, tile), mode="bicubic")
    tiles = pixels[0].unfold(1, tile, tile).unfold(2, tile, tile).permute(1, 2, 0, 3, 4).flatten(0, 1)
    return torch.cat([whole, tiles])


def grid_of(pixels: Tensor, tile: int) -> tuple[int, int]:
    return pixels.shape[2] // tile, pixels.shape[3] // tile


def check_states(compare: Compare, output: dict[str, Tensor], golden: Goldens, prefix: str = "") -> None:
    compare("logits", output["logits"], golden[f"{prefix}logits"])
    names = [name for name in golden if name.startswith(f"{prefix}hidden_states.")]
    assert len(names) == len(output["hidden_states"])
    for i, state in enumerate(output["hidden_states"]):
        compare(f"hidden_states.{i}", state, golden[f"{prefix}hidden_states.{i}"])


class Recorder:
    """Outputs of the inner modules that the fixtures name."""

    def __init__(self, model: IXC25ForConditionalGeneration) -> None:
        first, last = model.model.layers[0], model.model.layers[-1]
        self.modules = {
            "debug.layers.0.wqkv_out": first.attention.wqkv,
            "debug.layers.0.attention_out": first.attention,
            "debug.layers.0.feed_forward_out": first.feed_forward,
            "last_layer_output_before_final_norm": last,
        }
        self.outputs: dict[str, Tensor] = {}

    def __enter__(self) -> dict[str, Tensor]:
        self.handles = [module.register_forward_hook(self._keep(name)) for name, module in self.modules.items()]
        return self.outputs

    def _keep(self, name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda module, inputs, output: self.outputs.__setitem__(name, output)

    def __exit__(self, *exception: object) -> None:
        for handle in self.handles:
            handle.remove()


@torch.no_grad()
def test_case1_text(model: IXC25ForConditionalGeneration, tiny_dir: Path, compare: Compare) -> None:
    golden = load_file(tiny_dir / "case1_text.safetensors")
    ids = golden["input_ids"]
    with Recorder(model) as inner:
        output = model(
            input_ids=ids,
            attention_mask=golden["attention_mask"],
            image_mask=text_only(ids),
            output_hidden_states=True,
        )
    check_states(compare, output, golden)
    for name, value in inner.items():
        compare(name, value, golden[name])


@torch.no_grad()
def test_case1b_small_embeddings_meet_the_norm_epsilon(
    model: IXC25ForConditionalGeneration, tiny_dir: Path, compare: Compare
) -> None:
    golden = load_file(tiny_dir / "case1b_small_inputs_embeds.safetensors")
    output = model(
        inputs_embeds=golden["inputs_embeds"], attention_mask=golden["attention_mask"], output_hidden_states=True
    )
    check_states(compare, output, golden)


@torch.no_grad()
@pytest.mark.parametrize("image", "ABC")
def test_case2_vision_tower_and_projector(
    model: IXC25ForConditionalGeneration, tiny_dir: Path, compare: Compare, image: str
) -> None:
    golden = load_file(tiny_dir / "case2_image.safetensors")
    pixels = golden[f"{image}.vit_input_global_then_tiles"]
    h, w = grid_of(golden[f"{image}.pixel_values"], model.config.tile_size)
    compare("views", views(golden[f"{image}.pixel_values"], model.config.tile_size), pixels)

    clip = model.vit.clip
    compare("clip_embeddings_out", clip.pre_layrnorm(clip.embeddings(pixels)), golden[f"{image}.clip_embeddings_out"])
    compare("clip_last_hidden", model.vit(pixels), golden[f"{image}.clip_last_hidden"][:, 1:])
    sequence = visual_sequences(
        model.vit(pixels), [(h, w)], model.plora_sub_GN.flatten(), model.plora_glb_GN.flatten()
    )[0]
    compare("visual_before_projector", sequence, golden[f"{image}.visual_before_projector"][0])
    features = model.image_features(pixels, torch.tensor([[h, w]]))[0]
    compare("visual_after_projector", features, golden[f"{image}.visual_after_projector"][0])
    assert len(features) == int(golden[f"{image}.num_tokens"]) == visual_token_count(h, w, model.config.merged_per_side)


@torch.no_grad()
def test_case2_two_images_in_one_call(model: IXC25ForConditionalGeneration, tiny_dir: Path, compare: Compare) -> None:
    golden = load_file(tiny_dir / "case2_image.safetensors")
    pixels = torch.cat([golden[f"{image}.vit_input_global_then_tiles"] for image in "AC"])
    grid = [grid_of(golden[f"{image}.pixel_values"], model.config.tile_size) for image in "AC"]
    sequences = visual_sequences(model.vit(pixels), grid, model.plora_sub_GN.flatten(), model.plora_glb_GN.flatten())
    assert [len(sequence) for sequence in sequences] == golden["AC_list.num_tokens"].tolist()
    compare("AC_list", torch.cat(sequences)[None], golden["AC_list.visual_before_projector"])


@torch.no_grad()
def test_case2_language_model_on_an_image(
    model: IXC25ForConditionalGeneration, tiny_dir: Path, compare: Compare
) -> None:
    golden = load_file(tiny_dir / "case2_image.safetensors")
    image_mask = golden["llm.im_mask"].bool()
    ids = torch.full(image_mask.shape, model.config.image_token_id)
    ids[~image_mask] = torch.cat([golden["llm.prefix_ids"], golden["llm.suffix_ids"]], dim=1)[0]
    with Recorder(model) as inner:
        output = model(
            input_ids=ids,
            image_mask=image_mask,
            pixel_values=golden["A.vit_input_global_then_tiles"],
            image_grid=torch.tensor([grid_of(golden["A.pixel_values"], model.config.tile_size)]),
            output_hidden_states=True,
        )
    check_states(compare, output, golden, "llm.")
    compare("inputs_embeds", output.hidden_states[0], golden["llm.inputs_embeds"])
    for name, value in inner.items():
        compare(name, value, golden[f"llm.{name}"])

    without_plora = model(inputs_embeds=golden["llm.inputs_embeds"], image_mask=torch.zeros_like(image_mask))
    compare("logits without PLoRA", without_plora.logits, golden["llm.logits_if_im_mask_all_zero"])


@torch.no_grad()
def test_case3_right_padding(model: IXC25ForConditionalGeneration, tiny_dir: Path, compare: Compare) -> None:
    golden = load_file(tiny_dir / "case3_batch.safetensors")
    ids, mask = golden["right.input_ids"], golden["right.attention_mask"]
    output = model(
        input_ids=ids,
        attention_mask=mask,
        image_mask=text_only(ids),
        labels=golden["right.labels"],
        output_hidden_states=True,
    )
    real = mask.bool()
    compare("logits", output.logits[real], golden["right.logits"][real])
    compare("final_hidden", output.hidden_states[-1][real], golden["right.final_hidden"][real])
    compare("ce_loss", output.loss[None], golden["right.ce_loss"])


@torch.no_grad()
def test_case3_left_padding(model: IXC25ForConditionalGeneration, tiny_dir: Path, compare: Compare) -> None:
    golden = load_file(tiny_dir / "case3_batch.safetensors")
    ids, mask = golden["left.input_ids"], golden["left.attention_mask"]
    real = mask.bool()
    default = model(input_ids=ids, attention_mask=mask, image_mask=text_only(ids)).logits
    compare("default positions", default[real], golden["left.default_positions.logits"][real])
    generation = model(
        input_ids=ids, attention_mask=mask, image_mask=text_only(ids), position_ids=golden["left.position_ids"]
    ).logits
    compare("generation positions", generation[real], golden["left.generation_positions.logits"][real])


@torch.no_grad()
def test_case3_images_and_text_interleaved(
    model: IXC25ForConditionalGeneration, tiny_dir: Path, compare: Compare
) -> None:
    golden = load_file(tiny_dir / "case3_batch.safetensors")
    tile = model.config.tile_size
    images = [golden[f"mm.pixel_values.{i}"] for i in range(3)]
    ids = golden["mm.token_ids_image_is_-100"]
    image_mask, real = ids == -100, golden["mm.attention_mask"].bool()
    assert torch.equal(image_mask, golden["mm.im_mask"].bool())
    inputs = {
        "input_ids": ids.masked_fill(image_mask, model.config.image_token_id),
        "image_mask": image_mask,
        "attention_mask": golden["mm.attention_mask"],
    }
    pixels = torch.cat([views(image, tile) for image in images])
    grid = torch.tensor([grid_of(image, tile) for image in images])
    output = model(**inputs, pixel_values=pixels, image_grid=grid, output_hidden_states=True)
    compare("inputs_embeds", output.hidden_states[0][real], golden["mm.inputs_embeds"][real])
    compare("final_hidden", output.hidden_states[-1][real], golden["mm.final_hidden"][real])
    compare("logits", output.logits[real], golden["mm.logits"][real])

    alone = int(real[0].sum())
    first = {name: value[:1, :alone] for name, value in inputs.items()}
    output = model(**first, pixel_values=views(images[0], tile), image_grid=grid[:1])
    compare("sample0_alone.logits", output.logits, golden["mm.sample0_alone.logits"])


@torch.no_grad()
def test_case4_cache_and_greedy_decoding(
    model: IXC25ForConditionalGeneration, tiny_dir: Path, compare: Compare
) -> None:
    golden = load_file(tiny_dir / "case4_kv.safetensors")
    prompt = {"inputs_embeds": golden["prefill.inputs_embeds"], "image_mask": golden["prefill.im_mask"].bool()}
    output = model(**prompt, use_cache=True)
    compare("prefill.logits", output.logits, golden["prefill.logits"])
    for i, layer in enumerate(output.past_key_values.layers):
        compare(f"prefill.past.{i}.key", layer.keys, golden[f"prefill.past.{i}.key"])
        compare(f"prefill.past.{i}.value", layer.values, golden[f"prefill.past.{i}.value"])
    full = golden["full_no_cache.logits"]
    compare("full_no_cache.logits, prompt", output.logits, full[:, : output.logits.shape[1]])

    steps = golden["decode_token_ids"].unbind(1)
    for i, token in enumerate(steps):
        output = model(input_ids=token[:, None], past_key_values=output.past_key_values)
        compare(f"decode.{i}.logits", output.logits, golden[f"decode.{i}.logits"])
        position = full.shape[1] - len(steps) + i
        compare(f"full_no_cache.logits, step {i}", output.logits, full[:, position : position + 1])

    length = prompt["image_mask"].shape[1]
    expected = golden["greedy_generate_8_new_tokens"][:, -8:]
    ids = model.generate(
        **prompt,
        attention_mask=torch.ones(1, length, dtype=torch.long),
        max_new_tokens=8,
        do_sample=False,
    )
    assert ids.tolist() == expected[:, -ids.shape[1] :].tolist()
    assert ids.shape[1] == 8 or ids[0, -1] == model.config.eos_token_id


@torch.no_grad()
def test_case5_dynamic_ntk(
    model: IXC25ForConditionalGeneration, config: IXC25Config, tiny_dir: Path, compare: Compare
) -> None:
    golden = load_file(tiny_dir / "case5_dynamic_ntk.safetensors")
    for length in ("long", "longer", "short"):
        ids = golden[f"{length}.input_ids"]
        logits = model(input_ids=ids, image_mask=text_only(ids)).logits
        compare(f"{length}.logits", logits, golden[f"{length}.logits_fresh_model"])

    ids = golden["long.input_ids"]
    length = ids.shape[1]
    assert length > config.max_position_embeddings
    cos, sin = rotary_tables(
        torch.arange(length)[None],
        torch.tensor([length]),
        head_dim=config.head_dim,
        theta=config.rope_theta,
        ntk_factor=config.rope_ntk_factor,
        max_positions=config.max_position_embeddings,
    )
    compare("long.cos", cos[0], golden["long.cos"])
    compare("long.sin", sin[0], golden["long.sin"])

    # Decoding across M: keys in the cache keep the rotation they were stored with.
    prefill = int(golden["cross.prefill_len"])
    output = model(input_ids=ids[:, :prefill], image_mask=text_only(ids[:, :prefill]), use_cache=True)
    for i in range(golden["cross.decode_logits"].shape[1]):
        step = ids[:, prefill + i : prefill + i + 1]
        output = model(input_ids=step, past_key_values=output.past_key_values)
        compare(f"cross.decode.{i}", output.logits[:, 0], golden["cross.decode_logits"][:, i])


@torch.no_grad()
def test_derived_reward_on_both_poolings(
    model: IXC25ForConditionalGeneration, tiny_dir: Path, compare: Compare
) -> None:
    """Scores from our hidden states of the interleaved batch; the fixture's arithmetic is not the release's."""
    golden = load_file(tiny_dir / "derived_reward_not_official.safetensors")
    batch = load_file(tiny_dir / "case3_batch.safetensors")
    mask = golden["attention_mask"]
    output = model(
        inputs_embeds=batch["mm.inputs_embeds"],
        image_mask=batch["mm.im_mask"].bool(),
        attention_mask=mask,
        output_hidden_states=True,
    )
    hidden = output.hidden_states[-1]
    compare("final_hidden", hidden[mask.bool()], golden["final_hidden"][mask.bool()])
    last = mask.cumsum(1).argmax(1)
    pooled = {
        ("score_last_nonpad_token", "loss_last_pair_0_chosen_1_rejected"): hidden[torch.arange(len(last)), last],
        ("score_mean_over_nonpad_tokens", "loss_mean_pair_0_chosen_1_rejected"): (
            (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        ),
    }
    for (score_name, loss_name), vectors in pooled.items():
        scores = vectors @ golden["head_weight"][0]
        compare(score_name, scores, golden[score_name])
        compare(loss_name, -nn.functional.logsigmoid(scores[0] - scores[1])[None], golden[loss_name])


def test_merge_index_map_is_exact(golden_dir: Path) -> None:
    """Push (view, row, column) through the merge: each visual token names its four source patches."""
    maps = load_file(golden_dir / "merge_index_map.safetensors")
    assert maps
    for name, expected in maps.items():
        h, w = (int(part[1:]) for part in name.removeprefix("tiles_").split("_"))
        side = 40
        coordinates = torch.stack(
            torch.meshgrid(torch.arange(1 + h * w), torch.arange(side), torch.arange(side), indexing="ij"), dim=-1
        ).int()
        merged = merge_2x2(coordinates.flatten(1, 2))
        newline, separator = torch.full((12,), -1, dtype=torch.int32), torch.full((12,), -2, dtype=torch.int32)
        sequence = visual_sequence(merged, h, w, newline, separator)
        assert torch.equal(sequence.view(-1, 4, 3), expected), name
        assert len(sequence) == visual_token_count(h, w, side // 2)
