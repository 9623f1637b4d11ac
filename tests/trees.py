"""Small comparisons for tests: random prefix trees and the same sequences one by one."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from lit_ixc.batch import EncodedComparison, EncodedMedia, EncodedSequence

IMAGE_TOKEN = 319
REWARD_TOKEN = 318


def sequence(prompt: Sequence[int], answer: Sequence[int], visual: int = 0) -> EncodedSequence:
    """``visual`` image tokens, the prompt, the answer, end of turn (4), ``</s>`` (2) and the reward token."""
    head = [IMAGE_TOKEN] * visual + list(prompt)
    ids = [*head, *answer, 4, 2, REWARD_TOKEN]
    loss = [False] * len(head) + [True] * (len(answer) + 2) + [False]
    flags = [index < visual for index in range(len(ids))]
    return EncodedSequence(ids, flags, loss, len(head), len(head) + len(answer))


def media(grid: Sequence[tuple[int, int]] = (), seed: int = 0, tile: int = 56) -> EncodedMedia:
    """Random images of h x w tiles; an image of the test configuration gives 4(hw+1) + 1 + 2(h+1) visual tokens."""
    if not grid:
        return EncodedMedia((), {})
    views = sum(1 + h * w for h, w in grid)
    pixels = torch.randn(views, 3, tile, tile, generator=torch.Generator().manual_seed(seed))
    lengths = tuple(4 * (h * w + 1) + 1 + 2 * (h + 1) for h, w in grid)
    return EncodedMedia(lengths, {"pixel_values": pixels, "image_grid": torch.tensor(grid)})


def comparison(
    prompt: Sequence[int],
    answers: Sequence[Sequence[int]],
    ranks: Sequence[int] | None = None,
    images: EncodedMedia | None = None,
    name: str = "c",
) -> EncodedComparison:
    """A comparison of hand-made sequences; ranks default to 0, 1, 2, ..."""
    images = images or media()
    return EncodedComparison(
        id=name,
        domain="general",
        source="made",
        modality="image" if images.lengths else "text",
        sequences=[sequence(prompt, answer, sum(images.lengths)) for answer in answers],
        media=images,
        ranks=tuple(ranks if ranks is not None else range(len(answers))),
        scores=None,
        lengths=tuple(len(answer) for answer in answers),
    )


def separately(whole: EncodedComparison) -> list[EncodedComparison]:
    """Each sequence as a comparison of its own, nothing shared."""
    return [
        whole._replace(sequences=[one], ranks=(0,), lengths=(length,))
        for one, length in zip(whole.sequences, whole.lengths, strict=True)
    ]


def random_comparison(
    seed: int, responses: int, prompt: int, shared: int, longest: int, images: int
) -> EncodedComparison:
    """K answers that begin with ``shared`` equal tokens and go on for 1..longest random ones."""
    draw = random.Random(seed)
    tokens = lambda n: [draw.randrange(10, 300) for _ in range(n)]  # noqa: E731
    start = tokens(shared)
    answers = [start + tokens(draw.randint(1, longest)) for _ in range(responses)]
    grid = [(draw.randint(1, 2), draw.randint(1, 2)) for _ in range(images)]
    return comparison(tokens(prompt), answers, images=media(grid, seed), name=f"c{seed}")
