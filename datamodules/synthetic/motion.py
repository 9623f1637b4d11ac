"""video/general: clips of three seconds in which an object moves, appears or changes its colour."""

from __future__ import annotations

from random import Random

from datamodules.synthetic.drawing import COLOURS, SHAPES, Point, draw_shape, paper
from datamodules.synthetic.tasks import Frames, Twins, picture_twins

FRAMES_PER_SECOND = 2
FRAMES = 6  # looked at about once a second, a clip shows its frames 0, 2 and 4: every event is told apart by these

_ENDS: dict[str, tuple[Point, Point]] = {
    "right": ((50, 128), (206, 128)),
    "left": ((206, 128), (50, 128)),
    "down": ((128, 50), (128, 206)),
    "up": ((128, 206), (128, 50)),
}
_OPPOSITE = {"right": "left", "left": "right", "up": "down", "down": "up"}
_RADIUS = 44


def twins(rng: Random) -> Twins:
    """One question over two clips."""
    return rng.choice((_direction, _mover, _order, _change))(rng)


def _direction(rng: Random) -> Twins:
    shape = rng.choice(SHAPES)
    first, second = rng.sample(list(_ENDS), 2)

    def draw(right: str, wrong: str) -> tuple[Frames, int]:
        colour = rng.choice(list(COLOURS))
        path = _path(rng, right)
        return _clip(rng, [[(shape, colour, at)] for at in path]), 1 if _OPPOSITE[right] == wrong else 2

    return picture_twins(f"In which direction does the {shape} move?", (first, second), draw)


def _mover(rng: Random) -> Twins:
    first, second = rng.sample(list(COLOURS), 2)

    def draw(right: str, wrong: str) -> tuple[Frames, int]:
        still, moving = rng.choice(SHAPES), rng.choice(SHAPES)
        lane, place = rng.sample((58, 198), 2)
        rest: Point = (rng.uniform(60, 196), place)
        xs = [x for x, _ in _path(rng, rng.choice(("left", "right")))]
        return _clip(rng, [[(still, wrong, rest), (moving, right, (x, lane))] for x in xs]), 1

    return picture_twins("What colour is the object that moves?", (first, second), draw)


def _order(rng: Random) -> Twins:
    word = rng.choice(("first", "last"))
    first, second = rng.sample(list(COLOURS), 2)

    def draw(right: str, wrong: str) -> tuple[Frames, int]:
        earlier, later = (right, wrong) if word == "first" else (wrong, right)
        left, y = rng.random() < 0.5, rng.uniform(80, 176)
        objects = [
            (rng.choice(SHAPES), earlier, (64 if left else 192, y), rng.randint(0, 2)),
            (rng.choice(SHAPES), later, (192 if left else 64, y), rng.randint(3, 4)),
        ]
        return _clip(rng, [[(s, c, at) for s, c, at, since in objects if t >= since] for t in range(FRAMES)]), 1

    return picture_twins(f"Which colour appears {word}?", (first, second), draw)


def _change(rng: Random) -> Twins:
    shape, word = rng.choice(SHAPES), rng.choice(("start", "end"))
    first, second = rng.sample(list(COLOURS), 2)

    def draw(right: str, wrong: str) -> tuple[Frames, int]:
        before, after = (right, wrong) if word == "start" else (wrong, right)
        at, turn = (rng.uniform(60, 196), rng.uniform(60, 196)), rng.randint(2, 4)
        return _clip(rng, [[(shape, before if t < turn else after, at)] for t in range(FRAMES)]), 1

    return picture_twins(f"What colour is the {shape} at the {word}?", (first, second), draw)


def _path(rng: Random, direction: str) -> list[Point]:
    """A straight walk over the canvas, one point for each frame."""
    (x0, y0), (x1, y1) = _ENDS[direction]
    dx, dy = (0.0, rng.uniform(-60, 60)) if y0 == y1 else (rng.uniform(-60, 60), 0.0)
    steps = [t / (FRAMES - 1) for t in range(FRAMES)]
    return [(x0 + dx + s * (x1 - x0), y0 + dy + s * (y1 - y0)) for s in steps]


def _clip(rng: Random, moments: list[list[tuple[str, str, Point]]]) -> Frames:
    """Frames over one ground; a moment lists shape, colour and centre of each object."""
    ground, radius = paper(rng), _RADIUS * rng.uniform(0.9, 1.1)
    frames = []
    for moment in moments:
        frame = ground.copy()
        for shape, colour, at in moment:
            draw_shape(frame, shape, COLOURS[colour], at, radius)
        frames.append(frame)
    return tuple(frames)
