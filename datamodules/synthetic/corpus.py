"""The folders of the synthetic corpus: which sets there are, how their rows and media are written.

``OUTPUT/train`` and ``OUTPUT/heldout`` hold the JSON of the released training code: ``<modality>/<domain>/<set>.json``
with pairs, ``<set>_sft.json`` with right answers alone, and the pictures or clips in a folder beside them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

import av
import PIL
from tqdm import tqdm

from datamodules.synthetic import arithmetic, diagrams, forms, instructions, motion, safety, scenes
from datamodules.synthetic.drawing import scaled
from datamodules.synthetic.tasks import Frames, Task, Twins
from lit_ixc.records import UserError

Split = Literal["train", "heldout"]
Row = dict[str, Any]

MANIFEST = "corpus.json"
_GENERATOR = "lit_ixc synthesize"
SUFFIXES = (" I hope this helps.", " Please ask if you need more.", " That is my answer to your question.")
_HELDOUT_PART = 4  # one in so many text prompts is kept for the held-out split


class CorpusSet(NamedTuple):
    """A set of the corpus.

    Args:
        path: ``<modality>/<domain>/<name>``.
        weight: Its part of the rows, relative to the others.
        twins: Makes two tasks from a source of random numbers.
    """

    path: str
    weight: int
    twins: Callable[[Random], Twins]

    @property
    def domain(self) -> str:
        return self.path.split("/")[1]

    @property
    def name(self) -> str:
        return self.path.split("/")[2]


SETS = (
    CorpusSet("image/general/scenes", 45, scenes.twins),
    CorpusSet("image/text_rich/forms", 10, forms.twins),
    CorpusSet("image/math/diagrams", 10, diagrams.twins),
    CorpusSet("text/instruction_following/constraints", 10, instructions.twins),
    CorpusSet("text/safety/requests", 8, safety.twins),
    CorpusSet("text/math/arithmetic", 10, arithmetic.twins),
    CorpusSet("video/general/motion", 7, motion.twins),
)
MIN_ROWS = 2 * len(SETS)


class Recipe(NamedTuple):
    """What the bytes of a corpus follow from.

    Args:
        rows: Pairs of the training split; it has as many SFT rows.
        heldout_rows: The same of the held-out split.
        seed: Any whole number.
        size: Side of pictures and clips in pixels, even.
        length_bias: Share of the training pairs whose chosen answer is made longer by a phrase that says nothing.
        noise: Share of the training pairs whose two answers are exchanged.
    """

    rows: int
    heldout_rows: int
    seed: int
    size: int
    length_bias: float
    noise: float


def write_corpus(output: Path, recipe: Recipe) -> dict[str, int]:
    """Write both splits and a manifest; an earlier corpus in the folder is replaced once the new one is complete.

    Returns:
        Number of rows of each file, by its path without ``.json``.

    Raises:
        UserError: The folder holds something else than a corpus, or cannot be written.
    """
    output = output.resolve()
    if output.exists() and not _replaceable(output):
        raise UserError(f"--output {output}: holds something else than a synthetic corpus; name a new or empty folder")
    partial = output.with_name(f".{output.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        counts = _write_splits(partial, recipe)
        versions = {"pillow": PIL.__version__, "av": av.__version__}
        manifest = {"generator": _GENERATOR, "recipe": recipe._asdict(), "versions": versions, "rows": counts}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if output.exists():
            shutil.rmtree(output)
        partial.rename(output)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror}); name another folder") from error
    return counts


def shares(rows: int) -> list[int]:
    """Rows of each set: even numbers of at least two, near the sets' weights, that sum to ``rows``."""
    spare, total = rows // 2 - len(SETS), sum(entry.weight for entry in SETS)
    wanted = [entry.weight * spare / total for entry in SETS]
    twins = [int(part) for part in wanted]
    by_remainder = sorted(range(len(SETS)), key=lambda index: twins[index] - wanted[index])
    for index in by_remainder[: spare - sum(twins)]:
        twins[index] += 1
    return [2 * (number + 1) for number in twins]


def _replaceable(output: Path) -> bool:
    manifest = output / MANIFEST
    if manifest.is_file():
        return f'"generator": "{_GENERATOR}"' in manifest.read_text(encoding="utf-8", errors="replace")
    return output.is_dir() and not any(output.iterdir())


def _write_splits(root: Path, recipe: Recipe) -> dict[str, int]:
    counts: dict[str, int] = {}
    seen: set[bytes] = set()  # digests of all pictures and clips so far
    parts: list[tuple[Split, int]] = [("train", recipe.rows), ("heldout", recipe.heldout_rows)]
    with tqdm(total=2 * (recipe.rows + recipe.heldout_rows), desc="synthesize", unit="row", disable=None) as progress:
        for split, rows in parts:
            for entry, number in zip(SETS, shares(rows), strict=True):
                for sft in (False, True):
                    file = f"{split}/{entry.path}{'_sft' if sft else ''}"
                    rng = Random(f"{recipe.seed}/{file}")
                    tasks = _tasks(rng, entry, split, recipe.size, seen)
                    done = _make_rows(rng, entry, split, sft, number, tasks, root / split / entry.path, progress)
                    if not sft and split == "train":
                        _flip(rng, done, recipe.noise)
                        _lengthen(rng, done, recipe.length_bias)
                    _write_json(root / f"{file}.json", done)
                    counts[file] = len(done)
    return counts


def _make_rows(
    rng: Random,
    entry: CorpusSet,
    split: Split,
    sft: bool,
    number: int,
    tasks: Iterator[Task],
    stem: Path,
    progress: tqdm[Any],
) -> list[Row]:
    """The rows of one file, in an order by chance, so that twins do not stand side by side; writes their media."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    order = rng.sample(range(number), number)
    rows: dict[int, Row] = {}
    for index, task in zip(order, tasks, strict=False):
        name = f"{'sft-' if sft else ''}{index:06d}"
        row: Row = {"id": f"{entry.name}-{split}-{name}", "conversations_a": _conversation(task.prompt, task.right)}
        truth = {"verifier": task.verifier, "arguments": task.arguments}
        if not sft:
            row["conversations_b"] = _conversation(task.prompt, task.wrong)
            truth["better"] = "conversations_a"
        if task.frames:
            row["image"] = _write_media(task.frames, stem, name)
        row |= {"domain": entry.domain, "source": f"synthetic/{entry.name}", "truth": truth}
        rows[index] = row if sft else row | {"grade": task.grade}
        progress.update()
    return [rows[index] for index in range(number)]


def _tasks(rng: Random, entry: CorpusSet, split: Split, size: int, seen: set[bytes]) -> Iterator[Task]:
    """Tasks without end, twin after twin, with frames of their final size.

    A text prompt belongs to one split for good; a picture or clip that was drawn before is not drawn again.
    """
    while True:
        twins = [replace(task, frames=tuple(scaled(frame, size) for frame in task.frames)) for task in entry.twins(rng)]
        if twins[0].frames:
            digests = {hashlib.sha256(b"".join(f.tobytes() for f in task.frames)).digest() for task in twins}
            if seen.isdisjoint(digests):
                seen |= digests
                yield from twins
        elif all(_split_of(task.prompt) == split for task in twins):
            yield from twins


def _split_of(prompt: str) -> Split:
    digest = hashlib.sha256(prompt.encode()).digest()  # CRC-32 is linear: it would never split some kinds of twins
    return "heldout" if digest[0] % _HELDOUT_PART == 0 else "train"


def _conversation(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": prompt}, {"from": "bot", "value": answer}]


def _flip(rng: Random, rows: list[Row], share: float) -> None:
    """Exchange the answers of a share of the pairs; ``truth`` still names the better one."""
    for index in rng.sample(range(len(rows)), round(share * len(rows))):
        row = rows[index]
        row["conversations_a"], row["conversations_b"] = row["conversations_b"], row["conversations_a"]
        row["truth"]["better"] = "conversations_b"


def _lengthen(rng: Random, rows: list[Row], share: float) -> None:
    """Lengthen the chosen answer of a share of the pairs, not where that would break the constraint asked for."""
    if rows[0]["domain"] == "instruction_following":
        return
    for index in rng.sample(range(len(rows)), round(share * len(rows))):
        suffix = rng.choice(SUFFIXES)
        rows[index]["conversations_a"][-1]["value"] += suffix
        rows[index]["truth"]["suffix"] = suffix


def _write_media(frames: Frames, stem: Path, name: str) -> str:
    """A PNG of one frame or an MP4 of several; returns its path relative to the JSON file."""
    video = len(frames) > 1
    file = stem.with_name(f"{stem.name}_{'clips' if video else 'images'}") / f"{name}.{'mp4' if video else 'png'}"
    file.parent.mkdir(exist_ok=True)
    if video:
        _write_clip(frames, file)
    else:
        frames[0].save(file)
    return f"{file.parent.name}/{file.name}"


def _write_clip(frames: Frames, file: Path) -> None:
    """An H.264 clip, or MPEG-4 where PyAV has no such encoder.

    One thread and a constant quantiser: x264's lookahead, which a quality target needs, gave other bytes in 1 of 50
    encodings of the same frames.
    """
    h264 = "libx264" in av.codecs_available
    options = {"preset": "ultrafast", "qp": "18", "threads": "1"} if h264 else {"qscale": "3", "threads": "1"}
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264" if h264 else "mpeg4", rate=motion.FRAMES_PER_SECOND, options=options)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def _write_json(file: Path, rows: list[Row]) -> None:
    """A list with one row in each line."""
    file.write_text("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n", encoding="utf-8")
