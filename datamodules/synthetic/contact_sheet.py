"""A picture of a few rows of every pair file of a corpus, to be judged by eye."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import av
from PIL import Image, ImageDraw, ImageFont

Row = dict[str, Any]

_COLUMNS, _CELLS = 6, 12
_CELL_WIDTH, _PICTURE = 236, 128
_MARGIN, _LINE, _HEADING = 12, 17, 34
_WRAP = 34  # characters of a line of text in a cell
_COLOURS = {"prompt": (20, 20, 25), "chosen": (0, 110, 40), "rejected": (180, 30, 30), "note": (120, 120, 120)}


def contact_sheet(split: Path) -> Image.Image:
    """Twelve rows of each pair file below a split's folder: enlarged picture, prompt, chosen and rejected answer."""
    files = [file for file in sorted(split.rglob("*.json")) if not file.stem.endswith("_sft")]
    strips: list[Image.Image] = []
    for file in files:
        rows = json.loads(file.read_text(encoding="utf-8"))
        strips.append(_heading(f"{file.relative_to(split).with_suffix('')}: {len(rows)} pairs"))
        cells = [_cell(row, file.parent) for row in _varied(rows)[:_CELLS]]
        strips += [_side_by_side(cells[start : start + _COLUMNS]) for start in range(0, len(cells), _COLUMNS)]
    sheet = Image.new("RGB", (strips[0].width, sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def _varied(rows: list[Row]) -> list[Row]:
    """The rows with those first that ask in other words than the ones before them."""
    seen: dict[str, int] = {}
    turns = []
    for row in rows:
        opening = " ".join(row["conversations_a"][0]["value"].split()[:2])
        seen[opening] = seen.get(opening, 0) + 1
        turns.append(seen[opening])
    return [rows[index] for index in sorted(range(len(rows)), key=turns.__getitem__)]


def _heading(text: str) -> Image.Image:
    strip = Image.new("RGB", (_COLUMNS * _CELL_WIDTH + _MARGIN, _HEADING), "white")
    pen = ImageDraw.Draw(strip)
    pen.rectangle((0, 0, strip.width, _HEADING - 8), fill=(228, 232, 240))
    pen.text((_MARGIN, 4), text, fill="black", font=ImageFont.load_default(16))
    return strip


def _side_by_side(cells: list[Image.Image]) -> Image.Image:
    strip = Image.new("RGB", (_COLUMNS * _CELL_WIDTH + _MARGIN, max(cell.height for cell in cells)), "white")
    for column, cell in enumerate(cells):
        strip.paste(cell, (_MARGIN + column * _CELL_WIDTH, 0))
    return strip


def _cell(row: Row, folder: Path) -> Image.Image:
    texts = {
        "prompt": row["conversations_a"][0]["value"],
        "chosen": f"+ {row['conversations_a'][-1]['value']}",
        "rejected": f"- {row['conversations_b'][-1]['value']}",
        "note": f"grade {row['grade']}, {row['truth']['verifier']}",
    }
    lines = [(kind, line) for kind, text in texts.items() for line in textwrap.wrap(text, _WRAP)]
    preview = _preview(folder / row["image"]) if "image" in row else Image.new("RGB", (1, 1), "white")
    cell = Image.new("RGB", (_CELL_WIDTH, preview.height + _LINE * len(lines) + _MARGIN), "white")
    cell.paste(preview, (0, 0))
    pen, font = ImageDraw.Draw(cell), ImageFont.load_default(13)
    if "image" in row:
        pen.rectangle((0, 0, preview.width - 1, preview.height - 1), outline=_COLOURS["note"])
    for number, (kind, line) in enumerate(lines):
        pen.text((0, preview.height + 2 + number * _LINE), line, fill=_COLOURS[kind], font=font)
    return cell


def _preview(file: Path) -> Image.Image:
    """The picture enlarged, or every other frame of a clip side by side."""
    if file.suffix == ".png":
        with Image.open(file) as image:
            return image.resize((_PICTURE, _PICTURE), Image.Resampling.NEAREST)
    with av.open(str(file)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)][::2]
    side = (_CELL_WIDTH - 8) // len(frames)
    strip = Image.new("RGB", (side * len(frames), side), "white")
    for number, frame in enumerate(frames):
        strip.paste(frame.resize((side - 3, side - 3), Image.Resampling.NEAREST), (number * side, 0))
    return strip
