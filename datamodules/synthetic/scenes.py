"""image/general: one to four objects on a pale ground; questions on colour, shape, count, size, place and presence."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from random import Random
from typing import NamedTuple

from datamodules.synthetic.drawing import CANVAS, COLOURS, SHAPES, draw_shape, paper
from datamodules.synthetic.tasks import Frames, Twins, near_numbers, picture_twins

_CELLS = tuple(product((64, 192), (64, 192)))  # centres (x, y) of the quarters of the canvas
_LARGE, _SMALL = 54, 24  # radii in canvas pixels: 27 and 12 px across at 64 px
_ALONE = 1.35  # an object alone is drawn larger by this factor, still small or large by its radius
_KINDS = tuple(product(SHAPES, COLOURS))


class Thing(NamedTuple):
    """An object of a scene; ``cell`` is the index of its quarter, top to bottom first, then left to right."""

    shape: str
    colour: str
    large: bool
    cell: int


def twins(rng: Random) -> Twins:
    """One question over two scenes."""
    kinds = (_colour, _shape, _count, _presence, _side, _size)
    return rng.choices(kinds, weights=(6, 5, 3, 3, 2, 2))[0](rng)


def _colour(rng: Random) -> Twins:
    shape = rng.choice(SHAPES)
    first, second = rng.sample(list(COLOURS), 2)

    def draw(right: str, wrong: str) -> tuple[Frames, int]:
        others = [kind for kind in _KINDS if kind[0] != shape]
        return _with_others(rng, (shape, right), others, lookalikes=[kind for kind in others if kind[1] == wrong])

    return picture_twins(f"What colour is the {shape}?", (first, second), draw)


def _shape(rng: Random) -> Twins:
    colour = rng.choice(list(COLOURS))
    first, second = rng.sample(SHAPES, 2)

    def draw(right: str, wrong: str) -> tuple[Frames, int]:
        others = [kind for kind in _KINDS if kind[1] != colour]
        return _with_others(rng, (right, colour), others, lookalikes=[kind for kind in others if kind[0] == wrong])

    return picture_twins(f"What shape is the {colour} object?", (first, second), draw)


def _count(rng: Random) -> Twins:
    colour = rng.choice(list(COLOURS)) if rng.random() < 0.5 else None
    first, second = near_numbers(rng, 1, 4)

    def draw(right: str, wrong: str) -> tuple[Frames, int]:
        number = int(right)
        counted = rng.choices([kind for kind in _KINDS if colour in (None, kind[1])], k=number)
        others = rng.choices([kind for kind in _KINDS if kind[1] != colour], k=4 - number)
        shown = others[: rng.randint(0, len(others))] if colour else []
        return _scene(rng, _placed(rng, [*counted, *shown])), abs(number - int(wrong))

    what = f"{colour} objects" if colour else "objects"
    return picture_twins(f"How many {what} are there?", (str(first), str(second)), draw)


def _presence(rng: Random) -> Twins:
    shape, colour = rng.choice(_KINDS)
    named, meant = rng.choice(
        (
            (f"{colour} object", [kind for kind in _KINDS if kind[1] == colour]),
            (shape, [kind for kind in _KINDS if kind[0] == shape]),
            (f"{colour} {shape}", [(shape, colour)]),
        )
    )

    def draw(right: str, wrong: str) -> tuple[Frames, int]:
        others = [kind for kind in _KINDS if kind not in meant]
        lookalikes = [kind for kind in others if kind[0] == shape or kind[1] == colour]
        shown = [rng.choice(meant if right == "yes" else others), *rng.choices(others, k=_company(rng))]
        return _scene(rng, _placed(rng, shown)), 1 if any(kind in lookalikes for kind in shown) else 2

    return picture_twins(f"Is there a {named}?", ("yes", "no"), draw)


def _side(rng: Random) -> Twins:
    colour, anchor = rng.sample(list(COLOURS), 2)
    sides = rng.choice((("left of", "right of"), ("above", "below")))

    def draw(right: str, wrong: str) -> tuple[Frames, int]:
        low, high = ((0, 1), (2, 3)) if sides[0] == "left of" else ((0, 2), (1, 3))
        cells = [rng.choice(low), rng.choice(high)]
        if right == sides[1]:
            cells.reverse()
        free = [cell for cell in range(4) if cell not in cells]
        others = [kind for kind in _KINDS if kind[1] not in (colour, anchor)]
        cells += free[: _company(rng)]
        kinds = [(rng.choice(SHAPES), colour), (rng.choice(SHAPES), anchor), *rng.choices(others, k=len(cells) - 2)]
        return _scene(rng, [_thing(rng, *kind, cell) for kind, cell in zip(kinds, cells, strict=True)]), 1

    return picture_twins(f"Is the {colour} object {sides[0]} or {sides[1]} the {anchor} object?", sides, draw)


def _size(rng: Random) -> Twins:
    colour = rng.choice(list(COLOURS))

    def draw(right: str, wrong: str) -> tuple[Frames, int]:
        others = rng.choices([kind for kind in _KINDS if kind[1] != colour], k=_company(rng))
        first, *rest = _placed(rng, [(rng.choice(SHAPES), colour), *others])
        grade = 1 if any(thing.large != (right == "large") for thing in rest) else 2
        return _scene(rng, [first._replace(large=right == "large"), *rest]), grade

    return picture_twins(f"Is the {colour} object large or small?", ("large", "small"), draw)


def _with_others(
    rng: Random, target: tuple[str, str], others: list[tuple[str, str]], lookalikes: list[tuple[str, str]]
) -> tuple[Frames, int]:
    """The asked object alone in about half of the scenes, else with up to three others.

    In a quarter of the scenes one of the others has what the wrong answer says.
    """
    near = rng.random() < 0.25
    plain = [kind for kind in others if kind not in lookalikes]
    shown = [rng.choice(lookalikes)] if near else []
    shown += rng.choices(plain, k=_company(rng))
    return _scene(rng, _placed(rng, [target, *shown])), 1 if near else 2


def _company(rng: Random) -> int:
    """How many other objects a scene has: mostly none, so that a small model finds a way in."""
    return rng.choices((0, 1, 2), weights=(6, 2, 1))[0]


def _placed(rng: Random, kinds: Iterable[tuple[str, str]]) -> list[Thing]:
    """Objects of the given kinds in quarters of their own, with sizes by chance."""
    cells = rng.sample(range(4), 4)
    return [_thing(rng, *kind, cell) for kind, cell in zip(kinds, cells, strict=False)]


def _thing(rng: Random, shape: str, colour: str, cell: int) -> Thing:
    return Thing(shape, colour, rng.random() < 0.7, cell)


def _scene(rng: Random, things: list[Thing]) -> Frames:
    image = paper(rng)
    for thing in things:
        alone = len(things) == 1
        radius = (_LARGE if thing.large else _SMALL) * rng.uniform(0.9, 1.1) * (_ALONE if alone else 1)
        room = (126 if alone else 63) - radius
        x, y = (CANVAS / 2, CANVAS / 2) if alone else _CELLS[thing.cell]
        centre = (x + rng.uniform(-room, room), y + rng.uniform(-room, room))
        draw_shape(image, thing.shape, COLOURS[thing.colour], centre, radius)
    return (image,)
