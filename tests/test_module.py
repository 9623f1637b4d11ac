"""What trains, what is exported, and the optimizer's groups and schedule."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

from lit_ixc.adapters import Lora
from lit_ixc.backbone import BackboneSource, Miniature, Pretrained, hidden_states, image_features, without_lm_head
from lit_ixc.batch import ComparisonBatch
from lit_ixc.heads import MeanAllTokens, MLPHead
from lit_ixc.ixc25.miniature import build, tiny_config
from lit_ixc.ixc25.model import IXC25Model
from lit_ixc.layout import collate
from lit_ixc.optim import adamw_with_schedule, decay_groups
from lit_ixc.records import UserError
from lit_ixc.reward import RewardModule
from lit_ixc.sft import SFTModule
from tests.trees import comparison, media


class Tiny(BackboneSource):
    def load(self, lm_head: bool) -> IXC25Model:
        model = build(tiny_config(), seed=0)
        return model if lm_head else without_lm_head(model)


def make_head(hidden_size: int) -> MLPHead:
    torch.manual_seed(2)
    return MLPHead(hidden_size, MeanAllTokens())


def reward_module(**options: object) -> RewardModule:
    module = RewardModule(Tiny(), head=make_head, **options)
    module.configure_model()
    return module


def trainable(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


BATCH = collate([comparison([10, 11], [[20], [21, 22]], images=media([(1, 1)]))], 2)


def test_vision_and_projector_are_frozen_by_default() -> None:
    names = trainable(reward_module())
    assert not any(name.startswith(("model.vit", "model.vision_proj", "model.plora_")) for name in names)
    assert {"head.inner.weight", "model.model.norm.weight", "model.model.tok_embeddings.weight"} <= names
    assert any("Plora_A" in name for name in names)
    probe = trainable(reward_module(freeze_language=True))
    assert probe == {"head.inner.weight", "head.inner.bias", "head.outer.weight"}


def test_lora_trains_adapters_and_head_only() -> None:
    names = trainable(reward_module(lora=Lora(rank=2, alpha=4, dropout=0.0)))
    assert {name for name in names if "lora_" not in name} == {
        "head.inner.weight",
        "head.inner.bias",
        "head.outer.weight",
    }
    assert sum("lora_A" in name for name in names) == 2 * 5  # two layers, five linears
    assert not any("vit" in name for name in names)


def test_fresh_lora_changes_nothing_and_survives_export(tmp_path: Path) -> None:
    """Invariant 5: the head bit for bit, the merged backbone within rounding of the adapters' sum."""
    plain, adapted = reward_module().eval(), reward_module(lora=Lora(rank=2, alpha=4, dropout=0.0)).eval()
    with torch.no_grad():
        torch.testing.assert_close(adapted(BATCH), plain(BATCH), atol=1e-6, rtol=1e-6)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
        expected = adapted(BATCH)
        assert not torch.allclose(expected, plain(BATCH), atol=1e-3)
        adapted.export(tmp_path)
        torch.testing.assert_close(adapted(BATCH), expected, atol=1e-5, rtol=1e-5)  # exporting merged in place
        again = RewardModule(Pretrained(str(tmp_path)), head=make_head)
        again.configure_model()
        head = load_file(tmp_path / "reward_head.safetensors")
        assert all(torch.equal(head[name], tensor) for name, tensor in adapted.head.state_dict().items())
        again.head.load_state_dict(head)
        assert torch.equal(again.eval()(BATCH), adapted(BATCH))


def test_reward_model_starts_from_the_export_of_sft(tmp_path: Path) -> None:
    sft = SFTModule(Tiny())
    sft.configure_model()
    sft.export(tmp_path)
    reward = RewardModule(Pretrained(str(tmp_path)))
    reward.configure_model()
    assert not hasattr(reward.model, "output")  # no memory for the language-model head
    with torch.no_grad():
        assert torch.equal(hidden_states(reward.model.eval(), BATCH), hidden_states(sft.model.eval(), BATCH))


def test_missing_backbone_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no config.json there"):
        Pretrained(str(tmp_path / "nothing")).load(lm_head=False)


def test_image_features_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    module = reward_module().eval()
    with torch.no_grad():
        whole = hidden_states(module.model, BATCH)
        features = image_features(module.model, BATCH)
        monkeypatch.setattr(module.model.vit, "forward", None)  # not called again
        assert torch.equal(hidden_states(module.model, BATCH, features), whole)
    assert image_features(module.model, collate([comparison([10], [[20]])], 2)) is None


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        module = reward_module(gradient_checkpointing=checkpointing)
        module.model.config.plora_dropout = 0.0
        for part in module.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        module.loss(module(BATCH), BATCH.ranks, BATCH.scores).backward()
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-7, rtol=1e-5)


def test_sft_image_words_reach_the_vision_tower() -> None:
    module = SFTModule(Tiny(), image_words_weight=1.0, freeze_vision=False, freeze_projector=False)
    module.configure_model()
    features = image_features(module.model, BATCH)
    assert features is not None
    module.image_words_loss(features, BATCH).backward()
    assert module.model.vit.vision_tower.vision_model.embeddings.patch_embedding.weight.grad.abs().sum() > 0
    # by hand: the mean of the 13 visual vectors predicts the targets 20 4 2 and 21 22 4 2
    with torch.no_grad():
        logits = module.model.output(module.model.model.norm(features.mean(0)))
        expected = -logits.log_softmax(-1)[[20, 4, 2, 21, 22, 4, 2]].mean()
        torch.testing.assert_close(module.image_words_loss(features, BATCH), expected, atol=1e-5, rtol=1e-5)


def test_miniature_is_the_same_from_the_same_seed() -> None:
    first, second, other = (Miniature(vocab_size=300, seed=seed).load(lm_head=True) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.model.tok_embeddings.weight, other.model.tok_embeddings.weight)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vit = nn.Linear(2, 2)
        self.word = nn.Linear(2, 2)
        self.row = nn.Parameter(torch.zeros(1, 1, 3))


def test_decay_groups() -> None:
    toy = Toy()
    groups = decay_groups(toy, lr=1.0, weight_decay=0.1, scales={parameter: 0.5 for parameter in toy.vit.parameters()})
    found = {(group["lr"], group["weight_decay"]): group["params"] for group in groups}
    assert {id(p) for p in found[0.5, 0.1]} == {id(toy.vit.weight)}
    assert {id(p) for p in found[0.5, 0.0]} == {id(toy.vit.bias)}
    assert {id(p) for p in found[1.0, 0.1]} == {id(toy.word.weight)}
    assert {id(p) for p in found[1.0, 0.0]} == {id(toy.word.bias), id(toy.row)}  # (1, 1, 3) is a vector


@pytest.mark.parametrize(
    ("schedule", "factors"),
    # 12 steps, 2 of warm-up: 1/3, 2/3, then 10 steps of decay starting at 1
    [
        ("cosine", [1 / 3, 2 / 3, 1.0, 0.975528]),
        ("linear", [1 / 3, 2 / 3, 1.0, 0.9]),
        ("constant", [1 / 3, 2 / 3, 1.0, 1.0]),
    ],
)
def test_schedule(schedule: str, factors: list[float]) -> None:
    parameter = nn.Parameter(torch.zeros(1))
    made = adamw_with_schedule([{"params": [parameter], "lr": 2.0}], (0.9, 0.95), 12, 2 / 12, schedule)  # type: ignore[arg-type]
    seen = []
    for _ in factors:
        seen.append(made["optimizer"].param_groups[0]["lr"] / 2.0)
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert seen == pytest.approx(factors, abs=1e-5)


def test_schedule_follows_the_clock_where_it_is_ahead() -> None:
    parameter, used = nn.Parameter(torch.zeros(1)), iter([0.0, 0.0, 0.5, 0.1, 2.0, 2.0])
    made = adamw_with_schedule([{"params": [parameter], "lr": 1.0}], (0.9, 0.95), 10, 0.0, "linear", lambda: next(used))
    seen = []
    for _ in range(5):
        seen.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    # steps alone give 1 .9 .8 .7 .6; half the time used wins at step 2, a tenth loses at step 3, an overrun ends at 0
    assert seen == pytest.approx([1.0, 0.9, 0.5, 0.7, 0.0])


def test_bad_options_are_named() -> None:
    with pytest.raises(UserError, match="lr = 0"):
        SFTModule(Tiny(), lr=0)
    with pytest.raises(UserError, match="warmup_ratio = 2"):
        RewardModule(Tiny(), warmup_ratio=2)
    with pytest.raises(UserError, match="image_words_weight = -1"):
        SFTModule(Tiny(), image_words_weight=-1)


class Batches(torch.utils.data.Dataset[ComparisonBatch]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> ComparisonBatch:
        return BATCH


def fit_with_dropout(folder: Path, steps: int, resume: bool) -> dict[str, torch.Tensor]:
    L.seed_everything(5, verbose=False)
    module = SFTModule(Tiny(), lora=Lora(rank=2, alpha=4, dropout=0.5), lr=1e-2, warmup_ratio=0.0, schedule="constant")
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=1, save_last=True, save_top_k=0)],
    )  # fmt: skip
    loader = DataLoader(Batches(), batch_size=None, generator=torch.Generator())
    trainer.fit(module, loader, ckpt_path=str(folder / "last.ckpt") if resume else None, weights_only=True)
    return module.state_dict()


def test_dropout_goes_on_where_a_checkpoint_left_it(tmp_path: Path) -> None:
    whole = fit_with_dropout(tmp_path / "a", 8, resume=False)
    fit_with_dropout(tmp_path / "b", 3, resume=False)
    parts = fit_with_dropout(tmp_path / "b", 8, resume=True)
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())


def test_only_ties_give_an_accuracy_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    module, logged = reward_module(), {}
    monkeypatch.setattr(module, "log_dict", lambda values, **_: logged.update(values))
    tied = collate([comparison([10], [[20], [21]])._replace(ranks=(0, 0))], 2)
    module.validation_step(tied, 0)
    module.on_validation_epoch_end()
    assert list(logged) == ["val/accuracy/all"] and logged["val/accuracy/all"].isnan()


class Counting:
    """A loader with a state: five batches an epoch, and the number of the next one."""

    def __init__(self) -> None:
        self.at = 0
        self.given: list[int] = []

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[ComparisonBatch]:
        start, self.at = self.at % 5, self.at % 5
        for number in range(start, 5):
            self.at = number + 1
            self.given.append(number)
            yield BATCH

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


@pytest.mark.parametrize("limits", [{"max_steps": 9}, {"max_epochs": 2}, {"max_epochs": 2, "max_steps": 9}])
def test_resume_goes_on_in_the_middle_of_an_epoch_whatever_ends_the_run(tmp_path: Path, limits: dict[str, int]) -> None:
    """With max_epochs the schedule asks for the loader's length before the checkpoint's loops are read."""

    def fit(ckpt_path: str | None, **limits: int) -> list[int]:
        loader = Counting()
        saver = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True, enable_version_counter=False)
        options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = L.Trainer(**{"max_epochs": -1, **options, **limits}, callbacks=[saver])
        trainer.fit(RewardModule(Tiny(), head=make_head), loader, ckpt_path=ckpt_path, weights_only=True)
        return loader.given

    assert fit(None, max_steps=3) == [0, 1, 2]
    end = 9 if "max_steps" in limits else 10
    assert fit(str(tmp_path / "last.ckpt"), **limits) == [3, 4, 0, 1, 2, 3, 4][: end - 3]
