"""What is timed: models, comparisons of random tokens and pixels, and the four ways to lay them out."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from cost import Load, Shape, separate_load, tree_load

from lit_ixc.batch import ComparisonBatch, EncodedComparison, EncodedMedia, EncodedSequence
from lit_ixc.ixc25.configuration import IXC25Config
from lit_ixc.ixc25.miniature import mini_config
from lit_ixc.ixc25.vision import visual_token_count
from lit_ixc.layout import collate

RESPONSES = (1, 2, 4, 16, 64)
# Prompt and response tokens at 1:1, 4:1 and 16:1; the whole sequence has about the same length in each.
LENGTHS = {1: (136, 136), 4: (216, 54), 16: (256, 16)}
SEQUENCES = 8  # of a step; a comparison with more responses makes a step alone
# Rows and columns of tiles of each picture; the released preprocessing makes 1 to 9 tiles.
GRIDS = ((1, 1), (2, 3), (3, 3), (1, 2), (2, 2), (1, 4), (3, 2), (2, 4))


def model_config(name: str) -> IXC25Config:
    """The miniature IXC-2.5, one of about 20M parameters, or the released 7B."""
    if name == "7B":
        return IXC25Config()
    if name == "20M":
        return mini_config(
            8192,
            hidden_size=384,
            intermediate_size=1024,
            num_hidden_layers=8,
            num_attention_heads=6,
            num_key_value_heads=2,
            plora_rank=16,
            vision_hidden_size=256,
            vision_layers=4,
        )
    return mini_config()


class Mode(NamedTuple):
    """A way to compute the same scores.

    Args:
        name: As in the tables.
        shared: The prompt stands once for all its responses; else every response has a row of its own, as a
            comparison with one response, and its images are encoded for it.
        packed: Rows hold several of them without padding.
        cached: Features of the images are given.
    """

    name: str
    shared: bool
    packed: bool
    cached: bool = False


PADDED = Mode("separate padded", shared=False, packed=False)
PACKED = Mode("separate packed", shared=False, packed=True)
TREE = Mode("prefix tree", shared=True, packed=True)
CACHED = Mode("prefix tree + feature cache", shared=True, packed=True, cached=True)
MODES = (PADDED, PACKED, TREE, CACHED)


@dataclass(frozen=True)
class Case:
    """Comparisons of one step.

    Args:
        model: Name of the model.
        responses: K, the same in all comparisons.
        ratio: Prompt tokens for each response token; None where lengths are ragged.
        comparisons: What is computed.
    """

    model: str
    responses: int
    ratio: int | None
    comparisons: list[EncodedComparison]

    @property
    def kind(self) -> str:
        """Text at a ratio, or images."""
        return f"text {self.ratio}:1" if self.ratio else "images, ragged"

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Text has no features to keep."""
        return MODES if self.ratio is None else MODES[:3]

    @property
    def shapes(self) -> list[Shape]:
        """What of the comparisons sets their cost."""
        return [_shape(comparison) for comparison in self.comparisons]

    @property
    def tokens(self) -> int:
        """Tokens of all sequences written out one by one: the unit of tokens/s, the same for every mode."""
        return separate_load(self.shapes, padded=False).tokens

    def load(self, mode: Mode) -> Load:
        """What a mode makes the model compute."""
        return tree_load(self.shapes, mode.cached) if mode.shared else separate_load(self.shapes, not mode.packed)


def text_case(model: str, responses: int, ratio: int) -> Case:
    """Text at a prompt:response ratio, equal lengths: what differs between the modes is the sharing alone."""
    scale = 8 if model == "7B" else 1  # to about 2200 tokens
    prompt, response = (scale * length for length in LENGTHS[ratio])
    count = max(1, SEQUENCES // responses)
    draw = random.Random(responses * 100 + ratio)
    return Case(model, responses, ratio, [_comparison(draw, prompt, [response] * responses) for _ in range(count)])


def image_case(model: str, responses: int, count: int, grids: Sequence[tuple[int, int]] = GRIDS) -> Case:
    """A picture for each prompt, and prompts and answers of log-normal length."""
    config = model_config(model)
    draw = random.Random(responses)
    scale = config.merged_per_side / 20  # texts shrink with the pictures: a tile of the release has 20 x 20 tokens
    comparisons = []
    for index in range(count):
        prompt = _lognormal(draw, 60 * scale)
        answers = [_lognormal(draw, 200 * scale) for _ in range(responses)]
        comparisons.append(_comparison(draw, prompt, answers, _media(config, grids[index % len(grids)], index)))
    return Case(model, responses, None, comparisons)


def long_case(model: str, length: int) -> Case:
    """One picture of 3 x 3 tiles and two answers so long that each sequence has ``length`` tokens: the most memory."""
    config = model_config(model)
    draw = random.Random(0)
    media = _media(config, (3, 3), 0)
    prompt = 100
    answer = length - prompt - sum(media.lengths)
    return Case(model, 2, None, [_comparison(draw, prompt, [answer, answer], media)])


def lay_out(case: Case, mode: Mode) -> list[EncodedComparison]:
    """What the loader would hand to ``batch`` in this mode."""
    if mode.shared:
        return case.comparisons
    return [
        # Another key: pictures with equal ones are encoded once in a batch.
        whole._replace(
            sequences=[one], ranks=(0,), lengths=(length,), media=whole.media._replace(key=_key(whole.id, k))
        )
        for whole in case.comparisons
        for k, (one, length) in enumerate(zip(whole.sequences, whole.lengths, strict=True))
    ]


def batch(laid_out: list[EncodedComparison], mode: Mode) -> ComparisonBatch:
    """Laid-out comparisons as tensors; packed rows have room for everything."""
    whole = sum(len(sequence.ids) for comparison in laid_out for sequence in comparison.sequences)
    return collate(laid_out, pad_token_id=2, row_tokens=whole if mode.packed else None)


def _comparison(
    draw: random.Random, prompt: int, answers: Sequence[int], media: EncodedMedia | None = None
) -> EncodedComparison:
    """Random tokens; answers differ from their first token on, so that the prefix is the prompt and no more."""
    media = media or EncodedMedia((), {})
    visual = sum(media.lengths)
    head = [6] * visual + [draw.randrange(10, 1000) for _ in range(prompt)]
    flags = [True] * visual + [False] * prompt
    sequences = []
    for number, length in enumerate(answers):
        ids = [*head, 1100 + number, *(draw.randrange(10, 1000) for _ in range(length - 1))]
        sequences.append(EncodedSequence(ids, flags + [False] * length, [False] * len(ids), len(head), len(ids)))
    count = len(answers)
    grades = tuple(draw.random() for _ in answers)
    return EncodedComparison(
        id=str(draw.random()),
        domain="general",
        source="random",
        modality="image" if visual else "text",
        sequences=sequences,
        media=media,
        ranks=tuple(range(count)),
        scores=grades,
        lengths=tuple(answers),
    )


def _media(config: IXC25Config, grid: tuple[int, int], seed: int) -> EncodedMedia:
    rows, columns = grid
    tile = config.tile_size
    pixels = torch.randn(1 + rows * columns, 3, tile, tile, generator=torch.Generator().manual_seed(seed))
    length = visual_token_count(rows, columns, config.merged_per_side)
    return EncodedMedia(
        (length,), {"pixel_values": pixels, "image_grid": torch.tensor([grid])}, key=_key("picture", seed)
    )


def _key(name: str, number: int) -> str:
    return hashlib.sha1(f"{name} {number}".encode()).hexdigest()


def _lognormal(draw: random.Random, median: float) -> int:
    return max(4, min(int(4 * median), round(median * math.exp(0.6 * draw.gauss(0, 1)))))


def _shape(comparison: EncodedComparison) -> Shape:
    first = comparison.sequences[0]
    prompt = first.response_start
    answers = tuple(len(sequence.ids) - prompt for sequence in comparison.sequences)
    views = len(comparison.media.tensors["pixel_values"]) if comparison.media.tensors else 0
    return Shape(prompt, answers, sum(first.visual), views)
