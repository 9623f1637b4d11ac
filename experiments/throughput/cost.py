"""The cost model of docs/cost_model.md: tokens, attended pairs and FLOPs of a step, by how sequences are laid out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Shape(NamedTuple):
    """What of a comparison sets its cost.

    Args:
        prefix: P, tokens of the shared prompt, visual ones included.
        answers: R_1 .. R_K, tokens behind it.
        visual: Visual tokens among P.
        views: Views (tiles and global views) that the vision tower encodes.
    """

    prefix: int
    answers: tuple[int, ...]
    visual: int = 0
    views: int = 0


class Load(NamedTuple):
    """What a layout makes the model compute: positions of linear layers, attended pairs, and the visual part.

    Args:
        tokens: Positions that pass the linear layers, padding included.
        pairs: (query, key) pairs that attention scores, for one head of one layer.
        visual: Visual tokens, each time they are computed.
        views: Views that the vision tower encodes.
    """

    tokens: int
    pairs: int
    visual: int
    views: int


class Flops(NamedTuple):
    """FLOPs of one forward pass by part; a multiplication and an addition count as two."""

    linear: float
    attention: float
    vision: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.linear + self.attention + self.vision


def sharing_limit(responses: int, ratio: float) -> float:
    """Tokens of separate sequences over those of a tree at prompt:response ``ratio``:1, K(p+1) / (p+K).

    ``sharing_limit(2, 4)`` is 10 / 6.
    """
    return responses * (ratio + 1) / (ratio + responses)


def triangle(length: int) -> int:
    """Pairs of a causal sequence: every token sees itself and what stands before it."""
    return length * (length + 1) // 2


def separate_load(shapes: Sequence[Shape], padded: bool) -> Load:
    """Every sequence for itself, its images encoded for it; ``padded`` to the longest of the batch."""
    lengths = [shape.prefix + answer for shape in shapes for answer in shape.answers]
    if padded:
        lengths = [max(lengths)] * len(lengths)
    visual = sum(shape.visual * len(shape.answers) for shape in shapes)
    views = sum(shape.views * len(shape.answers) for shape in shapes)
    return Load(sum(lengths), sum(map(triangle, lengths)), visual, views)


def tree_load(shapes: Sequence[Shape], cached: bool = False) -> Load:
    """Every prompt once, nothing padded; ``cached``: features of the images are known."""
    tokens = sum(shape.prefix + sum(shape.answers) for shape in shapes)
    pairs = sum(triangle(s.prefix) + sum(s.prefix * answer + triangle(answer) for answer in s.answers) for s in shapes)
    visual = sum(shape.visual for shape in shapes)
    return Load(tokens, pairs, visual, 0 if cached else sum(shape.views for shape in shapes))


def forward_flops(config: Any, load: Load) -> Flops:
    """FLOPs of one forward pass of an IXC-2.5.

    Args:
        config: An ``IXC25Config``.
        load: What the layout asks for.
    """
    width, depth = config.hidden_size, config.head_dim
    heads, groups, inner = config.num_attention_heads, config.num_key_value_heads, config.intermediate_size
    shapes = [(width, (heads + 2 * groups) * depth), (heads * depth, width), *[(width, inner)] * 2, (inner, width)]
    weights = sum(rows * columns for rows, columns in shapes)
    low_rank = config.plora_rank * sum(rows + columns for rows, columns in shapes)
    linear = 2.0 * config.num_hidden_layers * (weights * load.tokens + low_rank * load.visual)
    attention = 4.0 * config.num_hidden_layers * heads * depth * load.pairs
    return Flops(linear, attention, vision_flops(config, load))


def vision_flops(config: Any, load: Load) -> float:
    """FLOPs of the vision tower over the views, and of the projector over the visual tokens that they give."""
    vision = config.vision_config
    patches = config.patches_per_side**2
    weights = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    entry = 2.0 * patches * 3 * vision.patch_size**2 * vision.hidden_size
    positions = patches + 1  # the class token
    layer = 2.0 * positions * weights + 4.0 * positions**2 * vision.hidden_size
    projector = 2.0 * (4 * vision.hidden_size + config.hidden_size) * config.hidden_size
    return load.views * (entry + vision.num_hidden_layers * layer) + (load.visual if load.views else 0) * projector


def step_flops(forward: Flops, training: bool, checkpointing: bool = False) -> float:
    """FLOPs of a step: a backward pass costs two forward passes of the language model, recomputing one more.

    The vision tower is frozen: it runs forward alone.
    """
    passes = (4 if checkpointing else 3) if training else 1
    return passes * (forward.linear + forward.attention) + forward.vision
