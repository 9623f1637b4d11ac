"""The canvas of all pictures and clips: a square of 256 px, drawn large and scaled down when it is written."""

from __future__ import annotations

import functools
import math
from random import Random

from PIL import Image, ImageDraw, ImageFont

CANVAS = 256

Colour = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, Colour] = {
    "red": (222, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 90, 225),
    "yellow": (245, 200, 20),
    "purple": (150, 50, 180),
    "black": (25, 25, 30),
}
SHAPES = ("circle", "square", "triangle", "cross")
INK: Colour = (20, 20, 25)
GREY: Colour = (150, 150, 150)
_PAPERS: tuple[Colour, ...] = ((255, 255, 255), (240, 240, 240), (255, 248, 228), (230, 241, 252), (234, 248, 232))


def paper(rng: Random) -> Image.Image:
    """An empty canvas in one of a few pale colours."""
    return Image.new("RGB", (CANVAS, CANVAS), rng.choice(_PAPERS))


def draw_shape(image: Image.Image, shape: str, colour: Colour, centre: Point, radius: float) -> None:
    """A filled shape.

    Args:
        image: The canvas, changed in place.
        shape: One of ``SHAPES``.
        colour: Its RGB colour.
        centre: Its middle in canvas pixels.
        radius: Half of its width in canvas pixels.
    """
    pen = ImageDraw.Draw(image)
    x, y = centre
    if shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    elif shape == "square":
        side = 0.88 * radius  # about the circle's area
        pen.rectangle((x - side, y - side, x + side, y + side), fill=colour)
    elif shape == "triangle":
        pen.polygon([(x, y - radius), (x + radius, y + 0.8 * radius), (x - radius, y + 0.8 * radius)], fill=colour)
    else:
        arm = 0.3 * radius
        pen.rectangle((x - radius, y - arm, x + radius, y + arm), fill=colour)
        pen.rectangle((x - arm, y - radius, x + arm, y + radius), fill=colour)


def draw_text(image: Image.Image, text: str, at: Point, size: int, anchor: str = "lm", colour: Colour = INK) -> None:
    """Bold text in Pillow's own font.

    Args:
        image: The canvas, changed in place.
        text: The text, one line.
        at: Where the anchor stands, in canvas pixels.
        size: Font size in canvas pixels.
        anchor: Pillow's text anchor; ``lm`` = left end, middle of the line.
        colour: RGB colour.
    """
    pen = ImageDraw.Draw(image)
    pen.text(at, text, fill=colour, font=_font(size), anchor=anchor, stroke_width=size // 24, stroke_fill=colour)


def scaled(image: Image.Image, size: int) -> Image.Image:
    """The canvas at its final size, a square of ``size`` pixels."""
    return image.resize((size, size), Image.Resampling.BOX if CANVAS % size == 0 else Image.Resampling.LANCZOS)


def spread(count: int) -> list[Point]:
    """Centres of ``count`` >= 1 dots in a compact pattern, in units of the distance between neighbours, around 0."""
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    return [(i % columns - (columns - 1) / 2, i // columns - (rows - 1) / 2) for i in range(count)]


@functools.lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
