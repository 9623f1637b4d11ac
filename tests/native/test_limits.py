"""What native models of many kinds meet on the way: windows, experts, scaled logits, models that are refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from native.miniatures import miniature, picture, question
from transformers import PreTrainedModel

from lit_ixc import backbone
from lit_ixc.backbone import BackboneSource, Pretrained, family_of, hidden_states
from lit_ixc.feature_callback import CacheFeatures
from lit_ixc.judges.interface import Question
from lit_ixc.judges.local import LocalJudge
from lit_ixc.layout import collate
from lit_ixc.native import NativeFamily, NativeProcessor, load
from lit_ixc.processors import SavedProcessor
from lit_ixc.records import UserError
from lit_ixc.reward import RewardModule
from tests.trees import random_comparison, separately

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 320,
}
SMALL |= {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "initializer_range": 0.2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}


def differences(config: dict[str, Any]) -> float:
    """Largest difference between a tree's hidden states and those of its sequences one by one, by the model itself."""
    model = load(config, lm_head=False)
    whole = random_comparison(1, 3, 5, 1, 6, 0)
    batch, rows = collate([whole], 0), collate(separately(whole), 0)
    with torch.no_grad():
        tree = hidden_states(model, batch)
        alone = family_of(model).separate(model, rows.input_ids, (rows.comparison >= 0).long(), {})
    ends = [(tree[0, batch.segment[0] == k][-1], alone[k - 1, rows.segment[k - 1] == 1][-1]) for k in (1, 2, 3)]
    return max(float((one - other).abs().max()) for one, other in ends)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mistral", **SMALL, "sliding_window": 64},  # longer than every sequence: a tree
        {"model_type": "mistral", **SMALL, "sliding_window": 6},  # shorter: rows of their own
        {"model_type": "gemma3_text", **SMALL, "sliding_window": 64},
        {"model_type": "qwen3_moe", **SMALL, **EXPERTS},
        {"model_type": "mixtral", **SMALL, "num_local_experts": 4},
    ],
    ids=lambda config: f"{config['model_type']}-{config.get('sliding_window')}",
)
def test_windows_and_experts_are_exact(config: dict[str, Any]) -> None:
    model = load(config, lm_head=False)
    assert NativeFamily().refusal(model) is None
    assert differences(config) < 1e-5


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ({"model_type": "llama", **SMALL}, True),
        ({"model_type": "qwen3_moe", **SMALL, **EXPERTS}, True),
        ({"model_type": "granite", **SMALL, "logits_scaling": 2.0}, False),
        ({"model_type": "cohere", **SMALL, "logit_scale": 0.5}, False),
        ({"model_type": "gemma3_text", **SMALL, "final_logit_softcapping": 1.0}, False),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_a_model_that_changes_its_heads_output_is_no_policy(config: dict[str, Any], fits: bool) -> None:
    assert load(config, lm_head=False) is not None  # a reward model needs no logits
    if fits:
        assert load(config, lm_head=True).get_output_embeddings() is not None
    else:
        with pytest.raises(UserError, match="its logits are not its head's output"):
            load(config, lm_head=True)


def test_an_attention_function_that_a_model_lacks_is_named() -> None:
    with pytest.raises(UserError, match="backbone attn_implementation = flash_attention_2: .*; choose eager"):
        load({"model_type": "llama", **SMALL}, lm_head=False, attn_implementation="flash_attention_2")


@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl"])
def test_a_native_judge_looks_at_images(family: str, tmp_path: Path) -> None:
    model, processor = miniature(family, lm_head=True)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    judge = LocalJudge(Pretrained(str(tmp_path)), NativeProcessor(str(tmp_path)), max_length=100_000)
    (judgement,) = judge.judge([Question(question("What?", picture(20, 30)), "yes", "no")])
    assert len(judgement.votes) == 2 and all(vote != "unparsed" for vote in judgement.votes)


class Given(BackboneSource):
    """A model that is there."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def load(self, lm_head: bool) -> PreTrainedModel:
        return self.model


def refused_module(monkeypatch: pytest.MonkeyPatch) -> RewardModule:
    module = RewardModule(Given(miniature("internvl")[0]))
    module.configure_model()
    monkeypatch.setitem(backbone._REFUSALS, module.model, "it is made so here")
    return module


def test_a_refused_model_encodes_its_images_in_its_own_forward_pass_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    module = refused_module(monkeypatch)
    monkeypatch.setattr("lit_ixc.module.image_features", lambda *_: pytest.fail("images are encoded a second time"))
    whole = random_comparison(1, 2, 5, 0, 4, 0)
    assert module(collate([whole], 0)).shape == (1, 2)


def test_no_feature_cache_for_a_refused_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = refused_module(monkeypatch)
    data = L.LightningDataModule()
    data.processor = miniature("internvl")[1]  # type: ignore[attr-defined]
    data.train_dataloader = lambda: []  # type: ignore[method-assign]
    callback = CacheFeatures(str(tmp_path))
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(
        datamodule=data, callbacks=[callback], precision="32-true", strategy=strategy, world_size=1
    )
    callback.setup(trainer, module, "fit")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="runs without prefix trees, since it is made so here; leave the callback out"):
        data.train_dataloader()
    trainer.callbacks.append(CacheFeatures(str(tmp_path)))
    with pytest.raises(UserError, match="CacheFeatures stands there twice"):
        callback.setup(trainer, module, "fit")  # type: ignore[arg-type]


def test_the_wrong_processor_names_the_right_one(tmp_path: Path) -> None:
    miniature("llama")[1].save_pretrained(tmp_path / "llama")
    (tmp_path / "llama" / "native_processor.json").unlink()
    (tmp_path / "llama" / "processor_config.json").write_text("{}")
    with pytest.raises(UserError, match="for a checkpoint of another model use lit_ixc.native.NativeProcessor"):
        _ = SavedProcessor(str(tmp_path / "llama")).processor
    (tmp_path / "ixc").mkdir()
    (tmp_path / "ixc" / "config.json").write_text('{"model_type": "ixc25"}')
    with pytest.raises(UserError, match="an IXC-2.5 model; use lit_ixc.processors.SavedProcessor"):
        _ = NativeProcessor(str(tmp_path / "ixc")).config
    with pytest.raises(
        UserError, match="processor path = .*nothing: no config.json there; give the folder of a checkpoint$"
    ):
        _ = NativeProcessor(str(tmp_path / "nothing")).config
