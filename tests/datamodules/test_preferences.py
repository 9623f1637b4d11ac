"""The DataModules: which rows reach which loader, how often, under which name."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from fakes import ByteProcessor, pair, png, sft, write_json
from jsonargparse import ArgumentParser
from torch import Tensor

from datamodules.conversion import Options, convert
from datamodules.mixing import share_out
from datamodules.preferences import (
    ImagePreferenceDataModule,
    MixtureDataModule,
    TextPreferenceDataModule,
    VideoPreferenceDataModule,
)
from datamodules.shard_writer import SetWriter
from datamodules.sources import Source
from lit_ixc.backbone import BackboneSource
from lit_ixc.batch import ComparisonBatch
from lit_ixc.ixc25.miniature import build, tiny_config
from lit_ixc.ixc25.model import IXC25Model
from lit_ixc.losses import sft_loss
from lit_ixc.records import Comparison, Prompt, UserError, text_message
from lit_ixc.sft import SFTModule


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """30 text pairs, 20 image pairs (two to an image), 10 SFT rows on the same images, and folders to leave alone."""
    root = tmp_path / "data"
    (root / "image/general").mkdir(parents=True)
    for number in range(10):
        (root / f"image/general/{number}.png").write_bytes(png((number, 0, 0)))
    sums = [pair(f"sum-{number}", f"{number} + 1?", domain="math", source="upstream") for number in range(30)]
    shapes = [pair(f"shape-{number}", f"Q{number}", image=f"{number // 2}.png") for number in range(20)]
    singles = [sft(f"single-{number}", f"S{number}", image=f"{number // 5}.png") for number in range(10)]
    write_json(root / "text/math/sums.json", sums)
    write_json(root / "image/general/shapes.json", shapes)
    write_json(root / "image/general/shapes_sft.json", singles)
    write_json(root / "hard/broken.json", []).write_text("[{")
    write_json(root / "gold/metrics.json", {"accuracy": 1})
    return root


def module(root: Path, kind: type[MixtureDataModule] = MixtureDataModule, **options: Any) -> MixtureDataModule:
    options.setdefault("cache_dir", root.parent / "cache")
    return kind(root, ByteProcessor(), **options)


def ids(batches: Any) -> list[str]:
    return [identifier for batch in batches for identifier in batch.ids]


def test_an_epoch_of_all_pairs(data_root: Path) -> None:
    batches = list(module(data_root, batch_size=8).train_dataloader())
    # 50 pairs in batches of at most 8: 7 batches of 7 or 8
    assert [batch.size for batch in batches] == [8, 7, 7, 7, 7, 7, 7]
    drawn = Counter(ids(batches))
    assert set(drawn.values()) == {1} and len(drawn) == 50
    assert Counter(source for batch in batches for source in batch.sources) == {"sums": 30, "shapes": 20}
    assert {domain for batch in batches for domain in batch.domains} == {"math", "general"}
    assert all(batch.ranks.tolist() == [[0, 1]] * batch.size for batch in batches)


def test_epochs_differ_and_repeat_by_seed(data_root: Path) -> None:
    def epoch(number: int, seed: int = 0, **options: Any) -> list[str]:
        batches = module(data_root, seed=seed, **options).train_dataloader()
        batches.sampler.set_epoch(number)  # type: ignore[union-attr]
        return ids(batches)

    assert epoch(1) == epoch(1) == epoch(1, num_workers=2)
    assert epoch(1) != epoch(2) and epoch(1) != epoch(1, seed=1)


def test_weights_by_name_and_pattern(data_root: Path) -> None:
    mixed = module(data_root, sets={"sums": 3, "image/*/shapes": 1}, samples_per_epoch=40)
    batches = list(mixed.train_dataloader())
    assert Counter(source for batch in batches for source in batch.sources) == {"sums": 30, "shapes": 10}


def test_share_out() -> None:
    names = {name: None for name in ("image/a", "image/b", "image/c", "text/d")}
    sizes = {"image/a": 30, "image/b": 10, "text/d": 5}
    # image/a is named; image/* is left with b and with c, which has no rows
    shares = share_out({"a": 1.0, "image/*": 2.0, "text/*": 3.0}, names, sizes)
    assert shares == {"image/a": 1.0, "image/b": 2.0, "text/d": 3.0}
    # by size: 4 * 30 / 40, 4 * 10 / 40
    assert share_out({"image/*": 4.0}, names, sizes) == {"image/a": 3.0, "image/b": 1.0}
    with pytest.raises(UserError, match=r"sets\.\?: chooses image/a, which another entry chooses too"):
        share_out({"image/*": 1.0, "?": 1.0}, names, sizes)
    with pytest.raises(UserError, match=r"sets\.c: its sets \(image/c\) have no usable rows"):
        share_out({"c": 1.0, "a": 1.0}, names, sizes)


def test_training_and_validation_share_nothing(data_root: Path) -> None:
    whole = module(data_root, validation_fraction=0.3)
    train, held = ids(whole.train_dataloader()), ids(whole.val_dataloader())
    assert len(train) + len(held) == 50 and not set(train) & set(held) and 5 < len(held) < 25
    assert held == ids(module(data_root, validation_fraction=0.3, seed=5).val_dataloader())
    # hash order mixes the sets
    names = [identifier.split("-")[0] for identifier in held]
    assert names != sorted(names) and names != sorted(names, reverse=True)
    assert module(data_root).val_dataloader() == []


def test_holding_out_by_media(data_root: Path) -> None:
    whole = module(data_root, kind=ImagePreferenceDataModule, validation_fraction=0.4, validation_by="media")
    held = {int(identifier.split("-")[1]) // 2 for identifier in ids(whole.val_dataloader())}
    train = {int(identifier.split("-")[1]) // 2 for identifier in ids(whole.train_dataloader())}
    assert held | train == set(range(10)) and not held & train


def test_testing_takes_every_pair_of_the_root_once_in_order(data_root: Path) -> None:
    whole = module(data_root, sets={"sums": 1}, validation_fraction=0.3, test_batch_size=7)
    expected = [f"shape-{number}" for number in range(20)] + [f"sum-{number}" for number in range(30)]
    assert ids(whole.test_dataloader()) == expected == ids(whole.predict_dataloader())
    assert ids(module(data_root, test_sets=["sums"]).test_dataloader()) == expected[20:]


@pytest.mark.parametrize(
    ("kind", "expected"), [(TextPreferenceDataModule, {"sums": 30}), (ImagePreferenceDataModule, {"shapes": 20})]
)
def test_one_modality(data_root: Path, kind: type[MixtureDataModule], expected: dict[str, int]) -> None:
    batches = list(module(data_root, kind=kind).test_dataloader())
    assert Counter(source for batch in batches for source in batch.sources) == expected


def test_a_modality_that_is_not_there(data_root: Path) -> None:
    with pytest.raises(UserError, match="no video comparison rows in image/general/shapes, .*; choose other sets"):
        module(data_root, kind=VideoPreferenceDataModule).test_dataloader()


def test_sft_rows_and_chosen_answers(data_root: Path) -> None:
    assert len(ids(module(data_root, ending="sft").train_dataloader())) == 10
    batches = list(module(data_root, ending="sft", sft_from_pairs=True).train_dataloader())
    assert len(ids(batches)) == 60
    assert all(batch.ranks.shape[1] == 1 for batch in batches)


def test_sft_rows_that_share_an_image(data_root: Path) -> None:
    merged = module(data_root, ending="sft", rows_per_image=4, batch_size=10)
    (batch,) = merged.train_dataloader()
    # 5 rows to an image: items of 4 and 1 for each of two images
    assert sorted(batch.exists.sum(dim=1).tolist()) == [1, 1, 4, 4]
    assert sum(len(media.tensors["pixel_values"]) for media in batch.media) == 4
    assert sorted("+".join(batch.ids).split("+")) == sorted(f"single-{number}" for number in range(10))
    assert batch.visual.sum(dim=1).tolist() == [4] * 4
    # evaluation keeps rows apart
    assert len(ids(merged.test_dataloader())) == 10


def test_lists_of_samples_are_the_weights(data_root: Path, tmp_path: Path) -> None:
    from datamodules.convert import main

    (data_root / "data.txt").write_text("text/math/sums.json 0.01\nimage/general/shapes.json 0.04\n")
    assert main(["--input", str(data_root / "data.txt"), "--output", str(tmp_path / "out")]) == 0
    batches = list(module(tmp_path / "out").train_dataloader())
    # 10 samples of 30 rows, 40 of 20
    assert Counter(source for batch in batches for source in batch.sources) == {"sums": 10, "shapes": 40}


def test_processes_share_the_batches(data_root: Path) -> None:
    class Rank:
        def __init__(self, rank: int) -> None:
            self.global_rank, self.world_size = rank, 3

    def rank(number: int, loader: str) -> Any:
        data = module(data_root, batch_size=4, validation_fraction=0.3)
        data.trainer = Rank(number)  # type: ignore[assignment]
        return getattr(data, loader)()

    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        parts = [ids(rank(number, loader)) for number in range(3)]
        alone = ids(getattr(module(data_root, validation_fraction=0.3), loader)())
        assert sorted(sum(parts, [])) == sorted(alone)
        assert len({len(list(rank(number, loader))) for number in range(3)}) == 1


def test_too_long_policies(data_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    long = [pair(f"long-{number}", "x" * 200) for number in range(5)]
    write_json(data_root / "text/math/long.json", [*long, pair("short")])
    data = module(data_root, sets={"long": 1}, test_sets=["long"], max_length=100)
    train = data.train_dataloader()
    assert ids(train) == ["short"] * 6
    assert (train.kept, train.dropped) == (6, sum(train.counts.values()) - 6)
    test = data.test_dataloader()
    with caplog.at_level(logging.INFO):
        assert len(ids(test)) == 6
    assert test.counts == {("long", "truncated_prompt"): 5, ("long", "kept"): 1}
    assert caplog.messages[-1] == (
        "test: 6 rows = 6 kept + 0 dropped (too long: truncate at 100 tokens); long truncated_prompt 5"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0: choose at least 1"),
        ({"seed": -1}, "seed = -1"),
        ({"validation_fraction": 1.0}, "validation_fraction = 1.0"),
        ({"min_answer_share": 1.5}, "min_answer_share = 1.5"),
        ({"rows_per_image": 2}, "rows_per_image = 2: only SFT rows"),
        ({"sft_from_pairs": True}, "sft_from_pairs"),
        ({"sft_answers": "all"}, "sft_answers = all: has a meaning with ending: sft only"),
        ({"sets": {"sums": -1.0}}, r"sets\.sums = -1\.0"),
        ({"sets": {}}, "an empty mix"),
    ],
)
def test_a_wrong_option_is_named_at_once(data_root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        module(data_root, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sets": {"sum": 1.0}}, r"sets\.sum: no such set in .*; did you mean 'sums'"),
        ({"sets": {"shapes_sft": 1.0}}, "no comparison rows in image/general/shapes_sft"),
        ({"sets": {"shapes_sft": 1.0, "sums": 1.0}}, r"sets\.shapes_sft: its sets .* have no usable rows"),
        ({"sets": {"broken": 1.0}}, r"broken\.json: not valid JSON"),
    ],
)
def test_a_wrong_mix_is_named(data_root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        module(data_root, **options).train_dataloader()


def test_it_is_built_from_a_config(data_root: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(L.LightningDataModule, "data")
    config = {
        "class_path": "datamodules.preferences.TextPreferenceDataModule",
        "init_args": {
            "data_root": str(data_root),
            "processor": {"class_path": "fakes.ByteProcessor"},
            "sets": {"text/*/*": 2},
            "cache_dir": str(data_root.parent / "cache"),
        },
    }
    data = parser.instantiate(parser.parse_object({"data": config})).data
    assert isinstance(data, TextPreferenceDataModule) and isinstance(data.processor, ByteProcessor)
    assert data.data_root == str(data_root)  # what was computed from the rows is kept under it
    assert len(ids(data.train_dataloader())) == 30


class Recorder(L.LightningModule):
    """Notes the ids of the batches it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[str, list[str]] = {"train 0": [], "train 1": [], "val": [], "test": []}

    def transfer_batch_to_device(self, batch: ComparisonBatch, device: Any, dataloader_idx: int) -> ComparisonBatch:
        return batch.to(device)

    def training_step(self, batch: ComparisonBatch, batch_idx: int) -> Tensor:
        self.seen[f"train {self.current_epoch}"] += batch.ids
        return self.weight.sum()

    def validation_step(self, batch: ComparisonBatch, batch_idx: int) -> None:
        self.seen["val"] += batch.ids

    def test_step(self, batch: ComparisonBatch, batch_idx: int) -> None:
        self.seen["test"] += batch.ids

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_trainer_drives_it(data_root: Path) -> None:
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    data, recorder = module(data_root, validation_fraction=0.3), Recorder()
    trainer = L.Trainer(max_epochs=2, **options)
    trainer.fit(recorder, datamodule=data)
    trainer.test(recorder, datamodule=data, verbose=False)
    expected = module(data_root, validation_fraction=0.3).train_dataloader()
    for number in range(2):
        expected.sampler.set_epoch(number)  # type: ignore[union-attr]
        assert recorder.seen[f"train {number}"] == ids(expected)
    assert len(recorder.seen["test"]) == 50
    assert recorder.seen["val"] == ids(data.val_dataloader()) * 2


def test_the_shared_data(shared_dir: Path, tmp_path: Path) -> None:
    data = module(shared_dir / "data", kind=VideoPreferenceDataModule, cache_dir=tmp_path, test_sets=["clips"])
    assert len(ids(data.test_dataloader())) == 45


def test_damaged_rows_stop_the_run_or_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_json(tmp_path / "sums.json", [pair(f"row-{number}") for number in range(12)])
    convert([Source(path, "text/math/sums")], tmp_path / "out", Options(max_shard_rows=6))
    first, second = sorted((tmp_path / "out/text/math/sums").glob("*.tar"))
    second.unlink()
    data = bytearray(first.read_bytes())
    place = data.index(b"000000002.json")
    with pytest.raises(UserError, match=r"sums-000001\.tar is missing"):
        module(tmp_path / "out").train_dataloader()
    with caplog.at_level(logging.WARNING):
        loader = module(tmp_path / "out", on_damage="skip", samples_per_epoch=6).train_dataloader()
    assert "sums-000001.tar" in caplog.text
    # the header of the third row is damaged after the set was opened: another row takes its place
    data[place : place + 4] = b"????"
    first.write_bytes(data)
    assert sum(batch.size for batch in loader) == 6
    assert (
        loader.kept == 6
        and loader.dropped == 1
        and set(loader.counts) == {("sums", "kept"), ("sums", "corrupt_member")}
    )


def test_several_roots_by_a_pattern(data_root: Path) -> None:
    other = data_root.parent / "data-2"
    write_json(other / "text/math/more.json", [pair(f"more-{number}") for number in range(4)])
    batches = list(module(data_root.parent / "data*").train_dataloader())
    assert Counter(source for batch in batches for source in batch.sources) == {"sums": 30, "shapes": 20, "more": 4}


def test_thousands_of_samples(data_root: Path) -> None:
    mixed = module(data_root, sets={"sums": 0.06, "shapes": 0.01}, amounts="thousands")
    drawn = Counter(source for batch in mixed.train_dataloader() for source in batch.sources)
    assert drawn == {"sums": 60, "shapes": 10}
    with pytest.raises(UserError, match="amounts = thousands: give sets"):
        module(data_root, sets={"sums": 1}, amounts="thousands", samples_per_epoch=5)
    with pytest.raises(UserError, match="temperature = 0"):
        module(data_root, temperature=0)


def test_every_training_row_once(data_root: Path) -> None:
    long = [pair(f"long-{number}", "x" * 200) for number in range(5)]
    write_json(data_root / "text/math/long.json", [*long, pair("short")])
    mix = {"sums": 1, "long": 9}
    data = module(data_root, sets=mix, validation_fraction=0.3, max_length=100, test_batch_size=7, samples_per_epoch=3)
    every = data.every_training_row()
    found, held = ids(every), ids(data.val_dataloader())
    # what training drops is dropped, and nothing takes its place; validation cuts the long rows
    fitting = {f"sum-{number}" for number in range(30)} | {"short"}
    assert len(found) == len(set(found)) and set(found) == fitting - set(held)
    assert every.kept == len(found) and every.kept + every.dropped + len(held) == 36
    assert max(batch.size for batch in every) <= 7
    assert found == ids(every)  # again the same


def test_processes_share_every_training_row(data_root: Path) -> None:
    class Rank:
        def __init__(self, rank: int) -> None:
            self.global_rank, self.world_size = rank, 3

    parts = []
    for number in range(3):
        data = module(data_root, batch_size=4)
        data.trainer = Rank(number)  # type: ignore[assignment]
        parts.append(ids(data.every_training_row()))
    assert sorted(sum(parts, [])) == sorted(ids(module(data_root).train_dataloader()))


class Tiny(BackboneSource):
    def load(self, lm_head: bool) -> IXC25Model:
        return build(tiny_config(), seed=0)


def test_several_answers_have_the_loss_and_gradients_of_separate_rows_packed_or_not(tmp_path: Path) -> None:
    """K answers in one tree, the same answers as rows of one, and both packed: one loss, one gradient."""
    questions = {"Which one?": ("a", "ab, c", "abc"), "What?": ("yes",), "Why not?": ("because", "be it so")}
    trees = [answered(f"{n}", question, texts) for n, (question, texts) in enumerate(questions.items())]
    rows = [
        answered(f"{n}-{k}", question, (text,))
        for n, (question, texts) in enumerate(questions.items())
        for k, text in enumerate(texts)
    ]
    for name, records in (("trees", trees), ("rows", rows)):
        with SetWriter(tmp_path / "data" / name) as writer:
            for record in records:
                writer.write(record, [])
            writer.commit({"name": name, "samples": None})
    sft_module = SFTModule(Tiny())
    sft_module.configure_model()
    sft_module.eval()
    found, shapes = [], []
    for name, row_tokens in (("rows", None), ("rows", 64), ("trees", None), ("trees", 256)):
        data = module(
            tmp_path / "data", sets={name: 1}, ending="sft", sft_answers="equals", batch_size=9, row_tokens=row_tokens
        )
        (batch,) = data.train_dataloader()
        shapes.append((batch.size, len(batch.input_ids)))
        sft_module.zero_grad()
        targets = sft_module.targets(batch)
        loss = sft_loss(targets.logprobs, targets.weights)
        loss.backward()
        weights = sft_module.model.get_input_embeddings().weight, sft_module.model.get_output_embeddings().weight
        found.append((loss.detach(), *(weight.grad.clone() for weight in weights)))
    # 6 answers: a row each; packed by 64 in fewer rows; 3 trees; all of them in a row
    assert shapes[0] == (6, 6) and shapes[1][0] == 6 and shapes[1][1] < 6 and shapes[2:] == [(3, 3), (3, 1)]
    for loss, *gradients in found[1:]:
        torch.testing.assert_close(loss, found[0][0], rtol=1e-6, atol=1e-6)
        for gradient, expected in zip(gradients, found[0][1:], strict=True):
            assert expected.abs().max() > 1e-3
            torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


def answered(name: str, question: str, answers: tuple[str, ...]) -> Comparison:
    """A row of equally good answers."""
    prompt = Prompt((text_message("user", question),))
    responses = tuple((text_message("assistant", text),) for text in answers)
    return Comparison(name, prompt, responses, (0,) * len(answers), source="made")
