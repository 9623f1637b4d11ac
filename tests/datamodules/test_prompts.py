"""Prompts for a policy: which rows, once each, with their records, and demonstrations beside them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from fakes import HEADER, IMAGE, TURN_END, VISUAL_TOKENS, ByteProcessor, pair, png, sft, write_json
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from datamodules.conversion import Options, convert
from datamodules.preferences import MixtureDataModule
from datamodules.prompts import PromptDataModule
from datamodules.sources import find_sources
from lit_ixc.batch import EncodedMedia, EncodedSequence, PromptBatch
from lit_ixc.records import Prompt, TextPart, UserError


class ChatByteProcessor(ByteProcessor):
    """The processor of bytes, that a policy can be asked with."""

    media_settings = "{}"
    stop_ids = (TURN_END,)

    def encode_prompt(self, prompt: Prompt, media: EncodedMedia) -> EncodedSequence:
        ids: list[int] = [IMAGE] * (VISUAL_TOKENS * len(prompt.leading))
        for message in prompt.messages:
            ids.append(HEADER[message.role])
            for part in message.parts:
                ids += list(part.text.encode()) if isinstance(part, TextPart) else [IMAGE] * VISUAL_TOKENS
            ids.append(TURN_END)
        ids.append(HEADER["assistant"])
        return EncodedSequence(ids, [token == IMAGE for token in ids], [False] * len(ids), len(ids), len(ids))

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token for token in ids if token < 256).decode()

    def unwritable(self, vocabulary: int) -> Tensor:
        return torch.arange(vocabulary) >= 256


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """12 pairs about 6 sums, 5 SFT rows about the first sums and others, and 4 pictures; the sums have a truth."""
    root = tmp_path / "data"
    (root / "image/general").mkdir(parents=True)
    for number in range(2):
        (root / f"image/general/{number}.png").write_bytes(png((number, 0, 0)))
    truth = [{"truth": {"verifier": "final_number", "arguments": {"value": n // 2 + 1}}} for n in range(12)]
    sums = [pair(f"sum-{n}", f"{n // 2} + 1?", **truth[n]) for n in range(12)]
    singles = [sft(f"single-{n}", f"{n + 4} + 1?") for n in range(5)]
    shapes = [pair(f"shape-{n}", f"What? {n % 2}", image=f"{n // 2}.png") for n in range(4)]
    write_json(root / "text/math/sums.json", sums)
    write_json(root / "text/math/sums_sft.json", singles)
    write_json(root / "image/general/shapes.json", shapes)
    return root


def module(root: Path, **options: Any) -> PromptDataModule:
    return PromptDataModule(root, ChatByteProcessor(), cache_dir=root.parent / "cache", **options)


def ids(batches: Any) -> list[str]:
    return [prompt.record.id for batch in batches for prompt in batch.prompts]


def test_a_prompt_has_its_record_its_tokens_and_its_media(data_root: Path) -> None:
    (batch,) = module(data_root, sets={"shapes": 1}).train_dataloader()
    assert isinstance(batch, PromptBatch) and batch.demonstrations is None
    found = {prompt.record.id: prompt for prompt in batch.prompts}
    assert sorted(found) == [f"shape-{n}" for n in range(4)] and batch.sources == ("shapes",) * 4
    prompt = found["shape-3"]
    text = list(b"What? 1")
    assert prompt.sequence.ids == [IMAGE] * 4 + [HEADER["user"], *text, TURN_END, HEADER["assistant"]]
    assert prompt.record.prompt.media[0].data == png((1, 0, 0)) and len(prompt.record.responses) == 2
    assert prompt.media.tensors["pixel_values"].tolist() == [[1, 0, 0]]


def test_a_repeated_prompt_is_taken_once_and_counted(data_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = ids(module(data_root, sets={"text/*/*": 1}).train_dataloader())
    # sums 0 to 5 in pairs of rows; the SFT rows ask 4 + 1 to 8 + 1, of which 4 and 5 are known from the pairs
    assert sorted(found) == sorted([*(f"sum-{n}" for n in range(0, 12, 2)), "single-2", "single-3", "single-4"])
    assert "sums: 6 prompt rows left out: repeated" in caplog.text
    assert "sums_sft: 2 prompt rows left out: repeated" in caplog.text
    assert len(ids(module(data_root, sets={"text/*/*": 1}, unique=False).train_dataloader())) == 17
    # the same question about another picture is another prompt
    assert len(ids(module(data_root, sets={"shapes": 1}).train_dataloader())) == 4


def test_a_prompt_is_on_one_side_alone(data_root: Path) -> None:
    rows = [pair(f"row-{n}", f"Q{n // 3}") for n in range(60)]
    write_json(data_root / "text/math/thrice.json", rows)
    whole = module(data_root, sets={"thrice": 1}, validation_fraction=0.4)
    train, held = ids(whole.train_dataloader()), ids(whole.val_dataloader())
    assert sorted(train + held) == sorted(f"row-{n}" for n in range(0, 60, 3)) and 0 < len(held) < 20
    counted = [
        view.left_out["repeated"]
        for held_out in (True, False)
        for view in whole.root.views(whole.patterns, whole._choice(held_out))
    ]
    assert sum(counted) == 40  # with the 20 these are all rows


def test_only_rows_with_a_truth(data_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = ids(module(data_root, with_truth=True).train_dataloader())
    assert sorted(found) == sorted(f"sum-{n}" for n in range(0, 12, 2))
    assert "sums_sft: 5 prompt rows with a truth left out: no_truth" in caplog.text
    with pytest.raises(UserError, match="no prompt rows with a truth in image/general/shapes; choose other sets"):
        module(data_root, with_truth=True, sets={"shapes": 1}).train_dataloader()


def test_a_prompt_that_is_too_long_is_dropped_whole(data_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    # "Q" has 1 + 3 tokens, the other one 9 + 3
    write_json(data_root / "text/math/long.json", [pair("short", "Q", "x" * 99), pair("long", "x" * 9)])
    fitting = module(data_root, sets={"long": 1}, test_sets=["long"], max_length=12)
    assert sorted(ids(fitting.train_dataloader())) == ["long", "short"]
    data = module(data_root, sets={"long": 1}, test_sets=["long"], max_length=11)
    train = data.train_dataloader()
    assert ids(train) == ["short"] * 2 and (train.kept, train.dropped) == (2, 1)
    test = data.test_dataloader()
    assert ids(test) == ["short"] and test.counts == {("long", "kept"): 1, ("long", "too_long"): 1}
    with pytest.raises(UserError, match=r"too_long: 2\) .* batch; raise max_length, or leave the set out"):
        list(module(data_root, sets={"long": 1}, max_length=3).train_dataloader())


def test_tests_take_every_prompt_once_in_order(data_root: Path) -> None:
    data = module(data_root, sets={"sums": 1}, test_sets=["shapes", "sums_sft"], test_batch_size=3)
    expected = [f"shape-{n}" for n in range(4)] + [f"single-{n}" for n in range(5)]
    assert ids(data.test_dataloader()) == expected
    record, batch = module(data_root, sets={"sums": 1}, validation_fraction=0.5).validation_samples(1)[0]
    assert batch.prompts[0].record == record


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"cache_encoded_mb": 8}])
def test_workers_and_cache_change_nothing(data_root: Path, options: dict[str, Any]) -> None:
    plain, other = module(data_root).train_dataloader(), module(data_root, **options).train_dataloader()
    for epoch in range(2):
        batches = []
        for loader in (plain, other):
            loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
            batches.append([prompt for batch in loader for prompt in batch.prompts])
        for one, same in zip(*batches, strict=True):
            assert (one.record, one.sequence, one.source) == (same.record, same.sequence, same.source)
            assert all(tensor.equal(same.media.tensors[name]) for name, tensor in one.media.tensors.items())


def test_processes_share_the_prompts(data_root: Path) -> None:
    class Rank:
        def __init__(self, rank: int) -> None:
            self.global_rank, self.world_size = rank, 2

    def rank(number: int) -> Any:
        data = module(data_root, batch_size=3, demonstrations={"sums_sft": 1}, demonstration_batch_size=1)
        data.trainer = Rank(number)  # type: ignore[assignment]
        return list(data.train_dataloader())

    parts = [rank(0), rank(1)]
    assert len(parts[0]) == len(parts[1])
    assert sorted(ids(parts[0]) + ids(parts[1])) == sorted(ids(module(data_root).train_dataloader()))
    # two batches of one for each process: 4 of the 5 demonstrations, none twice
    assert len({names for part in parts for names in beside(part[:2])}) == 4


def beside(batches: Any) -> list[tuple[str, ...]]:
    return [batch.demonstrations.ids for batch in batches]


def test_demonstrations_go_round_in_epochs_of_their_own(data_root: Path) -> None:
    options = {"sets": {"sums": 1}, "batch_size": 2, "demonstrations": {"sums_sft": 1}, "demonstration_batch_size": 2}
    data = module(data_root, **options)
    loader, found = data.train_dataloader(), []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        batches = list(loader)
        assert all(batch.demonstrations.ranks.tolist() == [[0]] * batch.demonstrations.size for batch in batches)
        found += beside(batches)
    # 3 batches of prompts in an epoch; 5 demonstrations make batches of 2, 2 and 1
    assert [len(one) for one in found] == [2, 2, 1, 2, 2, 1]
    first, second = (sorted(sum(found[start : start + 3], ())) for start in (0, 3))
    assert first == second == [f"single-{n}" for n in range(5)]
    alone = MixtureDataModule(
        data_root, ChatByteProcessor(), "sft", {"sums_sft": 1}, batch_size=2, cache_dir=data_root.parent / "cache"
    ).train_dataloader()
    expected = []
    for epoch in range(2):
        alone.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        expected += [batch.ids for batch in alone]
    assert found == expected and found[:3] != found[3:]
    # evaluation has none
    assert all(batch.demonstrations is None for batch in module(data_root, **options).test_dataloader())


def test_demonstrations_are_best_responses_and_none_is_held_out(data_root: Path) -> None:
    options = {"validation_fraction": 0.4, "demonstrations": {"sums": 1}, "demonstration_batch_size": 99}
    data = module(data_root, sets={"sums": 1}, unique=False, **options)
    (batch,) = data.train_dataloader()
    held = set(ids(data.val_dataloader()))
    assert held and set(batch.demonstrations.ids) == {f"sum-{n}" for n in range(12)} - held
    row = batch.demonstrations.input_ids[0].tolist()
    assert bytes(token for token in row if token < 256).decode().endswith("?good")


def test_a_held_out_prompt_is_no_demonstration_in_any_row(data_root: Path) -> None:
    options = {"validation_fraction": 0.4, "validation_by": "prompt"}
    data = module(data_root, sets={"sums": 1}, demonstrations={"sums": 1, "sums_sft": 1}, **options)
    held = {record.prompt for record, _ in data.validation_samples(99)}
    trained = {int(name.split("-")[1]) // 2 for name in ids(data.train_dataloader())}
    assert len(held) + len(trained) == 6 and held and trained
    names = {name for batch in data.train_dataloader() for name in batch.demonstrations.ids}
    questions = {f"sum-{n}": f"{n // 2} + 1?" for n in range(12)} | {f"single-{n}": f"{n + 4} + 1?" for n in range(5)}
    asked = {prompt.messages[0].text for prompt in held}
    assert names and not asked & {questions[name] for name in names}
    # the same sides in a module of another stage
    other = MixtureDataModule(data_root, ChatByteProcessor(), cache_dir=data_root.parent / "cache", **options)
    assert not asked & {questions.get(name) for batch in other.train_dataloader() for name in batch.ids}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restart_goes_on_with_prompts_and_demonstrations(data_root: Path, workers: int) -> None:
    options: dict[str, Any] = {
        "batch_size": 2,
        "num_workers": workers,
        "demonstrations": {"sums_sft": 2, "sums": 1},
        "demonstration_batch_size": 3,
    }

    def walk(loader: Any, epochs: int = 3, stop: int = 99) -> list[Any]:
        seen = []
        for epoch in range(loader.epoch, epochs):
            loader.sampler.set_epoch(epoch)
            for batch in loader:
                seen.append((ids([batch]), batch.demonstrations.ids))
                if len(seen) == stop:
                    return seen
        return seen

    whole = walk(module(data_root, **options).train_dataloader())
    assert len(whole) == 21  # 13 prompts in 7 batches, three times
    for stop in (1, 7, 10) if not workers else (9,):
        broken = module(data_root, **options).train_dataloader()
        assert walk(broken, stop=stop) == whole[:stop]
        again = module(data_root, **options).train_dataloader()
        again.load_state_dict(json.loads(json.dumps(broken.state_dict())))
        assert walk(again) == whole[stop:]


def test_other_demonstrations_are_refused_in_the_middle_of_an_epoch(data_root: Path) -> None:
    options: dict[str, Any] = {"batch_size": 2, "demonstrations": {"sums_sft": 1}}
    loader = module(data_root, **options).train_dataloader()
    batches = iter(loader)
    next(batches)
    for other in ({"demonstrations": None}, {"demonstrations": {"sums": 1}}, {"demonstration_batch_size": 1}):
        with pytest.raises(UserError, match=r"middle of epoch 0 \(batch 1\) with other demonstrations"):
            module(data_root, **options | other).train_dataloader().load_state_dict(loader.state_dict())
    list(batches)
    changed = module(data_root, **options | {"demonstrations": {"sums": 1}}).train_dataloader()
    changed.load_state_dict(loader.state_dict())
    changed.sampler.set_epoch(1)  # type: ignore[union-attr]
    assert {name.split("-")[0] for names in beside(changed) for name in names} == {"sum"}


class Killed(Exception):
    """The end of a run in the middle of an epoch."""


class Recorder(L.LightningModule):
    """Writes down what every batch holds."""

    def __init__(self, log: Path, kill_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.file, self.kill_at = log, kill_at

    def transfer_batch_to_device(self, batch: PromptBatch, device: Any, dataloader_idx: int) -> PromptBatch:
        return batch.to(device)

    def training_step(self, batch: PromptBatch, batch_idx: int) -> Tensor:
        if self.trainer.global_step == self.kill_at:
            raise Killed
        assert batch.demonstrations is not None
        with self.file.open("a") as file:
            file.write(f"{self.current_epoch} {' '.join([*ids([batch]), *batch.demonstrations.ids])}\n")
        return self.weight**2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(root: Path, data_root: Path, kill_at: int | None = None, resume: bool = False) -> list[str]:
    """Two epochs of five batches and two more; a checkpoint after every step."""
    trainer = L.Trainer(
        default_root_dir=root,
        max_steps=12,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(root / "checkpoints", every_n_train_steps=1, save_last=True)],
    )
    options = {"batch_size": 3, "demonstrations": {"sums_sft": 1}, "demonstration_batch_size": 2}
    checkpoint = str(root / "checkpoints/last.ckpt") if resume else None
    root.mkdir(exist_ok=True)
    recorder = Recorder(root / "log", kill_at)
    trainer.fit(recorder, module(data_root, **options), ckpt_path=checkpoint, weights_only=True)
    return (root / "log").read_text().splitlines()


def test_a_killed_run_goes_on_as_if_uninterrupted(tmp_path: Path, data_root: Path) -> None:
    whole = fit(tmp_path / "whole", data_root)
    assert len(whole) == 12
    with pytest.raises(Killed):
        fit(tmp_path / "parts", data_root, kill_at=8)
    assert fit(tmp_path / "parts", data_root, resume=True) == whole


def test_sets_with_an_index_of_earlier_days_are_read_alike(data_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert not convert(find_sources(data_root), out, Options()).errors
    expected = [ids(module(out, with_truth=truth).train_dataloader()) for truth in (False, True)]
    for path in out.rglob("*.index.jsonl"):
        old = [json.loads(line) for line in path.read_text().splitlines()]
        lines = [{k: v for k, v in row.items() if k not in ("tied", "truth", "prompt")} for row in old]
        assert all(len(line) == len(row) - 3 for line, row in zip(lines, old, strict=True))
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        manifest = json.loads((path.parent / "manifest.json").read_text())
        manifest["shards"][0]["index_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (path.parent / "manifest.json").write_text(json.dumps(manifest))
    assert [ids(module(out, with_truth=truth).train_dataloader()) for truth in (False, True)] == expected


def test_where_a_picture_stands_makes_a_prompt(data_root: Path) -> None:
    texts = ["<ImageHere>a b", "a <ImageHere>b", "a b<ImageHere>", "a b"]
    rows = [pair(f"row-{n}", text, image="0.png") for n, text in enumerate([*texts, *texts])]
    write_json(data_root / "image/general/places.json", rows)
    found = ids(module(data_root, sets={"places": 1}).train_dataloader())
    assert sorted(found) == [f"row-{n}" for n in range(4)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"demonstration_batch_size": 0}, "demonstration_batch_size = 0: choose at least 1"),
        ({"demonstration_max_length": 0}, "demonstration_max_length = 0"),
        ({"demonstrations": {}}, "an empty mix"),
        ({"max_length": 0}, "max_length = 0"),
    ],
)
def test_a_wrong_option_is_named_at_once(data_root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        module(data_root, **options)


def parse(init_args: dict[str, Any]) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(L.LightningDataModule, "data")
    processor = {"class_path": "test_prompts.ChatByteProcessor"}
    config = {"class_path": "datamodules.prompts.PromptDataModule", "init_args": {"processor": processor, **init_args}}
    return parser.instantiate(parser.parse_object({"data": config})).data


def test_it_is_built_from_a_config(data_root: Path) -> None:
    options = {"data_root": str(data_root), "cache_dir": str(data_root.parent / "cache")}
    data = parse({**options, "sets": {"sums": 1}, "with_truth": True, "bucket": 2, "seed": 3})
    assert isinstance(data, PromptDataModule) and data.seed == 3
    assert len(ids(data.train_dataloader())) == 6
    for name, value in (("too_long", "truncate"), ("test_too_long", "truncate"), ("ending", "sft")):
        with pytest.raises(Exception, match=name):
            parse({**options, name: value})
