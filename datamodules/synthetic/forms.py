"""image/text_rich: receipts, tables and forms of three short lines, with digits as high as a quarter of the picture."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from PIL import ImageDraw

from datamodules.synthetic.drawing import CANVAS, GREY, INK, draw_text, paper
from datamodules.synthetic.tasks import Frames, Twins, picture_twins

_ITEMS = ("TEA", "EGG", "JAM", "HAM", "NUT", "PIE")
_FIELDS = ("AGE", "DAY", "ROW", "BUS")
_LINE = 64  # font size in canvas pixels: 16 px at 64 px


def twins(rng: Random) -> Twins:
    """One question over two documents."""
    return rng.choice((_total, _price, _cell, _field))(rng)


def _total(rng: Random) -> Twins:
    first, second = rng.sample(range(2, 10), 2)

    def draw(right: str, wrong: str) -> tuple[Frames, int]:
        price = rng.randint(1, int(right) - 1)
        prices = [str(price), str(int(right) - price)]
        lines = [*zip(rng.sample(_ITEMS, 2), prices, strict=True), ("SUM", right)]
        return _lines(rng, lines), _grade(wrong, prices)

    return picture_twins("What is the sum on the receipt?", (str(first), str(second)), draw)


def _price(rng: Random) -> Twins:
    item = rng.choice(_ITEMS)

    def draw(right: str, wrong: str) -> tuple[Frames, int]:
        return _asked_line(rng, item, right, wrong, [other for other in _ITEMS if other != item])

    return picture_twins(f"What does the {item} cost?", _two_digits(rng), draw)


def _field(rng: Random) -> Twins:
    name = rng.choice(_FIELDS)

    def draw(right: str, wrong: str) -> tuple[Frames, int]:
        return _asked_line(rng, name, right, wrong, [other for other in _FIELDS if other != name])

    return picture_twins(f"Which number stands next to {name} on the form?", _two_digits(rng), draw)


def _cell(rng: Random) -> Twins:
    row, column = rng.randrange(2), rng.randrange(2)

    def draw(right: str, wrong: str) -> tuple[Frames, int]:
        others = _other_digits(rng, right, wrong, 3)
        cells = others.copy()
        cells.insert(2 * row + column, right)
        return _table(rng, cells), _grade(wrong, others)

    return picture_twins(f"Which number is in row {'XY'[row]}, column {'AB'[column]}?", _two_digits(rng), draw)


def _asked_line(rng: Random, name: str, right: str, wrong: str, names: list[str]) -> tuple[Frames, int]:
    """Three lines, one of them the asked one."""
    others = _other_digits(rng, right, wrong, 2)
    lines = [(name, right), *zip(rng.sample(names, 2), others, strict=True)]
    rng.shuffle(lines)
    return _lines(rng, lines), _grade(wrong, others)


def _lines(rng: Random, lines: list[tuple[str, str]]) -> Frames:
    """Label on the left, value on the right, one pair in each third of the page."""
    image = paper(rng)
    left, right = rng.uniform(4, 12), CANVAS - rng.uniform(6, 18)
    ruled = rng.random() < 0.5
    for number, (label, value) in enumerate(lines):
        middle = CANVAS * (number + 0.5) / len(lines) + rng.uniform(-6, 6)
        draw_text(image, label, (left, middle), _LINE)
        draw_text(image, value, (right, middle), _LINE, anchor="rm")
        if ruled and number:
            y = CANVAS * number / len(lines)
            ImageDraw.Draw(image).line((4, y, CANVAS - 4, y), fill=GREY, width=4)
    return (image,)


def _table(rng: Random, cells: list[str]) -> Frames:
    """Two rows X, Y and two columns A, B with their heads; cells row by row."""
    image = paper(rng)
    pen = ImageDraw.Draw(image)
    shift = rng.uniform(-6, 6)
    centres = [48 + shift, 132 + shift, 212 + shift]
    for edge in (90 + shift, 172 + shift):
        pen.line((4, edge, CANVAS - 4, edge), fill=INK, width=5)
        pen.line((edge, 4, edge, CANVAS - 4), fill=INK, width=5)
    for number, head in enumerate("AB"):
        draw_text(image, head, (centres[number + 1], centres[0]), _LINE, anchor="mm", colour=GREY)
        draw_text(image, "XY"[number], (centres[0], centres[number + 1]), _LINE, anchor="mm", colour=GREY)
    for number, value in enumerate(cells):
        draw_text(image, value, (centres[number % 2 + 1], centres[number // 2 + 1]), _LINE, anchor="mm")
    return (image,)


def _two_digits(rng: Random) -> tuple[str, str]:
    first, second = rng.sample("123456789", 2)
    return first, second


def _other_digits(rng: Random, right: str, wrong: str, count: int) -> list[str]:
    """Values of the other fields: none equals the right one; in half of the documents one is the wrong one."""
    others = rng.sample([digit for digit in "123456789" if digit not in (right, wrong)], count)
    if rng.random() < 0.5:
        others[rng.randrange(count)] = wrong
    return others


def _grade(wrong: str, others: Iterable[str]) -> int:
    return 1 if wrong in others else 2
