"""Native models: their parts, their features, and decode() over plain rows against transformers' own forward pass."""

import json

import pytest
import torch
from native.miniatures import FAMILIES, VISION_FAMILIES, miniature, model_config, picture, question, train_tokenizer
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel

from lit_ixc.attention import tree_mask
from lit_ixc.batch import ComparisonBatch, EncodedComparison
from lit_ixc.layout import collate
from lit_ixc.native import NativeFamily, NativeProcessor, load
from lit_ixc.native.loading import model_class
from lit_ixc.records import Prompt, UserError, text_message

FAMILY = NativeFamily()


def encoded(processor: NativeProcessor, prompt: Prompt, *answers: str) -> EncodedComparison:
    media = processor.encode_media(prompt.media)
    sequences = [
        processor.encode_conversation(prompt, (text_message("assistant", answer),), media, "reward")
        for answer in answers
    ]
    ranks, lengths = tuple(range(len(answers))), tuple(map(len, answers))
    return EncodedComparison("c", "general", "made", prompt.modality, sequences, media, ranks, None, lengths)


def prompts(family: str) -> list[Prompt]:
    """Text alone, one image, and two images with text around them."""
    if family not in VISION_FAMILIES:
        return [question("What is 6 times 7?"), question("Which is brighter?")]
    return [
        question("What is 6 times 7?"),
        question(picture(40, 20), "Describe the image."),
        question("Which of ", picture(30, 30, 1), " and ", picture(12, 30, 2), " is brighter?"),
    ]


def joined(batch: ComparisonBatch) -> dict[str, torch.Tensor]:
    """The media of a batch, joined along dimension 0."""
    names = {name for media in batch.media for name in media.tensors}
    return {name: torch.cat([m.tensors[name] for m in batch.media if m.lengths]) for name in sorted(names)}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_belongs_to_one_part(family: str) -> None:
    model, _ = miniature(family)
    parts = FAMILY.parts(model)
    groups = [list(parts.decoder.parameters()), list(parts.vision), list(parts.projector)]
    counted = [id(parameter) for group in groups for parameter in group]
    assert sorted(counted) == sorted(id(parameter) for parameter in model.parameters())
    assert all(groups) == (family in VISION_FAMILIES)
    assert {id(p) for p in model.get_input_embeddings().parameters()} <= {id(p) for p in groups[0]}


@pytest.mark.parametrize(
    ("family", "projector", "vision"),
    [
        ("qwen2_5_vl", {"merger"}, {"patch_embed", "blocks"}),
        ("qwen3_vl", {"merger", "deepstack_merger_list"}, {"patch_embed", "blocks", "pos_embed"}),
        ("internvl", {"multi_modal_projector"}, {"vision_tower"}),
        ("llava_onevision", {"multi_modal_projector", "image_newline"}, {"vision_tower"}),
        ("idefics3", {"connector"}, {"vision_model"}),
    ],
)
def test_the_projector_is_found(family: str, projector: set[str], vision: set[str]) -> None:
    model, _ = miniature(family)
    parts = FAMILY.parts(model)
    names = {id(p): name.removeprefix("visual.").split(".")[0] for name, p in model.named_parameters()}
    assert {names[id(parameter)] for parameter in parts.projector} == projector
    assert {names[id(parameter)] for parameter in parts.vision} == vision


def test_a_model_without_a_known_tower_is_named() -> None:
    config = {"model_type": "mllama", "text_config": {"num_hidden_layers": 1}, "vision_config": {}}
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(**config))
    del model.vision_model  # what is left has a decoder and a loose projector
    with pytest.raises(UserError, match="MllamaModel"):
        FAMILY.parts(model)


@pytest.mark.parametrize("lm_head", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_decode_equals_the_models_own_forward_pass(family: str, lm_head: bool) -> None:
    model, processor = miniature(family, lm_head=lm_head)
    comparisons = [encoded(processor, prompt, "A small cat, it is 42!") for prompt in prompts(family)]
    batch = collate(comparisons, processor.pad_token_id)
    media = joined(batch)
    with torch.no_grad():
        features = FAMILY.features(model, media) if media else None
        hidden = FAMILY.decode(model, batch, features, attention_mask=tree_mask(batch))
        expected = FAMILY.separate(model, batch.input_ids, batch.comparison >= 0, media)
    counts = batch.comparison >= 0
    assert expected[counts].abs().max() > 0.1
    torch.testing.assert_close(hidden[counts], expected[counts], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_images_decide_hidden_states(family: str) -> None:
    model, processor = miniature(family)
    batch = collate([encoded(processor, prompts(family)[1], "A cat.")], processor.pad_token_id)
    with torch.no_grad():
        features = FAMILY.features(model, joined(batch))
        hidden, other = (FAMILY.decode(model, batch, f, attention_mask=tree_mask(batch)) for f in (features, -features))
    assert (hidden - other)[0, -1].abs().max() > 1e-3


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_features_of_several_prompts_join(family: str) -> None:
    """Prompts of one and of two images, encoded together and alone; one vector for each visual token."""
    model, processor = miniature(family)
    media = [processor.encode_media(prompt.media) for prompt in prompts(family)[1:]]
    names = media[0].tensors
    with torch.no_grad():
        alone = [FAMILY.features(model, m.tensors) for m in media]
        together = FAMILY.features(model, {n: torch.cat([m.tensors[n] for m in media]) for n in names})
    assert [len(features) for features in alone] == [sum(m.lengths) for m in media]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
    width = model.get_input_embeddings().weight.shape[1]
    assert together.shape[1] == width * (3 if family == "qwen3_vl" else 1)  # deepstack at two layers


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_videos_and_images_in_reading_order(family: str) -> None:
    """A video of two equal frames is one step in time: for the encoder it is the picture that they show."""
    model, processor = miniature(family)
    media = [processor.encode_media((picture(16 * (i + 1), 16, i),)).tensors for i in range(3)]
    pixels, grids = ([m[name] for m in media] for name in ("pixel_values", "image_grid_thw"))
    tensors = {
        "pixel_values": torch.cat(pixels[::2]),
        "image_grid_thw": torch.cat(grids[::2]),
        "pixel_values_videos": pixels[1],
        "video_grid_thw": grids[1],
        "video_items": torch.tensor([False, True, False]),
    }
    with torch.no_grad():
        expected = torch.cat([FAMILY.features(model, m) for m in media])
        torch.testing.assert_close(FAMILY.features(model, tensors), expected, rtol=1e-5, atol=1e-5)


def test_deepstack_features_find_their_rows() -> None:
    """Comparisons in another order than their rows: the last of three takes the first row."""
    model, processor = miniature("qwen3_vl")
    comparisons = [encoded(processor, prompt, "A cat.") for prompt in prompts("qwen3_vl")]
    plain = collate(comparisons, processor.pad_token_id)
    order = torch.tensor([2, 0, 1])  # row r holds comparison order[r]
    width = plain.input_ids.shape[1]
    moved = plain.visual_rows + (order.argsort()[plain.visual_rows // width] - plain.visual_rows // width) * width
    names = ("input_ids", "comparison", "segment", "position")
    swapped = plain.replaced(
        **{name: getattr(plain, name)[order] for name in names}, axes=plain.axes[:, order], visual_rows=moved
    )
    with torch.no_grad():
        features = FAMILY.features(model, joined(plain))
        expected = FAMILY.decode(model, plain, features, attention_mask=tree_mask(plain))
        hidden = FAMILY.decode(model, swapped, features, attention_mask=tree_mask(swapped))
    torch.testing.assert_close(hidden, expected[order], rtol=1e-5, atol=1e-5)


def test_axes_are_wanted_for_images_on_several_axes() -> None:
    model, processor = miniature("qwen2_5_vl")
    batch = collate([encoded(processor, prompts("qwen2_5_vl")[1], "A cat.")], processor.pad_token_id)
    features = torch.zeros(len(batch.visual_rows), 32)
    with pytest.raises(ValueError, match="several axes"):
        FAMILY.decode(model, batch.replaced(axes=None), features, attention_mask=tree_mask(batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_is_not_in_memory(family: str) -> None:
    model, processor = miniature(family, seed=3)
    whole, _ = miniature(family, seed=3, lm_head=True)
    rows = len(processor.tokenizer)
    tall = [name for name, p in model.named_parameters() if p.shape[:1] == (rows,)]
    assert len(tall) == 1 and "embed" in tall[0]
    assert type(model) is model_class(model.config, lm_head=False)
    assert any(name.startswith("lm_head") for name, _ in whole.named_parameters())
    for (name, one), (_, other) in zip(model.state_dict().items(), whole.base_model.state_dict().items(), strict=True):
        assert torch.equal(one, other), name  # the same seed, the same weights


@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load(family: str, tmp_path) -> None:
    whole, _ = miniature(family, lm_head=True)
    whole.save_pretrained(tmp_path)
    for lm_head in (True, False):
        model = load(tmp_path, lm_head)
        assert type(model) is model_class(whole.config, lm_head) and not model.training
        expected = (whole if lm_head else whole.base_model).state_dict()
        assert model.state_dict().keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    model.save_pretrained(tmp_path / "headless")
    again = load(tmp_path / "headless", lm_head=False)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


def test_random_weights_from_a_file_leave_the_random_state(tmp_path) -> None:
    file = tmp_path / "tiny.json"
    file.write_text(json.dumps(model_config("qwen2", train_tokenizer("qwen2"))))
    before = torch.get_rng_state()
    one, same, other = (load(file, lm_head=False, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [model.layers[0].mlp.up_proj.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_what_cannot_be_loaded(tmp_path) -> None:
    with pytest.raises(UserError, match=r"no config.json there"):
        load(tmp_path / "nowhere", lm_head=False)
    config = model_config("qwen2", train_tokenizer("qwen2"))
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="no weights"):
        load(tmp_path, lm_head=False)
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "made_up", "auto_map": {}}))
    with pytest.raises(UserError, match="does not know this architecture"):
        load(tmp_path, lm_head=False)
    with pytest.raises(UserError, match="made_up"):
        load({"model_type": "made_up"}, lm_head=False)
    with pytest.raises(UserError, match="neither an image-text model nor a causal language model"):
        load({"model_type": "clip_vision_model"}, lm_head=False)


def test_a_checkpoint_that_lacks_weights(tmp_path) -> None:
    model, _ = miniature("qwen2", lm_head=True)
    weights = {name: tensor for name, tensor in model.state_dict().items() if "layers.1.mlp.up_proj" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(UserError, match=r"lacks 1 weights of Qwen2Model, the first is layers.1.mlp.up_proj.weight"):
        load(tmp_path, lm_head=False)


def test_adapters_go_to_the_linear_layers_of_the_decoder() -> None:
    gated = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    assert FAMILY.lora_targets(miniature("qwen3_vl")[0]) == gated
    with torch.device("meta"):
        phi = AutoModel.from_config(AutoConfig.for_model("phi3", num_hidden_layers=1, pad_token_id=0))
    assert FAMILY.lora_targets(phi) == ("down_proj", "gate_up_proj", "o_proj", "qkv_proj")


def test_published_checkpoints_have_older_names(tmp_path) -> None:
    """Qwen2.5-VL's files say ``visual.`` and ``model.layers.``; with the head or without, no weight is lost."""
    whole, _ = miniature("qwen2_5_vl", lm_head=True)
    older = {"model.visual.": "visual.", "model.language_model.": "model."}
    weights = {}
    for name, tensor in whole.state_dict().items():
        for new, old in older.items():
            name = name.replace(new, old) if name.startswith(new) else name
        weights[name] = tensor.clone()
    assert {name.split(".")[0] for name in weights} == {"visual", "model", "lm_head"}
    whole.config.save_pretrained(tmp_path)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    for lm_head in (True, False):
        expected = (whole if lm_head else whole.base_model).state_dict()
        read = load(tmp_path, lm_head).state_dict()
        assert read.keys() == expected.keys() and all(torch.equal(read[name], expected[name]) for name in read)
