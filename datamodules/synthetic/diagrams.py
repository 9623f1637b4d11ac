"""image/math: bars to compare and read off, dots to count, and sums with a missing number."""

from __future__ import annotations

from random import Random

from PIL import ImageDraw

from datamodules.synthetic.drawing import CANVAS, COLOURS, GREY, INK, draw_shape, draw_text, paper, spread
from datamodules.synthetic.tasks import Frames, Twins, near_numbers, picture_twins

_UNIT = 44  # height of one step of the bars in canvas pixels: 11 px at 64 px
_FLOOR = 244


def twins(rng: Random) -> Twins:
    """One question over two diagrams."""
    return rng.choice((_extreme, _height, _dots, _equation))(rng)


def _extreme(rng: Random) -> Twins:
    word = rng.choice(("tallest", "shortest"))
    colours = rng.sample(list(COLOURS), 3)
    first, second = rng.sample(colours, 2)

    def draw(right: str, wrong: str) -> tuple[Frames, int]:
        heights = sorted(rng.sample(range(1, 6), 3), reverse=word == "tallest")
        near = rng.random() < 0.5  # the wrong one is the runner-up, or the other extreme
        third = next(colour for colour in colours if colour not in (right, wrong))
        order = [right, wrong, third] if near else [right, third, wrong]
        return _bars(rng, dict(zip(order, heights, strict=True))), 1 if near else 2

    return picture_twins(f"Which bar is the {word}?", (first, second), draw)


def _height(rng: Random) -> Twins:
    colours = rng.sample(list(COLOURS), 3)
    first, second = near_numbers(rng, 1, 5)

    def draw(right: str, wrong: str) -> tuple[Frames, int]:
        heights = [int(right), rng.randint(1, 5), rng.randint(1, 5)]
        return _bars(rng, dict(zip(colours, heights, strict=True))), abs(int(right) - int(wrong))

    return picture_twins(f"How high is the {colours[0]} bar?", (str(first), str(second)), draw)


def _dots(rng: Random) -> Twins:
    first, second = near_numbers(rng, 2, 6)

    def draw(right: str, wrong: str) -> tuple[Frames, int]:
        left = rng.randint(1, int(right) - 1)
        return _boxes(rng, (left, int(right) - left)), abs(int(right) - int(wrong))

    return picture_twins("How many dots are there in both boxes?", (str(first), str(second)), draw)


def _equation(rng: Random) -> Twins:
    first, second = near_numbers(rng, 2, 9)

    def draw(right: str, wrong: str) -> tuple[Frames, int]:
        left = rng.randint(1, int(right) - 1)
        image = paper(rng)
        x, y = CANVAS / 2 + rng.uniform(-14, 14), rng.uniform(-14, 14)
        draw_text(image, f"{left}+{int(right) - left}", (x, 78 + y), 104, anchor="mm")
        draw_text(image, "= ?", (x, 188 + y), 80, anchor="mm")
        return (image,), abs(int(right) - int(wrong))

    return picture_twins("Which number belongs at the question mark?", (str(first), str(second)), draw)


def _bars(rng: Random, heights: dict[str, int]) -> Frames:
    """Three bars in an order by chance, before lines at every unit."""
    image = paper(rng)
    pen = ImageDraw.Draw(image)
    for level in range(1, 6):
        y = _FLOOR - level * _UNIT
        pen.line((0, y, CANVAS, y), fill=GREY, width=3)
    width = rng.uniform(24, 34)
    for number, colour in enumerate(rng.sample(list(heights), len(heights))):
        x = CANVAS * (number + 0.5) / len(heights) + rng.uniform(-6, 6)
        pen.rectangle((x - width, _FLOOR - heights[colour] * _UNIT, x + width, _FLOOR), fill=COLOURS[colour])
    pen.line((0, _FLOOR, CANVAS, _FLOOR), fill=INK, width=6)
    return (image,)


def _boxes(rng: Random, counts: tuple[int, int]) -> Frames:
    """A box with dots on the left and one on the right."""
    image = paper(rng)
    pen = ImageDraw.Draw(image)
    colour = COLOURS[rng.choice(list(COLOURS))]
    radius = rng.uniform(15, 18)
    for number, count in enumerate(counts):
        x, y = CANVAS * (number + 0.5) / 2, CANVAS / 2 + rng.uniform(-20, 20)
        pen.rectangle((x - 60, y - 90, x + 60, y + 90), outline=INK, width=5)
        turned = rng.random() < 0.5
        for dx, dy in spread(count):
            dx, dy = (dy, dx) if turned else (dx, dy)
            draw_shape(image, "circle", colour, (x + 39 * dx, y + 44 * dy), radius)
    return (image,)
