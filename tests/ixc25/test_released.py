"""Reading and writing checkpoints under the released names."""

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_ixc.ixc25 import IXC25Config, IXC25ForConditionalGeneration, IXC25Model
from lit_ixc.ixc25.miniature import build, tiny_config
from lit_ixc.ixc25.released import from_released, released_config, to_released

SCORE = torch.linspace(-1, 1, 64)[None]  # (1, H)
UNUSED = {
    "model.layers.0.attention.wqkv.lora_sft_A.weight": torch.ones(4, 64),
    "model.layers.1.feed_forward.w2.lora_dpo_B.weight": torch.ones(64, 4),
    "model.layers.1.feed_forward.w2.lora_web_A.weight": torch.ones(4, 112),
    "vit.vision_tower.vision_model.embeddings.position_ids": torch.arange(17)[None],
    "model.layers.0.attention.rotary_emb.inv_freq": torch.ones(8),
    "video_mem_proj.0.weight": torch.ones(3, 3),
}


@pytest.fixture
def model() -> IXC25ForConditionalGeneration:
    return build(tiny_config(), seed=0)


def publish(
    directory: Path, state: dict[str, Tensor], *, form: str, shards: int = 3, config: dict[str, Any] | None = None
) -> Path:
    """Write a checkpoint as publishers do: shards with an index, or one file."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config or tiny_config().to_dict(), default=str))
    stem, suffix = {"safetensors": ("model", "safetensors"), "bin": ("pytorch_model", "bin")}[form]
    names = list(state)
    weight_map = {}
    for i in range(shards):
        part = {name: state[name] for name in names[i::shards]}
        file = f"{stem}-{i + 1:05}-of-{shards:05}.{suffix}" if shards > 1 else f"{stem}.{suffix}"
        weight_map |= dict.fromkeys(part, file)
        if form == "bin":
            torch.save(part, directory / file)
        else:
            save_file(part, directory / file)
    if shards > 1:
        (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype, name
        assert torch.equal(actual[name], value), name


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", [1, 3])
def test_published_shards_are_read_bit_for_bit(
    model: IXC25ForConditionalGeneration, tmp_path: Path, form: str, shards: int
) -> None:
    state = model.to(torch.bfloat16).state_dict()
    released = from_released(publish(tmp_path, state | UNUSED, form=form, shards=shards))
    assert type(released.model) is IXC25ForConditionalGeneration
    assert_same(released.model.state_dict(), state)
    assert released.score is None
    assert sorted(released.report.ignored) == sorted(UNUSED)
    assert (len(released.report.files), released.report.filled, released.report.score_name) == (shards, [], None)
    assert not released.model.training
    assert released.model.config.dtype == torch.bfloat16
    assert all(parameter.requires_grad for parameter in released.model.parameters())


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@torch.no_grad()
def test_a_read_model_computes_what_the_original_computes(
    model: IXC25ForConditionalGeneration, tmp_path: Path, form: str
) -> None:
    inputs = {
        "input_ids": torch.tensor([[1, *[319] * 13, 7, 8]]),
        "pixel_values": torch.randn(2, 3, 56, 56),
        "image_grid": torch.tensor([[1, 1]]),
    }
    expected = model(**inputs).logits
    publish(tmp_path, model.state_dict(), form=form)
    read = from_released(tmp_path).model
    assert torch.equal(read(**inputs).logits, expected)
    # The weights do not hang on the files, which were mapped into memory while reading.
    for file in tmp_path.iterdir():
        with file.open("r+b") as handle:
            handle.write(bytes(file.stat().st_size))
    assert torch.equal(read(**inputs).logits, expected)


@pytest.mark.parametrize("max_shard_size", ["1GB", "100KB"])
def test_round_trip_is_bit_exact(model: IXC25ForConditionalGeneration, tmp_path: Path, max_shard_size: str) -> None:
    to_released(model, tmp_path / "out", score=SCORE, max_shard_size=max_shard_size)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert (len(files) > 3) == (max_shard_size == "100KB")
    written = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert_same(written, model.state_dict() | {"v_head.weight": SCORE})
    read = from_released(tmp_path / "out")
    assert_same(read.model.state_dict(), model.state_dict())
    assert torch.equal(read.score, SCORE)
    assert read.report.score_name == "v_head.weight"
    # The directory is a transformers checkpoint too.
    loaded = IXC25ForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert_same(loaded.state_dict(), model.state_dict())


def test_dtype_and_head_can_be_chosen(model: IXC25ForConditionalGeneration, tmp_path: Path) -> None:
    publish(tmp_path, model.state_dict(), form="safetensors")
    read = from_released(tmp_path, dtype=torch.bfloat16, with_head=False)
    assert type(read.model) is IXC25Model
    assert read.report.ignored == ["output.weight"]
    expected = {name: value.bfloat16() for name, value in model.state_dict().items() if name != "output.weight"}
    assert_same(read.model.state_dict(), expected)


@pytest.mark.parametrize("name", ["v_head.weight", "score.weight", "reward.projection.weight"])
def test_reward_checkpoint_gives_backbone_and_score(
    model: IXC25ForConditionalGeneration, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    state = {key: value for key, value in model.state_dict().items() if key != "output.weight"}
    publish(tmp_path, state | {name: SCORE}, form="bin")
    with caplog.at_level(logging.INFO):
        read = from_released(tmp_path)
    assert type(read.model) is IXC25Model
    assert torch.equal(read.score, SCORE)
    assert read.report.score_name == name
    assert f"took the score vector from {name}" in caplog.text


def test_a_missing_unused_norm_is_filled_and_reported(model: IXC25ForConditionalGeneration, tmp_path: Path) -> None:
    norm = "vit.vision_tower.vision_model.post_layernorm."
    state = {name: value for name, value in model.state_dict().items() if not name.startswith(norm)}
    read = from_released(publish(tmp_path, state, form="safetensors"))
    assert sorted(read.report.filled) == [f"{norm}bias", f"{norm}weight"]
    assert torch.equal(read.model.vit.clip.post_layernorm.weight, torch.ones(32))
    assert torch.equal(read.model.vit.clip.post_layernorm.bias, torch.zeros(32))


def test_all_name_problems_come_in_one_message(model: IXC25ForConditionalGeneration, tmp_path: Path) -> None:
    state = model.state_dict()
    del state["model.norm.weight"]
    state["model.layers.0.ffn_norm.weight"] = torch.ones(63)
    state["model.layers.2.ffn_norm.weight"] = torch.ones(64)
    state["two_heads.weight"] = torch.ones(2, 64)
    with pytest.raises(ValueError) as error:
        from_released(publish(tmp_path, state, form="safetensors"))
    message = str(error.value)
    assert str(tmp_path) in message
    assert "1 missing: model.norm.weight" in message
    assert "2 unexpected: " in message
    assert "model.layers.2.ffn_norm.weight (64,)" in message
    assert "two_heads.weight (2, 64)" in message
    assert "1 of another shape: model.layers.0.ffn_norm.weight (63,), expected (64,)" in message


def test_two_possible_scores_are_not_guessed(model: IXC25ForConditionalGeneration, tmp_path: Path) -> None:
    state = model.state_dict() | {"a.weight": SCORE, "b.weight": -SCORE}
    with pytest.raises(ValueError, match=r"2 unexpected: .*a\.weight \(1, 64\)"):
        from_released(publish(tmp_path, state, form="safetensors"))


def test_asking_for_an_absent_head_fails(model: IXC25ForConditionalGeneration, tmp_path: Path) -> None:
    state = {name: value for name, value in model.state_dict().items() if name != "output.weight"}
    with pytest.raises(ValueError, match=r"1 missing: output\.weight"):
        from_released(publish(tmp_path, state, form="safetensors"), with_head=True)


class Payload:
    """Stands for code that a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("unpickled-and-ran"),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_objects_are_refused(
    model: IXC25ForConditionalGeneration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    publish(tmp_path, model.state_dict(), form="bin", shards=1)
    file = tmp_path / "pytorch_model.bin"
    torch.save({"model.norm.weight": Payload()}, file)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin holds pickled objects other than tensors"):
        from_released(tmp_path)
    file.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ValueError, match=r"pytorch_model\.bin holds pickled objects other than tensors"):
        from_released(tmp_path)
    assert not (tmp_path / "unpickled-and-ran").exists()
    torch.save({"state": {"model.norm.weight": torch.ones(64)}}, file)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin must hold a flat mapping from names to tensors"):
        from_released(tmp_path)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_damaged_files_are_named(model: IXC25ForConditionalGeneration, tmp_path: Path, form: str, damage: str) -> None:
    publish(tmp_path, model.state_dict(), form=form, shards=1)
    file = next(path for path in tmp_path.iterdir() if path.suffix == f".{form}")
    content = file.read_bytes()
    file.write_bytes(
        {"truncated": content[: len(content) // 2], "empty": b"", "text": b"<html>not found</html>"}[damage]
    )
    with pytest.raises(ValueError, match=rf"{file.name} .*etch it again"):
        from_released(tmp_path)


def test_legacy_bin_format_is_read(model: IXC25ForConditionalGeneration, tmp_path: Path) -> None:
    publish(tmp_path, model.state_dict(), form="bin", shards=1)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_same(from_released(tmp_path).model.state_dict(), model.state_dict())


def test_absent_files_are_named(model: IXC25ForConditionalGeneration, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        from_released(tmp_path)
    publish(tmp_path, model.state_dict(), form="safetensors")
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"names model-00002-of-00003\.safetensors, absent"):
        from_released(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"index\.json is no weight index \(KeyError\('weight_map'\)\)"):
        from_released(tmp_path)
    for file in tmp_path.glob("model*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        from_released(tmp_path)


def test_a_tensor_in_two_files_is_refused(model: IXC25ForConditionalGeneration, tmp_path: Path) -> None:
    publish(tmp_path, model.state_dict(), form="safetensors", shards=1)
    save_file({"model.norm.weight": torch.zeros(64)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors: model\.norm\.weight is in an earlier weight file too"):
        from_released(tmp_path)


def test_writing_refuses_what_it_would_spoil(model: IXC25ForConditionalGeneration, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"score has shape \(64,\), expected \(1, 64\)"):
        to_released(model, tmp_path / "out", score=SCORE[0])
    to_released(model, tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"already holds model\.safetensors"):
        to_released(model, tmp_path / "out")
    model.model.layers[0].attention.wo = torch.nn.Sequential(model.model.layers[0].attention.wo)
    with pytest.raises(ValueError, match=r"missing: model\.layers\.0\.attention\.wo\.weight.*merge adapters"):
        to_released(model, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def write_config(path: Path, **changes: Any) -> Path:
    released = {
        "model_type": "internlmxcomposer2",
        "architectures": ["InternLMXComposer2ForCausalLM"],
        "bias": False,
        "hidden_size": 4096,
        "rope_scaling": {"factor": 2.0, "type": "dynamic"},
        "rope_theta": 1000000,
        "max_length": 16384,
        "torch_dtype": "bfloat16",
        "use_cache": False,
    }
    path.write_text(json.dumps(released | changes))
    return path


def test_released_config_json(tmp_path: Path) -> None:
    config = released_config(write_config(tmp_path / "config.json", max_position_embeddings=1000, vocab_size=92600))
    assert (config.max_position_embeddings, config.vocab_size, config.rope_ntk_factor) == (1000, 92600, 2.0)
    default = IXC25Config(max_position_embeddings=1000, vocab_size=92600)
    assert config.to_dict() == default.to_dict()
    assert released_config(write_config(tmp_path / "config.json", rope_scaling=None)).rope_ntk_factor is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": True}, "bias=True is not supported"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "only type 'dynamic'"),
        ({"rope_scaling": {"type": "dynamic"}}, "only type 'dynamic' with a factor"),
        ({"vocab_size": "many"}, "'vocab_size' expected int, got str"),
        (
            {"model_type": "ixc25", "vocab_size": 10},
            "image_token_id=92526 lies outside the vocabulary of vocab_size=10",
        ),
    ],
)
def test_unsupported_configurations_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_config(tmp_path / "config.json", **changes)
    with pytest.raises(ValueError, match=message) as error:
        released_config(path)
    assert str(path) in str(error.value)


def test_unreadable_config_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        released_config(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json must hold one JSON object, not a list"):
        released_config(path)
