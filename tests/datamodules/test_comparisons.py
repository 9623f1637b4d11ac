"""Items, the cache, replacements, and counts that add up."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import ByteProcessor, pair, png, sft, write_json
from torch.utils.data._utils.pin_memory import pin_memory

from datamodules.comparisons import ComparisonDataset, Loaded, RowChoice, SetView
from datamodules.conversion import Options, convert_source
from datamodules.encoding import SftAnswers
from datamodules.loading import Collate, ComparisonLoader
from datamodules.sampling import SequentialBatches, split_fraction
from datamodules.shard_writer import SetWriter
from datamodules.shards import ShardSet
from datamodules.sources import Source
from lit_ixc.batch import EncodedMedia
from lit_ixc.records import Comparison, MediaPart, Prompt, UserError, text_message


def shard_set(root: Path, rows: list[dict[str, Any]], name: str = "a") -> ShardSet:
    for number in range(3):
        (root / f"{number}.png").write_bytes(png((number, 0, 0)))
    convert_source(Source(write_json(root / f"{name}.json", rows), name), root / "out" / name, Options())
    return ShardSet(root / "out" / name)


def ids(view: SetView) -> list[list[str]]:
    return [[view.shards.row(row)[1].id for row in view.item(number)] for number in range(len(view))]


def mixed(root: Path) -> ShardSet:
    """Two SFT rows about image 0, one about image 1, two without image, one with a placeholder, and a third about 0."""
    return shard_set(
        root,
        [
            sft("a", image="0.png"),
            sft("b", image="1.png"),
            sft("c", image="0.png"),
            sft("d"),
            sft("e"),
            sft("f", "<ImageHere>?", image="0.png"),
            sft("g", image="0.png"),
        ],
    )


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1, [["a"], ["b"], ["c"], ["d"], ["e"], ["f"], ["g"]]),
        (2, [["a", "c"], ["b"], ["d"], ["e"], ["f"], ["g"]]),
        (3, [["a", "c", "g"], ["b"], ["d"], ["e"], ["f"]]),
    ],
)
def test_rows_about_one_image_make_an_item(tmp_path: Path, most: int, expected: list[list[str]]) -> None:
    assert ids(SetView("a", mixed(tmp_path), RowChoice("sft"), most)) == expected


def test_rows_by_ending_and_modality(tmp_path: Path) -> None:
    pairs = shard_set(tmp_path, [pair("p"), pair("q", image="0.png")], "pairs")
    singles = mixed(tmp_path)
    assert ids(SetView("", pairs, RowChoice("reward"))) == [["p"], ["q"]]
    assert ids(SetView("", pairs, RowChoice("reward", modality="image"))) == [["q"]]
    assert ids(SetView("", pairs, RowChoice("sft"))) == []
    assert ids(SetView("", pairs, RowChoice("sft", sft_from_pairs=True))) == [["p"], ["q"]]
    assert ids(SetView("", singles, RowChoice("reward"))) == []
    assert len(SetView("", singles, RowChoice("sft", modality="text"))) == 2


def test_rows_of_equals_are_sft_rows_and_stay_comparisons(tmp_path: Path) -> None:
    """No preference in a row: answers to imitate, and to reward training the ties that they always were."""
    rows = [ranked("one", 0), ranked("ties", 0, 0), ranked("pair", 0, 1), ranked("list", 0, 0, 1)]
    shards = written(tmp_path / "set", rows)
    assert [shards.row(number)[1].tied for number in range(4)] == [True, True, False, False]
    assert ids(SetView("", shards, RowChoice("sft"))) == [["one"], ["ties"]]
    assert ids(SetView("", shards, RowChoice("sft", sft_from_pairs=True))) == [["one"], ["ties"], ["pair"], ["list"]]
    assert ids(SetView("", shards, RowChoice("reward"))) == [["ties"], ["pair"], ["list"]]
    assert ids(SetView("", shards, RowChoice("prompt"))) == [["one"], ["ties"], ["pair"], ["list"]]


@pytest.mark.parametrize(("answers", "expected"), [("best", ["b"]), ("equals", ["b", "c"]), ("all", ["a", "b", "c"])])
def test_which_answers_are_imitated(tmp_path: Path, answers: SftAnswers, expected: list[str]) -> None:
    views = [SetView("a", written(tmp_path / "set", [ranked("r", 1, 0, 0)]), RowChoice("sft", sft_from_pairs=True))]
    loaded = ComparisonDataset(views, ByteProcessor(), "sft", 100, sft_answers=answers)[0]
    assert loaded.comparison is not None
    found = [bytes(s.ids[s.response_start : s.response_end]).decode() for s in loaded.comparison.sequences]
    assert found == expected and loaded.comparison.ranks == (0,) * len(expected)


def ranked(name: str, *ranks: int) -> Comparison:
    """A row whose responses are a, b, c, ... with these ranks."""
    prompt = Prompt((text_message("user", f"Q {name}"),))
    answers = tuple((text_message("assistant", "abc"[k]),) for k in range(len(ranks)))
    return Comparison(name, prompt, answers, ranks, source="made")


def written(folder: Path, rows: Sequence[Comparison]) -> ShardSet:
    with SetWriter(folder) as writer:
        for one in rows:
            writer.write(one, [])
        writer.commit({"name": folder.name, "samples": None})
    return ShardSet(folder)


def test_the_held_out_side_is_the_complement(tmp_path: Path) -> None:
    shards = shard_set(tmp_path, [pair(str(number), source="s") for number in range(200)])
    train = SetView("", shards, RowChoice("reward", validation_fraction=0.2, held_out=False))
    held = SetView("", shards, RowChoice("reward", validation_fraction=0.2, held_out=True))
    assert sorted([*train.rows, *held.rows]) == list(range(200))
    assert held.rows.tolist() == [number for number in range(200) if split_fraction(f"s\0{number}") < 0.2]
    # 200 * 0.2 = 40, standard deviation sqrt(200 * 0.2 * 0.8) = 5.7
    assert 20 < len(held) < 60
    assert held.places.max() < 0.2 <= train.places.min()


def test_holding_out_by_media_keeps_an_image_on_one_side(tmp_path: Path) -> None:
    shards = mixed(tmp_path)
    for fraction in np.linspace(0.05, 0.95, 19):
        choice = RowChoice("sft", validation_fraction=fraction, by_media=True, held_out=True)
        held = {row for item in ids(SetView("", shards, choice)) for row in item}
        assert held & set("acfg") in (set(), set("acfg"))


def dataset(shards: ShardSet, processor: ByteProcessor, max_length: int = 100, **more: Any) -> ComparisonDataset:
    ending = more.pop("ending", "reward")
    views = [SetView("a", shards, RowChoice(ending), more.pop("rows_per_image", 1))]
    return ComparisonDataset(views, processor, ending, max_length, **more)


def long_and_short(root: Path) -> ShardSet:
    """Rows 1 and 2 are over 30 tokens long."""
    return shard_set(root, [pair("0"), pair("1", "x" * 50), pair("2", "x" * 50), pair("3")])


def test_a_dropped_row_is_replaced_in_training_and_counted(tmp_path: Path) -> None:
    data = dataset(long_and_short(tmp_path), ByteProcessor(), 30, replace_dropped=True)
    loaded = data[1]
    assert loaded.comparison is not None and loaded.comparison.id == "3"
    assert loaded.events == {("a", "too_long"): 2, ("a", "kept"): 1}


def test_a_dropped_row_leaves_a_gap_in_evaluation(tmp_path: Path) -> None:
    data = dataset(long_and_short(tmp_path), ByteProcessor(), 30)
    assert data[1] == (None, Counter({("a", "too_long"): 1}))
    batch, events = Collate(0)([data[number] for number in range(4)])
    assert batch is not None and batch.ids == ("0", "3")
    assert events == {("a", "too_long"): 2, ("a", "kept"): 2}
    assert Collate(0)([data[1]]) == (None, {("a", "too_long"): 1})


def test_a_set_without_a_usable_row_is_an_error(tmp_path: Path) -> None:
    data = dataset(long_and_short(tmp_path), ByteProcessor(), 3, replace_dropped=True)
    with pytest.raises(UserError, match=r"set a: 4 rows were dropped .*too_long: 4.*raise max_length"):
        data[0]


def test_an_item_keeps_the_rows_that_fit(tmp_path: Path) -> None:
    rows = [sft("a", image="0.png"), sft("b", "x" * 50, image="0.png"), sft("c", image="0.png")]
    data = dataset(shard_set(tmp_path, rows), ByteProcessor(), 30, ending="sft", rows_per_image=3)
    loaded = data[0]
    assert loaded.comparison is not None and loaded.comparison.id == "a+c"
    assert loaded.events == {("a", "kept"): 2, ("a", "too_long"): 1}
    assert len(loaded.comparison.sequences) == 2


def test_the_cache_changes_nothing_but_the_work(tmp_path: Path) -> None:
    shards = shard_set(tmp_path, [pair(str(n), image=f"{n % 3}.png") for n in range(9)])
    plain, cached = ByteProcessor(), ByteProcessor()
    expected = [dataset(shards, plain)[number] for number in range(9)]
    data = dataset(shards, cached, cache_mb=1)
    for _ in range(2):
        for number in range(9):
            found = data[number]
            assert found.events == expected[number].events
            assert found.comparison is not None and expected[number].comparison is not None
            assert found.comparison._replace(media=None) == expected[number].comparison._replace(media=None)  # type: ignore[arg-type]
            for name, tensor in expected[number].comparison.media.tensors.items():  # type: ignore[union-attr]
                assert found.comparison.media.tensors[name].equal(tensor)
    assert plain.media_calls == 9
    assert cached.media_calls == 3  # one for each picture


def test_the_cache_keeps_to_its_room(tmp_path: Path) -> None:
    shards = shard_set(tmp_path, [pair(str(n), "x" * 3000) for n in range(30)])
    data = dataset(shards, ByteProcessor(), 10_000, cache_mb=1)
    for number in range(30):
        assert data[number].comparison is not None
    # about 3010 tokens * 2 sequences * 56 bytes = 337 kB a row: the fourth passes 1 MiB
    assert len(data._rows) == 4


class AwaitingProcessor(ByteProcessor):
    """Names its media for a cache that has no features yet."""

    def encode_media(self, media: Sequence[MediaPart]) -> EncodedMedia:
        return super().encode_media(media)._replace(key="k")


def test_media_whose_features_a_cache_will_have_are_asked_for_again(tmp_path: Path) -> None:
    processor = AwaitingProcessor()
    data = dataset(shard_set(tmp_path, [pair("a", image="0.png")]), processor, cache_mb=1)
    for _ in range(3):
        assert data[0].comparison is not None
    assert processor.media_calls == 3 and not data._rows and not data._media


def test_a_worker_sends_copies_of_what_it_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor that was sent lies in shared memory, and holds a file open for as long as the worker keeps it."""
    data = dataset(shard_set(tmp_path, [pair("a", image="0.png")]), ByteProcessor(), cache_mb=1)
    monkeypatch.setattr("datamodules.comparisons.get_worker_info", lambda: object())
    for _ in range(2):
        sent = data[0].comparison
        (kept,) = data._media.values()
        assert sent is not None and sent.media.tensors and kept.tensors
        for name, tensor in kept.tensors.items():
            assert tensor.equal(sent.media.tensors[name]) and tensor.data_ptr() != sent.media.tensors[name].data_ptr()


def test_pinning_memory_keeps_the_counts(tmp_path: Path) -> None:
    _, events = Collate(0)([Loaded(None, Counter({("a", "too_long"): 3}))])
    assert pin_memory(events) == {("a", "too_long"): 3}


def loader(shards: ShardSet, workers: int = 0, max_length: int = 30) -> ComparisonLoader:
    data = dataset(shards, ByteProcessor(), max_length)
    return ComparisonLoader("test", data, SequentialBatches(np.arange(len(data)), 2), Collate(0), workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_counts_and_reports(tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture) -> None:
    batches = loader(long_and_short(tmp_path), workers)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert [batch.ids for batch in batches] == [("0",), ("3",)]
            assert (batches.counts.total(), batches.kept, batches.dropped) == (4, 2, 2)
    assert caplog.messages == [
        "test: 4 rows = 2 kept + 2 dropped (too long: drop at 30 tokens); a too_long 2",
        "test: 4 rows = 2 kept + 2 dropped (too long: drop at 30 tokens); a too_long 2",
    ]


def test_a_batch_without_rows_is_left_out(tmp_path: Path) -> None:
    shards = shard_set(tmp_path, [pair("0", "x" * 50), pair("1", "x" * 50), pair("2"), pair("3")])
    batches = loader(shards)
    assert [batch.ids for batch in batches] == [("2", "3")]
    assert batches.dropped == 2


def test_an_epoch_that_is_broken_off_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for _ in loader(long_and_short(tmp_path)):
            break
    assert len(caplog.messages) == 1


def test_damage_is_named_in_a_worker_too(tmp_path: Path) -> None:
    shards = long_and_short(tmp_path)
    tar = shards.folder / "a-000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"000000002.json", b"00000000x.json"))
    with pytest.raises(UserError, match=r"a-000000\.tar: member 000000002\.json is not at byte"):
        list(loader(shards, workers=1))
