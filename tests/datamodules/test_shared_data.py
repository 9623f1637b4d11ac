"""The real pairs and the hard cases beside the repository: what is kept, what is dropped and why."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from lit_ixc.cli import main

# file -> (rows, reasons of the dropped ones); what is not listed is kept as it is.
HARD: dict[str, tuple[int, dict[str, int]]] = {
    "absolute_path": (2, {"absolute_path": 1}),
    "animated_gif": (2, {}),
    "bom_prefixed": (1, {}),
    "cmyk_jpeg": (2, {}),
    "duplicate_ids": (4, {"duplicate_id": 2}),
    "empty_answer": (3, {"empty_answer": 2}),
    "exif_rotated_jpeg": (2, {}),
    "image_12000x12000": (2, {"too_many_pixels": 1}),
    "image_1x1": (2, {}),
    "image_1x4000": (2, {}),
    "long_answer_100k": (2, {}),
    "missing_conversations_b": (2, {"missing_conversations_b": 1}),
    "missing_image": (2, {"missing_media": 1}),
    "null_values": (6, {"wrong_type": 4}),
    "path_traversal": (2, {"outside_root": 1}),
    "png_16bit": (2, {}),
    "text_as_jpg": (2, {"undecodable_image": 1}),
    "truncated_jpeg": (2, {"undecodable_image": 1}),
    "unicode_rtl": (6, {}),
    "url_image": (2, {"url": 1}),
    "wrong_types": (9, {"wrong_type": 8}),
    "zero_byte_mp4": (2, {"empty_media": 1}),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_case_is_kept_whole_or_dropped_by_name(name: str, shared_dir: Path, tmp_path: Path) -> None:
    source, out = shared_dir / "data" / "hard" / f"{name}.json", tmp_path / "out"
    assert main(["convert", "--input", str(source), "--output", str(out)]) == 0
    rows, reasons = HARD[name]
    manifest = json.loads((out / name / "manifest.json").read_text())
    lost = sum(reasons.values())
    assert manifest["rows"] == {"read": rows, "kept": rows - lost, "dropped": lost}
    listed = [json.loads(line) for line in (out / name / "dropped.jsonl").read_text().splitlines()]
    assert Counter(row["reason"] for row in listed) == reasons == manifest["dropped"]
    assert all(f"{name}.json, row {row['row']}: " in row["message"] for row in listed)
    if reasons:  # never the complete row that stands beside the subject
        assert not any(str(row["id"]).endswith("-control") for row in listed)


def test_truncated_json_is_one_clear_error(
    shared_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shared_dir / "data" / "hard" / "truncated_json.json"
    assert main(["convert", "--input", str(source), "--output", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ") and "truncated_json.json: not valid JSON at line 1, column 941" in message


def test_every_hard_file_has_its_expectation(shared_dir: Path) -> None:
    found = {path.stem for path in (shared_dir / "data" / "hard").glob("*.json")}
    assert set(HARD) | {"truncated_json"} == found


@pytest.mark.slow
def test_all_real_files_convert(shared_dir: Path, tmp_path: Path) -> None:
    """Each set has the rows of its file; nothing of the real pairs is dropped."""
    for folder in ("text", "image", "video"):
        source, out = shared_dir / "data" / folder, tmp_path / folder
        assert main(["convert", "--input", str(source), "--output", str(out)]) == 0
        for path in source.glob("*/*.json"):
            manifest = json.loads((out / path.relative_to(source).with_suffix("") / "manifest.json").read_text())
            number = len(json.loads(path.read_text()))
            assert manifest["rows"] == {"read": number, "kept": number, "dropped": 0}, path.name
