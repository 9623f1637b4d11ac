"""What the page of answers says."""

from __future__ import annotations

import torch
from bandits import rollout_of

from lit_ixc.policy_callbacks import answer_page


def test_the_page_shows_whole_rewards_and_what_was_cut() -> None:
    """Score 1 and a step of 0.5 make +1.50; the second answer was not ended."""
    steps = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
    figure = answer_page(rollout_of(["ad", "d…"], 2, [1.0, -2.0], steps), 8)
    (written,) = [text.get_text() for axis in figure.axes for text in axis.texts if "known" in text.get_text()]
    lines = [line.split() for line in written.splitlines()]
    assert lines[1:] == [["known", "h"], ["+1.50", "ad"], ["-2.00", "d", "(cut)"]]
