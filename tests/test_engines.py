"""Engines: what is sampled does not depend on how many are sampled at a time, nor on what other ranks do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_generation import CHAT, PROMPTS, Open, prompt

from lit_ixc.batch import EncodedPrompt
from lit_ixc.decoding import Decoding
from lit_ixc.engines import TransformersEngine
from lit_ixc.generation import draw
from lit_ixc.ixc25.miniature import build, tiny_config
from lit_ixc.lockstep import Lockstep
from lit_ixc.records import UserError

DECODING = Decoding(max_new_tokens=6)


def rows(prompts: Sequence[Open]) -> Any:
    """Encoded prompts without their records, which sampling does not read."""
    return [EncodedPrompt(None, one.sequence, one.media, "made") for one in prompts]  # type: ignore[arg-type]


MIXED = [PROMPTS[2], PROMPTS[0], PROMPTS[1], prompt([40, 41, 42, 43, 44])]
NAMES = ["c", "a", "b", "d"]


@pytest.mark.parametrize("limit", [None, 2, 5, 8])
def test_answers_come_in_the_order_of_their_prompts(limit: int | None) -> None:
    model = build(tiny_config(), seed=0)
    heights = []
    model.output.register_forward_hook(lambda head, inputs, logits: heights.append(len(logits)))
    expected = draw(model, CHAT, rows(MIXED), NAMES, 2, DECODING, 0)
    heights.clear()
    found = TransformersEngine(limit).generate(model, CHAT, rows(MIXED), NAMES, 2, DECODING, 0)
    assert [[one.ids for one in group] for group in found] == [[one.ids for one in group] for group in expected]
    assert max(heights) == {None: 8, 2: 2, 5: 4, 8: 8}[limit]


def test_prompts_of_about_one_length_are_answered_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(tiny_config(), seed=0)
    widths: list[list[int]] = []

    def noted(model: Any, processor: Any, prompts: Any, *rest: Any) -> Any:
        widths.append([len(one.sequence.ids) for one in prompts])
        return draw(model, processor, prompts, *rest)

    monkeypatch.setattr("lit_ixc.engines.draw", noted)
    TransformersEngine(4).generate(model, CHAT, rows(MIXED), NAMES, 2, DECODING, 0)
    assert widths == [[3, 5], [15, 34]]  # images of 13 and of 17 + 13 visual tokens


def test_no_prompts_no_answers() -> None:
    assert TransformersEngine().generate(build(tiny_config(), 0), CHAT, [], [], 2, DECODING, 0) == []


def test_limits_that_cannot_be_kept() -> None:
    with pytest.raises(UserError, match="engine rows = 0"):
        TransformersEngine(0)
    with pytest.raises(UserError, match="engine rows = 3: fewer than the 4 answers of one prompt"):
        TransformersEngine(3).generate(build(tiny_config(), 0), CHAT, rows(MIXED), NAMES, 4, DECODING, 0)


@pytest.mark.parametrize(("own", "others"), [(2, 5), (0, 20), (5, 20), (16, 20), (20, 5), (24, 24), (24, 25)])
def test_a_rank_that_is_done_goes_on_until_all_are(own: int, others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions are put behind passes 8, 16, 24, 32; the other rank says that it is done once it has no work left."""
    asked: list[int] = []

    def all_reduce(flag: torch.Tensor, operation: Any) -> None:
        asked.append(step.passes)
        flag.clamp_(max=int(step.passes > others))

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    step = Lockstep(torch.device("cpu"))
    for _ in range(own):
        assert not step.passed()
    step.finish(lambda: None)
    last = 8 * (max(own, others) // 8 + 1)  # the first question behind the last pass with work
    assert step.passes == last and asked == list(range(8, last + 1, 8))


def test_ranks_with_different_prompts_sample_from_sharded_weights(tmp_path: Path) -> None:
    """Rank 0 has work for 6 passes and rank 1, in two batches, for 12: both run until the question behind pass 16."""
    command = [sys.executable, str(Path(__file__).parent / "sharded_engine.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment) for rank in range(2)]
    try:
        assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    (first, passes), (rest, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    expected = draw(build(tiny_config(), 0), CHAT, rows(MIXED), NAMES, 2, DECODING, 0)
    assert first + rest == [[one.ids for one in group] for group in expected]
    assert passes == others == 16
