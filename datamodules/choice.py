"""Which rows of a set a stage uses, told from the set's index alone."""

from __future__ import annotations

from typing import Literal, NamedTuple

from datamodules.sampling import split_fraction
from datamodules.shard_index import IndexRow
from lit_ixc.batch import Ending
from lit_ixc.records import Modality


class RowChoice(NamedTuple):
    """Which rows of a set a stage uses.

    Args:
        ending: ``reward`` takes rows of K >= 2 responses, ``sft`` rows of one and rows whose responses are all equally
            good, ``prompt`` takes all rows.
        sft_from_pairs: ``sft`` takes all rows.
        modality: Only rows of this modality; None: all.
        validation_fraction: Share of the rows that are held out.
        by_media: Hold out by media, so that no image is on both sides; rows without media go by source and id.
        by_prompt: Hold out by prompt and media, so that no prompt is on both sides.
        held_out: True: the held-out rows. False: the others. None: all.
        with_truth: Only rows whose metadata have a ``truth``.
        unique: Of rows with the same prompt only the first, on whichever side that is.
    """

    ending: Ending | Literal["prompt"]
    sft_from_pairs: bool = False
    modality: Modality | None = None
    validation_fraction: float = 0.0
    by_media: bool = False
    held_out: bool | None = None
    with_truth: bool = False
    unique: bool = False
    by_prompt: bool = False

    @property
    def wanted(self) -> str:
        """The rows in words."""
        sft = "SFT or comparison" if self.sft_from_pairs else "SFT"
        kind = {"reward": "comparison", "sft": sft, "prompt": "prompt"}[self.ending]
        rows = f"{kind} rows" if self.modality is None else f"{self.modality} {kind} rows"
        return f"{rows} with a truth" if self.with_truth else rows

    def place(self, row: IndexRow) -> float:
        """Where a row lies in [0, 1): below ``validation_fraction`` it is held out."""
        digests = [digest for _, _, digest, _ in row.media] if self.by_media or self.by_prompt else []
        if self.by_prompt and row.prompt is not None:
            digests.append(row.prompt)
        return split_fraction("\0".join(digests or [row.source, row.id]))

    def reads(self, row: IndexRow) -> bool:
        """Whether it matters to the choice what :meth:`IndexRow.described` says of the row."""
        undecided = self.ending == "sft" and not self.sft_from_pairs and row.responses > 1
        return self.with_truth or self.unique or self.by_prompt or undecided

    def fits(self, row: IndexRow) -> bool:
        """Whether the row is of the kind and of the modality that the stage uses."""
        pair = row.responses > 1
        kind = {"reward": pair, "sft": not pair or bool(row.tied) or self.sft_from_pairs, "prompt": True}[self.ending]
        return kind and self.modality in (None, row.modality)

    def on_its_side(self, place: float) -> bool:
        """Whether a row at this place belongs to the held-out rows, or to the others, as the stage wants it."""
        return self.held_out is None or self.held_out == (place < self.validation_fraction)
