"""Reward functions in TRL's form, named by path in the tests."""

from __future__ import annotations

from typing import Any

import torch

#: What the last call was given.
SEEN: dict[str, Any] = {}


def lengths(prompts: list[str], completions: list[str], **columns: Any) -> list[float | None]:
    """Length of each completion, None for "skip"."""
    SEEN.clear()
    SEEN.update(columns, prompts=prompts, completions=completions)
    return [None if text == "skip" else len(text) for text in completions]


def strict(completions: list[str], level: list[int | None]) -> torch.Tensor:
    """Takes no other columns."""
    return torch.tensor([float(one or 0) for one in level])


def chat(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
    return [
        float(len(prompt[-1]["content"]) + len(said[0]["content"]))
        for prompt, said in zip(prompts, completions, strict=True)
    ]


def broken(completions: list[str]) -> Any:
    return {"short": [1.0], "number": 3.0, "text": ["1"], "none": None, "odd": [float("nan")], "big": [float("inf")]}[
        completions[0]
    ]


class Scorer:
    """A callable inside a class."""

    @staticmethod
    def one(completions: list[str]) -> list[bool]:
        return [text == "yes" for text in completions]


NUMBER = 3
