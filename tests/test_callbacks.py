"""The losses that a mixture follows, and the page of scored samples."""

from __future__ import annotations

import io
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from lit_ixc import callbacks
from lit_ixc.callbacks import ReportSetLosses, sample_page
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


def end_batch(callback: ReportSetLosses, sources: list[str], losses: list[float]) -> None:
    batch: Any = SimpleNamespace(sources=sources)
    callback.on_train_batch_end(None, None, {"losses": torch.tensor(losses)}, batch, 0)  # type: ignore[arg-type]


def test_losses_are_read_together_and_when_someone_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "_READ_EVERY", 2)
    callback = ReportSetLosses()
    end_batch(callback, ["a", "b"], [1.0, 2.0])
    assert callback.sums == {}  # still on the device
    end_batch(callback, ["a"], [4.0])
    assert callback.sums == {"a": (5.0, 2), "b": (2.0, 1)}
    end_batch(callback, ["b"], [0.5])
    assert callback.state_dict() == {"sums": {"a": [5.0, 2], "b": [2.5, 2]}}  # a checkpoint misses none

    restarted, told = ReportSetLosses(), {}
    end_batch(restarted, ["c"], [9.0])
    restarted.load_state_dict(callback.state_dict())  # what a run before had not read is no part of it
    end_batch(restarted, ["b"], [3.5])

    def update_mixture(losses: Mapping[str, float]) -> dict[str, float]:
        told.update(losses)
        return {}

    trainer: Any = SimpleNamespace(world_size=1, datamodule=SimpleNamespace(update_mixture=update_mixture))
    module: Any = SimpleNamespace(log_dict=lambda *_, **__: None)
    restarted.on_train_epoch_end(trainer, module)
    assert told == {"a": 2.5, "b": 2.0} and restarted.state_dict() == {"sums": {}}
