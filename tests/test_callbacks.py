"""The page of scored samples."""

from __future__ import annotations

import io

import torch
from matplotlib.text import Text
from PIL import Image

from lit_ixc.callbacks import sample_page
from lit_ixc.records import Comparison, ImagePart, Prompt, VideoPart, text_message


def record(leading: tuple[ImagePart | VideoPart, ...], ranks: tuple[int, ...]) -> Comparison:
    prompt = Prompt((text_message("user", "What costs $5?"),), leading)
    responses = tuple((text_message("assistant", f"answer {k}"),) for k in range(len(ranks)))
    return Comparison("row-1", prompt, responses, ranks, domain="math", source="made")


def test_page_shows_answers_with_scores_and_the_winner() -> None:
    stored = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stored, "PNG")
    rows = [
        (record((ImagePart("a.png", stored.getvalue()),), (0, 1)), torch.tensor([1.25, -0.5])),
        (record((VideoPart("a.mp4", b"not decoded here"),), (1, 0, 1)), torch.tensor([3.0, 2.0, 1.0])),
    ]
    figure = sample_page(rows)
    assert (
        len(figure.axes[0].images) == 1 and not figure.axes[2].images
    )  # a picture; the word "video" in place of a clip
    texts = [part.get_text() for axis in figure.axes for part in axis.findobj(Text) if part.get_text()]
    first = next(text for text in texts if "+1.25" in text)
    assert first.splitlines() == [
        r"What costs \$5?",
        "  +1.25  chosen   <  answer 0",
        "  -0.50  rejected    answer 1",
    ]
    second = next(text for text in texts if "+3.00" in text)
    assert "+3.00  rejected <  answer 0" in second and "+2.00  chosen      answer 1" in second
    assert "math / made / row-1" in texts and "video" in texts
