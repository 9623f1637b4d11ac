"""The embedded corpus: layout, truth, balance, splits, knobs, reproducible bytes, and what bad options answer."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datamodules.synthetic.contact_sheet import contact_sheet
from datamodules.synthetic.corpus import MIN_ROWS, SETS, SUFFIXES, Recipe, shares, write_corpus
from datamodules.synthetic.drawing import COLOURS
from datamodules.synthetic.motion import FRAMES
from datamodules.synthetic.tasks import near_numbers
from lit_ixc.cli import main

PLAIN = Recipe(rows=420, heldout_rows=140, seed=0, size=64, length_bias=0.0, noise=0.0)
SMALL = PLAIN._replace(rows=42, heldout_rows=14)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "corpus"
    write_corpus(root, PLAIN)
    return root


def rows_of(root: Path, split: str, path: str, sft: bool = False) -> list[dict[str, Any]]:
    return json.loads((root / split / f"{path}{'_sft' if sft else ''}.json").read_text())


def answer(row: dict[str, Any], side: str) -> str:
    return row[f"conversations_{side}"][-1]["value"]


def prompt(row: dict[str, Any]) -> str:
    return row["conversations_a"][0]["value"]


def files_below(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


# Written from the meaning of the rules, not from the code that makes the answers.
VERIFIERS: dict[str, Callable[..., bool]] = {
    "exact_match": lambda text, answer, ignore_case=True: (
        text.lower() == answer.lower() if ignore_case else text == answer
    ),
    "yes_no": lambda text, answer: text == answer,
    "number": lambda text, value: int(text) == value,
    "final_number": lambda text, value: int(re.findall(r"\d+", text)[-1]) == value,
    "repeat_word": lambda text, word, times: text.split() == [word] * times,
    "list": lambda text, count, case, allowed: (
        len(set(text.split(", "))) == count == len(text.split(", "))
        and text == (text.upper() if case == "upper" else text.lower())
        and {item.lower() for item in text.split(", ")} <= set(allowed)
    ),
    "ends_with": lambda text, word: words(text)[-1] == word,
    "keywords": lambda text, include, exclude: set(include) <= set(words(text)) and not set(exclude) & set(words(text)),
    "refusal": lambda text, refuse: text.startswith(("No,", "Sorry,", "I will not", "I must decline")) == refuse,
}


def holds(row: dict[str, Any], text: str) -> bool:
    return VERIFIERS[row["truth"]["verifier"]](text, **row["truth"]["arguments"])


@pytest.mark.parametrize("entry", SETS, ids=lambda entry: entry.name)
def test_the_truth_accepts_the_chosen_answer_and_refuses_the_rejected_one(corpus: Path, entry: Any) -> None:
    for split in ("train", "heldout"):
        pairs = rows_of(corpus, split, entry.path)
        assert len(pairs) == shares(PLAIN.rows if split == "train" else PLAIN.heldout_rows)[SETS.index(entry)]
        for row in pairs:
            assert holds(row, answer(row, "a")) and not holds(row, answer(row, "b")), row
            assert row["truth"]["better"] == "conversations_a" and row["grade"] >= 1
            assert row["domain"] == entry.domain and row["source"] == f"synthetic/{entry.name}"
        for row in rows_of(corpus, split, entry.path, sft=True):
            assert holds(row, answer(row, "a")) and "conversations_b" not in row and "grade" not in row


@pytest.mark.parametrize("entry", SETS, ids=lambda entry: entry.name)
def test_neither_length_nor_the_answers_alone_tell_the_better_one(corpus: Path, entry: Any) -> None:
    pairs = rows_of(corpus, "train", entry.path)
    longer = sum(len(answer(row, "a")) > len(answer(row, "b")) for row in pairs)
    shorter = sum(len(answer(row, "a")) < len(answer(row, "b")) for row in pairs)
    assert longer == shorter  # so the share among the unequal ones is 0.5
    # What a reader without the picture knows; without the prompt where there is no picture.
    known = Counter((prompt(row) if "image" in row else "", answer(row, "a"), answer(row, "b")) for row in pairs)
    assert all(count == known[question, wrong, right] for (question, right, wrong), count in known.items())
    if "image" not in pairs[0]:
        return
    assert len({prompt(row) for row in pairs}) < len(pairs)  # the prompts repeat: the check above is not empty


def test_twins_do_not_stand_side_by_side(corpus: Path) -> None:
    pairs = rows_of(corpus, "train", "image/general/scenes")
    is_twin = [
        prompt(one) == prompt(two) and answer(one, "a") == answer(two, "b")
        for one, two in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    assert sum(is_twin) < len(is_twin) / 4


def test_every_row_is_read_by_convert(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--input", str(corpus / "train"), "--output", str(tmp_path / "shards")]) == 0
    total = capsys.readouterr().out.splitlines()[-1].split()
    assert total == ["total", "840", "840", "0"]  # read, kept, dropped: 420 pairs and 420 SFT rows
    assert len(list((tmp_path / "shards").rglob("manifest.json"))) == 2 * len(SETS)


def test_equal_recipes_give_equal_bytes_and_other_seeds_other_ones(tmp_path: Path) -> None:
    for name, recipe in (("one", SMALL), ("two", SMALL), ("other", SMALL._replace(seed=9))):
        write_corpus(tmp_path / name, recipe)
    one, two, other = (files_below(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one.keys() == other.keys() and all(one[name] != other[name] for name in one if name.endswith(".json"))


def test_no_picture_and_no_text_prompt_is_in_both_splits(corpus: Path) -> None:
    train, heldout = (files_below(corpus / split) for split in ("train", "heldout"))
    media = [data for files in (train, heldout) for name, data in files.items() if not name.endswith(".json")]
    assert len(set(media)) == len(media)  # also all different inside a split
    for entry in SETS:
        if entry.path.startswith("text/"):
            prompts = {
                split: {prompt(row) for sft in (False, True) for row in rows_of(corpus, split, entry.path, sft)}
                for split in ("train", "heldout")
            }
            assert not prompts["train"] & prompts["heldout"]


def test_ids_are_unique_and_media_lie_below_the_json(corpus: Path) -> None:
    ids, named = [], []
    for file in corpus.glob("*/*/*/*.json"):
        for row in json.loads(file.read_text()):
            ids.append(row["id"])
            named += [(file.parent / row["image"]).resolve()] if "image" in row else []
    assert len(set(ids)) == len(ids) == 2 * (420 + 140)
    assert set(named) == {file.resolve() for file in corpus.rglob("*") if file.suffix in (".png", ".mp4")}


def mask(image: Image.Image, colour: str) -> np.ndarray[Any, Any]:
    """Where a picture has a colour: each channel within 40 of it."""
    return (np.abs(np.asarray(image).astype(int) - COLOURS[colour]) < 40).all(axis=-1)


def centre(where: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Mean (x, y) of the pixels of a mask."""
    ys, xs = np.nonzero(where)
    return float(xs.mean()), float(ys.mean())


def test_pictures_show_what_the_answers_say(corpus: Path) -> None:
    seen: Counter[str] = Counter()
    for path in ("image/general/scenes", "image/math/diagrams"):
        for row in rows_of(corpus, "train", path):
            image = Image.open(corpus / "train" / Path(path).parent / row["image"])
            assert image.size == (64, 64) and image.mode == "RGB"
            question, right = prompt(row), answer(row, "a")
            if match := re.match(r"Is the (\w+) object (?:left|above).* the (\w+) object", question):
                (x0, y0), (x1, y1) = (centre(mask(image, colour)) for colour in match.groups())
                assert right == (("left of" if x0 < x1 else "right of") if "left" in question else
                                 ("above" if y0 < y1 else "below"))  # fmt: skip
            elif match := re.match(r"Is the (\w+) object large", question):
                ys, xs = np.nonzero(mask(image, match[1]))
                assert right == ("large" if max(np.ptp(xs), np.ptp(ys)) > 18 else "small")
            elif match := re.match(r"How high is the (\w+) bar", question):  # a unit is 11 px, the floor line covers 1
                assert int(right) == round(mask(image, match[1]).any(axis=1).sum() / 11)
            elif match := re.match(r"Which bar is the (\w+)", question):
                heights = {colour: mask(image, colour)[:58].sum(axis=0).max() for colour in COLOURS}
                bars = {colour: height for colour, height in heights.items() if height > 6}
                assert right == (max if match[1] == "tallest" else min)(bars, key=bars.__getitem__)
            elif question.startswith(("What colour", "Is there")):
                named = [right] if question.startswith("What") else words(question)
                assert right == "no" or all(mask(image, word).sum() >= 12 for word in named if word in COLOURS)
            else:
                continue
            seen[words(question)[1] + words(question)[-1]] += 1
    assert len(seen) >= 8 and sum(seen.values()) > 100


def test_sums_and_stories_are_right(corpus: Path) -> None:
    for row in rows_of(corpus, "train", "text/math/arithmetic"):
        first, second, *third = map(int, re.findall(r"\d+", prompt(row)))
        if third:  # "... has 7 coins and buys 1. Then ... gets 2."
            value = first + second + (third[0] if re.search("finds|gets", prompt(row)) else -third[0])
            assert f"{first} + {second} = {first + second}. {first + second} " in answer(row, "a")
        elif match := re.search(r"\d ([+-]) \d", prompt(row)):
            value = first + second if match[1] == "+" else first - second
        else:
            value = max(first, second) if "larger" in prompt(row) else min(first, second)
        assert answer(row, "a").endswith(f"The answer is {value}.")


def test_clips_move_as_the_answers_say(corpus: Path) -> None:
    checked = 0
    path = "video/general/motion"
    for row in rows_of(corpus, "train", path) + rows_of(corpus, "train", path, sft=True):
        with av.open(str(corpus / "train/video/general" / row["image"])) as clip:
            stream = clip.streams.video[0]
            frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in clip.decode(stream)]
        assert stream.average_rate == 2 and len(frames) == FRAMES and frames[0].shape == (64, 64, 3)
        if prompt(row).startswith("In which direction"):
            ground = np.median(frames[0].reshape(-1, 3), axis=0)
            (x0, y0), (x1, y1) = (centre((np.abs(f - ground) > 60).any(axis=-1)) for f in (frames[0], frames[4]))
            right = ("right" if x1 > x0 else "left") if abs(x1 - x0) > abs(y1 - y0) else ("down" if y1 > y0 else "up")
            assert answer(row, "a") == right
            checked += 1
    assert checked >= 3


def test_noise_exchanges_the_given_share_and_truth_keeps_the_better_side(tmp_path: Path) -> None:
    write_corpus(tmp_path / "plain", PLAIN)
    write_corpus(tmp_path / "noisy", PLAIN._replace(noise=0.25))
    for entry in SETS:
        rows = rows_of(tmp_path / "noisy", "train", entry.path)
        flipped = [row for row in rows if row["truth"]["better"] == "conversations_b"]
        assert len(flipped) == round(0.25 * len(rows))
        assert all(holds(row, answer(row, row["truth"]["better"][-1])) for row in rows)
        assert not any(holds(row, answer(row, "a")) for row in flipped)
    for file in ("heldout", "train/image/general/scenes_images"):
        assert files_below(tmp_path / "plain" / file) == files_below(tmp_path / "noisy" / file)


def test_length_bias_lengthens_the_given_share_of_the_chosen_answers(tmp_path: Path) -> None:
    write_corpus(tmp_path, SMALL._replace(rows=280, length_bias=0.5, noise=0.5))
    for entry in SETS:
        rows = rows_of(tmp_path, "train", entry.path)
        longer = [row for row in rows if "suffix" in row["truth"]]
        assert len(longer) == (0 if entry.domain == "instruction_following" else round(0.5 * len(rows)))
        assert all(row["truth"]["suffix"] in SUFFIXES for row in longer)
        for row in longer:  # also where the labels are wrong: the bias follows the label, not the truth
            assert answer(row, "a").endswith(row["truth"]["suffix"]) and not answer(row, "b").endswith(SUFFIXES)
            chosen = answer(row, "a").removesuffix(row["truth"]["suffix"])
            assert holds(row, chosen) == (row["truth"]["better"] == "conversations_a")
        assert not any("suffix" in row["truth"] for row in rows_of(tmp_path, "heldout", entry.path))


@given(st.integers(min_value=MIN_ROWS // 2, max_value=50_000))
def test_shares_are_even_and_sum_to_the_rows(half: int) -> None:
    parts = shares(2 * half)
    assert sum(parts) == 2 * half and all(part >= 2 and part % 2 == 0 for part in parts)
    assert max(parts) == parts[0]  # image/general is the largest


@given(st.integers(), st.integers(min_value=0, max_value=9), st.integers(min_value=1, max_value=9))
def test_near_numbers_differ_and_stay_in_range(seed: int, low: int, span: int) -> None:
    first, second = near_numbers(Random(seed), low, low + span)
    assert first != second and {first, second} <= set(range(low, low + span + 1))


def test_the_command_writes_a_table_and_a_contact_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, sheet = tmp_path / "corpus", tmp_path / "docs" / "sheet.png"
    options = ["synthesize", "--output", str(output), "--rows", "14", "--heldout-rows", "14", "--size", "32"]
    assert main([*options, "--contact-sheet", str(sheet)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["set", "rows", "modality", "domain"]
    assert lines[1].split() == ["train/scenes", "2", "image", "general"]
    assert lines[-1].split() == ["total", "56"] and len(lines) == 2 + 4 * len(SETS)
    with Image.open(sheet) as picture:
        assert picture.size == contact_sheet(output / "heldout").size and len(picture.getcolors(2**20) or []) > 20
    assert main([*options, "--seed", "3"]) == 0  # an earlier corpus is replaced
    assert json.loads((output / "corpus.json").read_text())["recipe"]["seed"] == 3
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--rows", "13"], "--rows 13: give an even number from 14"),
        (["--rows", "101"], "--rows 101"),
        (["--heldout-rows", "0"], "--heldout-rows 0"),
        (["--size", "63"], "--size 63"),
        (["--size", "512"], "--size 512"),
        (["--noise", "1.5"], "--noise 1.5: give a share from 0 to 1"),
        (["--length-bias", "nan"], "--length-bias nan"),
        (["--contact-sheet", "sheet.jpg"], "--contact-sheet sheet.jpg"),
    ],
)
def test_bad_values_give_one_line_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], named: str
) -> None:
    assert main(["synthesize", "--output", str(tmp_path / "corpus"), *options]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {named}") and message.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "corpus.json").write_text('{"mine": 1}')
    assert main(["synthesize", "--output", str(tmp_path), "--rows", "14", "--heldout-rows", "14"]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert files_below(tmp_path) == {"corpus.json": b'{"mine": 1}'}
    (tmp_path / "file").write_text("x")
    assert main(["synthesize", "--output", str(tmp_path / "file" / "below"), "--rows", "14"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_unknown_options_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synthesize", "--output", "x", "--nois", "x"]) == 2
    capsys.readouterr()
    assert main(["synthesize", "--help"]) == 0
    text = capsys.readouterr().out
    for option in "output rows heldout-rows seed size length-bias noise contact-sheet".split():
        assert f"--{option}" in text
