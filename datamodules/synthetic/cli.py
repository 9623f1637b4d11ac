"""``python -m lit_ixc synthesize``: write the embedded corpus."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from datamodules.synthetic.contact_sheet import contact_sheet
from datamodules.synthetic.corpus import MIN_ROWS, Recipe, write_corpus
from datamodules.synthetic.drawing import CANVAS
from lit_ixc.records import UserError

_DESCRIPTION = """\
Write a small multimodal preference corpus, drawn and written from a seed; nothing is downloaded.

OUTPUT/train and OUTPUT/heldout hold the same seven sets in the JSON of the released IXC-2.5-Reward training code
(<modality>/<domain>/<set>.json with pairs, <set>_sft.json with right answers alone): scenes, forms and diagrams as
pictures, constraints, requests and arithmetic as text, motion as clips. No picture, clip or text prompt is in both.
Each row also has `truth`, the rule that its right answer meets, and each pair `grade`, how near the wrong one is.

Rows come in twins whose right answers are each other's wrong ones: neither the length of an answer nor the answer
alone tells which one is right."""


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m lit_ixc synthesize",
        description=_DESCRIPTION,
        epilog="Equal options give equal bytes with equal versions of Pillow and PyAV.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", required=True, type=Path, metavar="DIR",
        help="folder of the corpus; new, empty, or an earlier corpus, which is replaced")  # fmt: skip
    add("--rows", type=int, default=2400, metavar="N",
        help=f"training pairs, even, at least {MIN_ROWS}; SFT rows are as many (default: %(default)s)")  # fmt: skip
    add("--heldout-rows", type=int, default=600, metavar="N",
        help="the same of the held-out split (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="S", help="another seed gives another corpus (default: %(default)s)")
    add("--size", type=int, default=64, metavar="PIXELS",
        help=f"side of pictures and clips, an even number from 32 to {CANVAS} (default: %(default)s)")  # fmt: skip
    add("--length-bias", type=float, default=0.0, metavar="SHARE",
        help="in this share of the training pairs, 0 to 1, the chosen answer is made longer by a phrase that says "
        "nothing; instruction following is left as it is, since the phrase would break its constraints "
        "(default: %(default)s)")  # fmt: skip
    add("--noise", type=float, default=0.0, metavar="SHARE",
        help="in this share of the training pairs, 0 to 1, the two answers are exchanged; `truth` names the better "
        "one (default: %(default)s)")  # fmt: skip
    add("--contact-sheet", type=Path, metavar="FILE.png",
        help="also draw twelve held-out pairs of each set into this picture")  # fmt: skip
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the command; returns 0, or 2 where argparse has already said what is wrong.

    Raises:
        UserError: A value is out of range or the output cannot be written.
    """
    try:
        args = make_parser().parse_args(list(argv))
    except SystemExit as stop:  # argparse has printed the help (0) or the error (2)
        return int(stop.code or 0)
    recipe = Recipe(args.rows, args.heldout_rows, args.seed, args.size, args.length_bias, args.noise)
    _check(recipe)
    if args.contact_sheet is not None and args.contact_sheet.suffix.lower() != ".png":
        raise UserError(f"--contact-sheet {args.contact_sheet}: give the name of a .png file")
    print(summary(write_corpus(args.output, recipe)))
    if args.contact_sheet is not None:
        _write_sheet(args.contact_sheet, args.output / "heldout")
    return 0


def summary(counts: dict[str, int]) -> str:
    """A table with a line for each file: set, rows, modality, domain."""
    lines = [("set", "rows", "modality", "domain")]
    for file, rows in counts.items():
        split, modality, domain, name = file.split("/")
        lines.append((f"{split}/{name}", str(rows), modality, domain))
    lines.append(("total", str(sum(counts.values())), "", ""))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        f"{name:<{widths[0]}}  {rows:>{widths[1]}}  {modality:<{widths[2]}}  {domain}".rstrip()
        for name, rows, modality, domain in lines
    )


def _check(recipe: Recipe) -> None:
    for option, rows in (("--rows", recipe.rows), ("--heldout-rows", recipe.heldout_rows)):
        if rows < MIN_ROWS or rows % 2:
            raise UserError(f"{option} {rows}: give an even number from {MIN_ROWS} (rows come in twins, for every set)")
    if not 32 <= recipe.size <= CANVAS or recipe.size % 2:
        raise UserError(f"--size {recipe.size}: give an even number of pixels from 32 to {CANVAS}")
    for option, share in (("--length-bias", recipe.length_bias), ("--noise", recipe.noise)):
        if not 0 <= share <= 1:
            raise UserError(f"{option} {share}: give a share from 0 to 1")


def _write_sheet(file: Path, split: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(split).save(file)
    except OSError as error:
        raise UserError(f"--contact-sheet {file}: cannot be written ({error.strerror}); name another file") from error
