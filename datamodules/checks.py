"""Checks of a data module's arguments: each error names the option, its value and the remedy."""

from __future__ import annotations

from collections.abc import Mapping

from datamodules.encoding import SftAnswers
from lit_ixc.batch import Ending
from lit_ixc.records import UserError


def at_least(least: int, **options: float | None) -> None:
    """Raise UserError where an option is smaller; None is no value."""
    for name, value in options.items():
        if value is not None and value < least:
            raise UserError(f"{name} = {value}: choose at least {least}")


def check_shares(validation_fraction: float, min_answer_share: float) -> None:
    """Raise UserError where a share is none."""
    if not 0 <= validation_fraction < 1:
        raise UserError(f"validation_fraction = {validation_fraction}: choose a share from 0 to below 1")
    if not 0 <= min_answer_share <= 1:
        raise UserError(f"min_answer_share = {min_answer_share}: choose a share between 0 and 1")


def check_sft(ending: Ending, rows_per_image: int, sft_from_pairs: bool, sft_answers: SftAnswers) -> None:
    """Raise UserError where an option of supervised fine-tuning is given to another stage."""
    if ending == "sft":
        return
    if rows_per_image > 1:
        raise UserError(f"rows_per_image = {rows_per_image}: only SFT rows can share an image; use ending: sft or 1")
    if sft_from_pairs:
        raise UserError("sft_from_pairs = True: has a meaning with ending: sft only")
    if sft_answers != "best":
        raise UserError(f"sft_answers = {sft_answers}: has a meaning with ending: sft only")


def check_mix(
    sets: Mapping[str, float] | None, amounts: str, samples_per_epoch: int | None, temperature: float
) -> None:
    """Raise UserError where the options of a mixture contradict one another."""
    if temperature <= 0:
        raise UserError(f"temperature = {temperature}: choose a positive number; 1 keeps the weights")
    if amounts == "thousands" and (sets is None or samples_per_epoch is not None):
        raise UserError("amounts = thousands: give sets, whose sum is the epoch, and no samples_per_epoch")
