"""Pages of samples for TensorBoard: prompts with their image, and lines of text about their answers."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from PIL import Image

from lit_ixc.records import Comparison, ImagePart


def page(rows: Sequence[tuple[Comparison, Sequence[str]]]) -> Figure:
    """A figure with a row for each prompt.

    Args:
        rows: Records, and the lines to write below their prompts.
    """
    figure = Figure(figsize=(11, 1.7 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 2, width_ratios=(1, 4), squeeze=False)
    for (record, about), (left, right) in zip(rows, axes, strict=True):
        for axis in (left, right):
            axis.set_axis_off()
        images = [part for part in record.prompt.media if isinstance(part, ImagePart)]
        if images:
            left.imshow(Image.open(io.BytesIO(images[0].data)).convert("RGB"))
        else:
            left.text(0.5, 0.5, record.modality, ha="center", va="center", color="0.5")
        lines = [shortened(record.prompt.messages[-1].text, 180), *about]
        text = "\n".join(textwrap.fill(line, 120, subsequent_indent="    ") for line in lines).replace("$", r"\$")
        right.text(0, 0.95, text, va="top", family="monospace", fontsize=8)
        right.set_title(f"{record.domain} / {record.source} / {record.id}", loc="left", fontsize=8, color="0.4")
    return figure


def shortened(text: str, width: int = 110) -> str:
    """A text in one line of at most so many characters."""
    return textwrap.shorten(text, width, placeholder=" ...")


def board(trainer: L.Trainer) -> Any:
    """The TensorBoard writer of the first process; None where there is none."""
    boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return boards[0].experiment if boards and trainer.is_global_zero else None
