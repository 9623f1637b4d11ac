"""DPO of a miniature policy: its numbers on prefix trees, its references, its training, and how a run goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from lit_ixc.adapters import Lora
from lit_ixc.backbone import BackboneSource, Pretrained
from lit_ixc.batch import ComparisonBatch, EncodedComparison
from lit_ixc.dpo import DPOModule
from lit_ixc.dpo_losses import DPO, SimPO, chosen_nll
from lit_ixc.ixc25.image import IXC25ImageProcessor
from lit_ixc.ixc25.miniature import build, tiny_config
from lit_ixc.ixc25.processing import IXC25Processor
from lit_ixc.ixc25.tokenizer import train_tokenizer
from lit_ixc.layout import collate
from lit_ixc.records import Message, Prompt, TextPart, UserError
from lit_ixc.reference import TABLE_FILE, ReferenceTable, evaluating
from tests.native.miniatures import FAMILIES, miniature, picture, question
from tests.trees import (
    assert_equal_gradients,
    backward,
    comparison,
    ragged_comparison,
    random_comparison,
    separately,
)


class Tiny(BackboneSource):
    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def load(self, lm_head: bool) -> PreTrainedModel:
        assert lm_head
        return build(tiny_config(), seed=self.seed)


LORA = Lora(rank=4, alpha=8, dropout=0.5)
ITEMS = [ragged_comparison(seed, images, 4, 1, [3, 2], name=f"row{seed}") for seed, images in enumerate((0, 1, 0, 1))]
THREE = random_comparison(seed=7, responses=3, prompt=3, shared=1, longest=4, images=1)


def dpo(backbone: BackboneSource | None = None, **options: Any) -> DPOModule:
    torch.manual_seed(3)  # adapters draw from it
    module = DPOModule(backbone or Tiny(), **{"schedule": "constant", "warmup_ratio": 0.0, **options})
    module.configure_model()
    return module


def move(module: nn.Module) -> None:
    """As a few steps would: everything that trains, by a little."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)


def test_the_first_loss_is_the_log_of_two() -> None:
    batch = collate([*ITEMS, THREE], 2)
    for options in ({"reference": "copy"}, {"reference": "adapters_off", "lora": LORA}, {"lora": LORA}, {}):
        module = dpo(**options).eval()
        with torch.no_grad():
            scored = module.scored(batch)
            assert module.objective(scored, batch.ranks).item() == pytest.approx(math.log(2), abs=1e-6)
            assert scored.policy[0, 0] < -3  # no trivial zeros


def test_references_agree_after_steps() -> None:
    """A copy and the policy without adapters, of a policy that has moved; the policy itself gives other numbers."""
    batch, found = collate([*ITEMS, THREE], 2), []
    for reference in ("copy", "adapters_off"):
        module = dpo(lora=LORA, reference=reference)
        move(module)
        found.append(module.reference_logprobs(batch))
        policy = module.eval().scored(batch).policy
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(policy, found[1], atol=0.1)


def test_the_reference_is_without_dropout_and_training_goes_on_with_it() -> None:
    module, batch = dpo(lora=LORA), collate(ITEMS, 2)
    move(module)
    first, second = module.scored(batch), module.scored(batch)
    assert first.reference is not None and second.reference is not None
    assert torch.equal(first.reference, second.reference)
    assert not torch.allclose(first.policy, second.policy) and module.model.training
    assert not first.reference.requires_grad and first.policy.requires_grad


@pytest.mark.parametrize("items", [[THREE], ITEMS[:2]], ids=["three answers", "two rows"])
def test_a_tree_has_the_loss_and_gradients_of_separate_rows(items: list[EncodedComparison]) -> None:
    """Invariant 2, for the loss of all pairs with a likelihood term beside it."""
    module = dpo(sft_weight=0.5).eval()
    move(module.model)
    batch = collate(items, 2, row_tokens=200)
    scored = module.scored(batch)
    loss = module.objective(scored, batch.ranks)
    found = backward(module.model, loss)

    alone = [[module.scored(collate([row], 2)) for row in separately(item)] for item in items]
    policy, reference, tokens = (
        torch.stack([torch.cat([getattr(one, name)[0] for one in rows]) for rows in alone]) for name in scored._fields
    )
    again = DPO()(policy, reference, tokens, batch.ranks) + 0.5 * chosen_nll(policy, tokens, batch.ranks)
    torch.testing.assert_close(loss, again, atol=1e-6, rtol=1e-5)
    assert_equal_gradients(found, backward(module.model, again))


def test_images_are_encoded_once_for_policy_and_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    module, seen = dpo(reference="copy"), 0
    with module.reference.model(module.model) as copy:
        models = (module.model, copy)
    for model in models:
        encode = model.vit.forward

        def counted(*args: Any, encode: Any = encode, **kwargs: Any) -> Any:
            nonlocal seen
            seen += 1
            return encode(*args, **kwargs)

        monkeypatch.setattr(model.vit, "forward", counted)
    module.scored(collate([THREE], 2))
    assert seen == 1


def test_a_reference_sees_with_its_own_eyes() -> None:
    """Where the vision tower trains, what it makes of an image is not what the start made of it."""
    module, batch = dpo(reference="copy", freeze_vision=False, freeze_projector=False).eval(), collate([THREE], 2)
    with torch.no_grad():
        start = module.scored(batch).policy
        move(module)
        scored = module.scored(batch)
    assert scored.reference is not None and torch.equal(scored.reference, start)
    assert not torch.allclose(scored.policy, start, atol=0.1)


def test_a_loss_without_reference_loads_none(monkeypatch: pytest.MonkeyPatch) -> None:
    module = dpo(loss=SimPO(), reference="copy")
    monkeypatch.setattr(Tiny, "load", None)
    batch = collate(ITEMS, 2)
    assert module.scored(batch).reference is None
    expected = SimPO()(module.eval().scored(batch).policy, None, module.scored(batch).tokens, batch.ranks)
    torch.testing.assert_close(module.objective(module.scored(batch), batch.ranks), expected)


def test_options_are_checked() -> None:
    with pytest.raises(UserError, match="reference = adapters_off: the policy has no adapters"):
        DPOModule(Tiny(), reference="adapters_off")
    with pytest.raises(UserError, match="sft_weight = -1"):
        DPOModule(Tiny(), sft_weight=-1)


# ---- training


class Loader:
    """One comparison a batch, in order; goes on where a checkpoint left it."""

    def __init__(self, items: list[EncodedComparison]) -> None:
        self.items, self.start, self.handed_out = items, 0, 0

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[ComparisonBatch]:
        start, self.start = self.start, 0
        for number in range(start, len(self.items)):
            self.handed_out = number + 1
            yield collate([self.items[number]], 2)

    def state_dict(self) -> dict[str, int]:
        return {"start": self.handed_out % len(self.items)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["start"]


class Rows(L.LightningDataModule):
    """One comparison a batch, in the same order each epoch.

    Args:
        items: Rows of training, validation and testing.
        known: Rows that the pass before training sees.
        validation: Whether there is one.
    """

    def __init__(
        self, items: list[EncodedComparison], known: list[EncodedComparison] | None = None, validation: bool = True
    ) -> None:
        super().__init__()
        self.items, self.known, self.validation = items, known or items, validation
        self.passes, self.data_root = 0, "toy"

    def train_dataloader(self) -> Any:
        return Loader(self.items)

    def val_dataloader(self) -> Any:
        return self.train_dataloader() if self.validation else []

    test_dataloader = train_dataloader

    def every_training_row(self) -> Iterator[ComparisonBatch]:
        self.passes += 1
        yield collate(self.known[:1], 2)
        yield collate(self.known[1:], 2)  # laid out as it comes


def fit(folder: Path, data: L.LightningDataModule, steps: int, resume: bool = False, **options: Any) -> DPOModule:
    L.seed_everything(5, verbose=False)
    module = dpo(**{"lora": LORA, "lr": 1e-2, **options})
    saves = ModelCheckpoint(folder, every_n_train_steps=1, save_last=True, save_top_k=0, enable_version_counter=False)
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=[saves], num_sanity_val_steps=1, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=str(folder / "last.ckpt") if resume else None, weights_only=True)
    return module


def test_margins_grow_on_four_pairs(tmp_path: Path) -> None:
    module = fit(tmp_path, Rows(ITEMS), 40, lora=None, lr=2e-3, reference="copy").eval()
    with torch.no_grad():
        rewards = module(collate(ITEMS, 2))
    assert (rewards[:, 0] - rewards[:, 1]).min() > 1  # from 0
    logged = module.trainer.callback_metrics
    assert logged["val/accuracy/all"] == 1 and logged["val/margin/all"] > 1 and logged["val/loss"] < 0.3
    assert logged["val/chosen_reward"] - logged["val/rejected_reward"] == pytest.approx(logged["val/margin/all"])
    assert {"train/loss", "train/accuracy/all", "train/chosen_logprob", "train/log_ratio"} <= logged.keys()
    assert {"val/accuracy/modality/image", "val/accuracy/source/made", "val/accuracy/domain/general"} <= logged.keys()


def test_means_of_validation_are_over_comparisons(tmp_path: Path) -> None:
    """Batches of one and of three rows, and one of ties alone, weigh as their comparisons with pairs do."""
    tied = comparison([10], [[20], [21]], ranks=[0, 0])
    module = dpo()
    move(module)
    batches = [collate(ITEMS[:1], 2), collate(ITEMS[1:], 2), collate([tied], 2)]
    with torch.no_grad(), evaluating(module):
        for number, batch in enumerate(batches):
            module.validation_step(batch, number)
        whole = collate(ITEMS, 2)
        scored = module.scored(whole)
        torch.testing.assert_close(module.summary.compute()["loss"], module.objective(scored, whole.ranks))


def table_numbers(folder: Path) -> list[float]:
    with safe_open(folder / TABLE_FILE, "pt") as file:
        assert file.get_tensor("digests").dtype == torch.uint8
        return sorted(file.get_tensor("logprobs").tolist())


def test_precomputed_equals_the_other_references(tmp_path: Path) -> None:
    """The same run with each reference ends with the same weights, dropout on."""
    ends = [
        fit(tmp_path / reference, Rows(ITEMS), 6, reference=reference).state_dict()
        for reference in ("precomputed", "adapters_off", "copy")
    ]
    assert ends[0].keys() == ends[1].keys() == ends[2].keys()  # no checkpoint holds a reference
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ends[2][name], tensor, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        sums = dpo(reference="copy").reference_logprobs(collate(ITEMS, 2))
    assert table_numbers(tmp_path / "precomputed") == pytest.approx(sorted(sums.flatten().tolist()), abs=1e-4)


def test_precomputed_keeps_no_second_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads, load = [], Tiny.load
    monkeypatch.setattr(Tiny, "load", lambda self, lm_head: loads.append(1) or load(self, lm_head))
    fit(tmp_path, Rows(ITEMS), 3, lora=None, reference="precomputed")
    assert len(loads) == 1


def test_a_run_with_precomputed_references_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = fit(tmp_path / "a", Rows(ITEMS), 7, reference="precomputed").state_dict()
    fit(tmp_path / "b", Rows(ITEMS), 3, reference="precomputed")
    data = Rows(ITEMS)
    parts = fit(tmp_path / "b", data, 7, resume=True, reference="precomputed").state_dict()
    assert data.passes == 0
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())


def test_a_second_run_finds_the_table_of_the_same_policy_only(tmp_path: Path) -> None:
    options: dict[str, Any] = {"reference": "precomputed"}
    passes = []
    for seed, root in ((0, "toy"), (0, "toy"), (1, "toy"), (1, "other")):
        data = Rows(ITEMS)
        data.data_root = root
        fit(tmp_path, data, 1, backbone=Tiny(seed), **options)
        passes.append(data.passes)
    assert passes == [1, 0, 1, 1]


def test_other_weights_under_the_same_name_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(tmp_path, Rows(ITEMS), 1, reference="precomputed")
    monkeypatch.setattr(Tiny, "load", lambda self, lm_head: build(tiny_config(), seed=9))
    data = Rows(ITEMS)
    fit(tmp_path, data, 1, reference="precomputed")
    assert data.passes == 1


def test_rows_without_a_number_are_named(tmp_path: Path) -> None:
    data = Rows(ITEMS, known=ITEMS[:3], validation=False)
    with pytest.raises(UserError, match=r"precomputed: response 0 of row 'row3' in made has no reference"):
        fit(tmp_path, data, 4, reference="precomputed")


def test_validation_rows_are_in_the_table_too(tmp_path: Path) -> None:
    data = Rows(ITEMS, known=ITEMS[:3])
    fit(tmp_path, data, 4, reference="precomputed")
    assert len(table_numbers(tmp_path)) == 8


def test_other_tokens_under_the_same_id_are_noticed() -> None:
    table, batch = ReferenceTable({}), collate(ITEMS[:1], 2)
    table.add(batch, torch.tensor([[-1.0, -2.0]]))
    assert table.find(collate([ITEMS[0], ITEMS[0]], 2, "left", 16)).tolist() == [[-1.0, -2.0]] * 2
    first, second = ITEMS[0].sequences
    changes = {
        "tokens": ITEMS[0]._replace(sequences=[first, second._replace(ids=[*second.ids[:-4], 9, *second.ids[-3:]])]),
        "supervised": ITEMS[0]._replace(sequences=[first, second._replace(loss=[*second.loss[:-2], False, False])]),
        "source": ITEMS[0]._replace(source="other"),
        "media": ITEMS[0]._replace(media=ITEMS[0].media._replace(key="k")),
    }
    for changed in changes.values():
        with pytest.raises(UserError, match="has no reference log-probability"):
            table.find(collate([changed], 2))
    swapped = ITEMS[0]._replace(sequences=[second, first])
    assert table.find(collate([swapped], 2)).tolist() == [[-2.0, -1.0]]


def test_a_run_cannot_go_on_without_its_table(tmp_path: Path) -> None:
    fit(tmp_path, Rows(ITEMS), 2, reference="precomputed")
    with pytest.raises(UserError, match="was computed with another backbone; resume with the settings"):
        fit(tmp_path, Rows(ITEMS), 4, resume=True, backbone=Tiny(1), reference="precomputed")
    (tmp_path / TABLE_FILE).unlink()
    with pytest.raises(UserError, match="is missing, and the policy has been trained"):
        fit(tmp_path, Rows(ITEMS), 4, resume=True, reference="precomputed")


def test_a_data_module_must_give_every_row(tmp_path: Path) -> None:
    loaders = {"train_dataloader": lambda self: Loader(ITEMS), "val_dataloader": lambda self: []}
    plain = type("Plain", (L.LightningDataModule,), loaders)
    with pytest.raises(UserError, match="precomputed: Plain has no every_training_row"):
        fit(tmp_path, plain(), 1, reference="precomputed")


def test_testing_after_a_precomputed_run_has_the_same_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of a test set are in no table: the reference is loaded, or is the policy without adapters."""
    module = fit(tmp_path, Rows(ITEMS, validation=False), 4, lora=None, reference="precomputed")
    other = dpo(reference="copy")
    other.load_state_dict(module.state_dict())
    results = []
    for one in (module, other):
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
        results += trainer.test(one, datamodule=Rows([THREE]), verbose=False)
        table = capsys.readouterr().out
    assert results[0] == results[1] and abs(results[0]["test/chosen_reward"]) > 1e-3
    assert [line.split()[:2] for line in table.splitlines()[1:]] == [
        ["made", "3"], ["domain", "general"], ["modality", "image"], ["all", "3"]
    ]  # fmt: skip


def test_processes_stay_in_step() -> None:
    """One that has no more batches goes through its last again."""
    module, decisions = dpo(), iter([True, True, True, True, False])  # any, all (first time), any, any, any

    class Strategy:
        def reduce_boolean_decision(self, decision: bool, all: bool) -> bool:
            return next(decisions)

    class Process:
        strategy = Strategy()

    module._trainer = Process()  # type: ignore[assignment]
    batches = [collate(ITEMS[:1], 2), collate(ITEMS[1:2], 2)]
    assert [batch is batches[1] for batch in module._in_step(batches)] == [False, True, True]
    decisions = iter([True, False])
    with pytest.raises(UserError, match="fewer batches than processes"):
        list(module._in_step([]))


def test_the_export_is_a_policy(tmp_path: Path) -> None:
    module = dpo(lora=LORA)
    move(module)
    module.eval().export(tmp_path)
    again = dpo(Pretrained(str(tmp_path)), reference="copy").eval()
    batch = collate(ITEMS, 2)
    with torch.no_grad():
        torch.testing.assert_close(again.scored(batch).policy, module.scored(batch).policy, atol=1e-4, rtol=1e-4)


# ---- what the data's ending ``reward`` trains


def words(text: str) -> Message:
    return Message("assistant", (TextPart(text),))


def supervised(processor: Any, ending: Any, with_system: bool) -> list[tuple[list[int], list[int]]]:
    """(tokens before, token) of everything that a policy is trained to say."""
    prompt = question(picture(28, 28), "What is it?") if with_system else question("What is it?")
    if with_system:
        prompt = Prompt((Message("system", (TextPart("Be brief."),)), *prompt.messages), prompt.leading)
    encoded = processor.encode_media(prompt.media)
    one = processor.encode_conversation(prompt, [words("yes it is")], encoded, ending)
    return [(one.ids[:at], [one.ids[at]]) for at, used in enumerate(one.loss) if used and at >= one.response_start]


def test_endings_train_the_same_tokens_of_ixc() -> None:
    """The reward token stands behind everything that is trained."""
    tokenizer = train_tokenizer(["What is it? user assistant system yes no\n"], 280)
    processor = IXC25Processor(IXC25ImageProcessor(tile_size=28, max_tiles=4, max_tiles_multi=1), tokenizer)
    for with_system in (False, True):
        found = supervised(processor, "reward", with_system)
        assert found == supervised(processor, "sft", with_system)
        assert [token for _, token in found[-1:]] == [[tokenizer.convert_tokens_to_ids("</s>")]]
        assert len(found) > 3


@pytest.mark.parametrize("family", FAMILIES)
def test_endings_train_the_same_tokens_of_native_models(family: str) -> None:
    processor = miniature(family)[1]
    assert supervised(processor, "reward", False) == supervised(processor, "sft", False) != []


@pytest.mark.parametrize("family", ["llama", "qwen2_5_vl"])
def test_native_policies(family: str) -> None:
    model, processor = miniature(family, lm_head=True)
    prompt = question("What is it?") if family == "llama" else question(picture(16, 16), "What is it?")
    encoded = processor.encode_media(prompt.media)
    sequences = [
        processor.encode_conversation(prompt, [words(text)], encoded, "reward") for text in ("a cat", "a red dog")
    ]
    item = comparison([10], [[20], [21]])._replace(sequences=sequences, media=encoded)

    class Source(BackboneSource):
        def load(self, lm_head: bool) -> PreTrainedModel:
            return miniature(family, lm_head=lm_head)[0]

    module, batch = dpo(Source(), lora=Lora(rank=2, alpha=4, dropout=0.0)).eval(), collate([item], 2)
    scored = module.scored(batch)
    assert scored.tokens.tolist() == [[sum(one.loss) for one in sequences]]
    torch.testing.assert_close(scored.policy.detach(), scored.reference, atol=1e-5, rtol=1e-5)
    alone = torch.cat([module.scored(collate([row], 2)).policy[0] for row in separately(item)])
    torch.testing.assert_close(scored.policy[0], alone, atol=1e-5, rtol=1e-5)
    module.objective(scored, batch.ranks).backward()
    assert any(p.grad is not None and p.grad.any() for n, p in module.named_parameters() if ".lora_" in n)
