"""How a token is drawn from logits, and which random number it is drawn with."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from lit_ixc.records import UserError


class Decoding(NamedTuple):
    """How answers are sampled.

    Args:
        temperature: Divides the logits; 0 takes the most probable token.
        top_p: Tokens are drawn from the smallest set whose probability reaches this (arXiv 1904.09751); 1: from all.
        top_k: Tokens are drawn from so many most probable ones, and those equal to the last of them; 0: from all.
        max_new_tokens: Most tokens of an answer, its end included.
        max_prompt_tokens: Longer prompts are refused; None: no limit.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 1024
    max_prompt_tokens: int | None = None


def check_decoding(decoding: Decoding, n: int) -> None:
    """Refuse settings that cannot be meant.

    Raises:
        UserError: A value is out of its range, or several samples are asked of a greedy decode.
    """
    limit = decoding.max_prompt_tokens
    rules = (
        ("temperature", decoding.temperature >= 0, "give 0 (greedy) or more"),
        ("top_p", 0 < decoding.top_p <= 1, "give a probability above 0, 1 for no limit"),
        ("top_k", decoding.top_k >= 0, "give a number of tokens, 0 for no limit"),
        ("max_new_tokens", decoding.max_new_tokens >= 1, "give at least 1"),
        ("max_prompt_tokens", limit is None or limit >= 1, "give at least 1, or null for no limit"),
        ("temperature", n == 1 or decoding.temperature > 0, f"{n} greedy samples are all the same; raise it"),
    )
    for name, good, remedy in rules:
        if not good:
            raise UserError(f"{name} = {getattr(decoding, name)}: {remedy}")


def choose(logits: Tensor, uniform: Tensor, decoding: Decoding) -> Tensor:
    """Tokens (R,) drawn from logits (R, V), each by the inverse of its distribution function at ``uniform`` (R,)."""
    if decoding.temperature == 0:
        return logits.argmax(dim=-1)
    probability = (logits if decoding.temperature == 1 else logits / decoding.temperature).softmax(dim=-1)
    if decoding.top_k or decoding.top_p < 1:
        many = min(decoding.top_k or logits.shape[1], logits.shape[1])
        best = probability.topk(many, dim=-1).values
        inside = best.cumsum(dim=-1) - best < decoding.top_p
        least = best.masked_fill(~inside, torch.inf).amin(dim=-1, keepdim=True)
        probability = probability.masked_fill(probability < least, 0.0)
    cumulative = probability.cumsum(dim=-1, dtype=torch.float64)  # (R, V)
    total = cumulative[:, -1:].contiguous()
    index = torch.searchsorted(cumulative, uniform[:, None] * total, right=True)
    last = torch.searchsorted(cumulative, total)  # a product may round up to the total
    return index.minimum(last).clamp(max=logits.shape[1] - 1).squeeze(1)  # NaN has no place among numbers


def uniforms(seed: int, name: str, number: int, count: int) -> Tensor:
    """Numbers (count,) in [0, 1) that answer ``number`` of a prompt draws with."""
    digest = hashlib.sha256(f"{seed}/{number}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
    return torch.rand(count, generator=generator, dtype=torch.float64)
