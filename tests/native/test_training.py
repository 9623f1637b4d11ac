"""A reward model and an SFT model on native backbones: one step, adapters, what trains, export and reload."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from native.miniatures import VISION_FAMILIES, miniature, picture, question
from safetensors.torch import load_file

from datamodules.encoding import encode
from lit_ixc.adapters import Lora
from lit_ixc.backbone import Pretrained, family_of, join_media
from lit_ixc.batch import ComparisonBatch, ConversationProcessor
from lit_ixc.layout import collate, separate
from lit_ixc.native import NativeProcessor
from lit_ixc.processors import SavedProcessor
from lit_ixc.records import Comparison, UserError, text_message
from lit_ixc.reward import RewardModule
from lit_ixc.sft import SFTModule

FAMILIES = (*VISION_FAMILIES, "llama")


def saved(family: str, folder: Path) -> str:
    model, processor = miniature(family, seed=0, lm_head=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def batch_of(family: str, processor: ConversationProcessor) -> ComparisonBatch:
    prompt = question("What is in the picture?", *([] if family == "llama" else [picture(40, 60)]))
    comparison = Comparison(
        id="c",
        domain="general",
        source="made",
        prompt=prompt,
        responses=tuple((text_message("assistant", text),) for text in ("A small cat.", "A red mat, and a dog.")),
        ranks=(0, 1),
    )
    encoded = encode(comparison, processor, "reward", 4096).comparison
    assert encoded is not None
    return collate([encoded], processor.pad_token_id)


def step(module: RewardModule, batch: ComparisonBatch) -> float:
    loss = module.loss(module(batch), batch.ranks, batch.scores)
    loss.backward()
    return float(loss)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reward_model_trains_on_its_own_part_and_comes_back_from_disk(family: str, tmp_path: Path) -> None:
    path = saved(family, tmp_path / "base")
    module = RewardModule(Pretrained(path))
    module.configure_model()
    assert not hasattr(module.model, "lm_head")  # no memory for the language-model head
    batch = batch_of(family, NativeProcessor(path))
    assert step(module, batch) > 0
    decoder, vision, projector = family_of(module.model).parts(module.model)
    assert all(parameter.grad is None for parameter in (*vision, *projector))
    assert all(parameter.grad is not None for parameter in decoder.parameters())

    module.export(tmp_path / "export")
    NativeProcessor(path).save_pretrained(tmp_path / "export")
    again = RewardModule(Pretrained(str(tmp_path / "export")))
    again.configure_model()
    again.head.load_state_dict(load_file(tmp_path / "export" / "reward_head.safetensors"))
    with torch.no_grad():
        assert torch.equal(again.eval()(batch), module.eval()(batch))


@pytest.mark.parametrize("family", ["qwen3_vl", "internvl", "llama"])
def test_adapters_train_alone_and_merge(family: str, tmp_path: Path) -> None:
    path = saved(family, tmp_path / "base")
    module = RewardModule(Pretrained(path), lora=Lora(rank=4, dropout=0.0))
    module.configure_model()
    batch = batch_of(family, NativeProcessor(path))
    step(module, batch)
    trained = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert trained and all("lora_" in name or name.startswith("head.") for name in trained)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
        before = module.eval()(batch)
        module.export(tmp_path / "export")
        again = RewardModule(Pretrained(str(tmp_path / "export")))
        again.configure_model()
        again.head.load_state_dict(load_file(tmp_path / "export" / "reward_head.safetensors"))
        torch.testing.assert_close(again.eval()(batch), before, atol=1e-5, rtol=1e-5)


def test_unknown_adapter_targets_are_named(tmp_path: Path) -> None:
    module = RewardModule(Pretrained(saved("llama", tmp_path)), lora=Lora(targets=("q_proj", "wqkv")))
    with pytest.raises(UserError, match="lora.targets = .'wqkv'.: no such linear layers here; there are down_proj, "):
        module.configure_model()


@pytest.mark.parametrize("family", FAMILIES)
def test_sft_predicts_what_the_models_own_head_predicts(family: str, tmp_path: Path) -> None:
    path = saved(family, tmp_path)
    module = SFTModule(Pretrained(path)).eval()
    module.configure_model()
    module.eval()
    batch = batch_of(family, NativeProcessor(path))
    rows = separate(batch)  # every sequence alone, through transformers' own forward pass
    ids, counts = rows.batch.input_ids, rows.batch.comparison >= 0
    tensors = join_media([batch.media[number].tensors for number in rows.owner])
    with torch.no_grad():
        targets = module.targets(batch)
        hidden = family_of(module.model).separate(module.model, ids, counts, tensors)
        logprobs = module.model.get_output_embeddings()(hidden).float().log_softmax(-1)
    # a target's row and column among the separate sequences, and the column before it
    row, column = rows.back[batch.target_rows] // ids.shape[1], rows.back[batch.target_rows] % ids.shape[1]
    expected = logprobs[row, column - 1, ids[row, column]]
    torch.testing.assert_close(targets.logprobs, expected, atol=1e-5, rtol=1e-5)


def test_the_words_of_an_image_reach_a_native_vision_tower(tmp_path: Path) -> None:
    path = saved("qwen3_vl", tmp_path)
    options = {"freeze_vision": False, "freeze_projector": False}
    module = SFTModule(Pretrained(path), image_words_weight=1.0, **options)  # type: ignore[arg-type]
    module.configure_model()
    batch = batch_of("qwen3_vl", NativeProcessor(path))
    features = module.image_features(batch)
    assert features is not None
    module.image_words_loss(features, batch).backward()
    assert any(parameter.grad.abs().sum() > 0 for parameter in family_of(module.model).parts(module.model).vision)  # type: ignore[union-attr]


def test_an_exported_native_processor_opens_like_any_other(tmp_path: Path) -> None:
    path = saved("qwen3_vl", tmp_path / "base")
    SavedProcessor(path).save_pretrained(tmp_path / "export")
    again = SavedProcessor(str(tmp_path / "export"))
    assert isinstance(again.processor, NativeProcessor)
    assert torch.equal(batch_of("qwen3_vl", again).input_ids, batch_of("qwen3_vl", NativeProcessor(path)).input_ids)
