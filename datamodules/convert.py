"""``python -m lit_ixc convert``: released training JSON to shard sets."""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import platform
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import PIL
from PIL import Image
from tqdm import tqdm

from datamodules.media import DEFAULT_MAX_PIXELS, MediaFile, load_media
from datamodules.released_json import (
    ROW_KEYS,
    NotConversations,
    build_comparison,
    is_preference_file,
    read_list,
    read_rows,
)
from datamodules.shards import FORMAT_VERSION, SetWriter, file_sha256, is_set, read_manifest
from lit_ixc import __version__
from lit_ixc.records import Comparison, RecordError, UserError

_CHUNK = 256  # rows in flight: bounds the memory that their images take


class Source(NamedTuple):
    """A JSON file to convert.

    Args:
        path: The file.
        name: Name of its set: the path below the input folder without ``.json``.
        samples: Samples to draw in an epoch where a ``data.txt`` list says so.
    """

    path: Path
    name: str
    samples: int | None = None


class Options(NamedTuple):
    """What changes the rows or the shards of a conversion; see ``convert --help``."""

    max_pixels: int = DEFAULT_MAX_PIXELS
    row_filter: bool = False
    max_shard_rows: int = 10_000
    max_shard_bytes: int = 256 * 2**20


def find_sources(path: Path, skip: Path | None = None) -> list[Source]:
    """The JSON files that an input means: itself, those of a ``.txt`` list, or all below a folder.

    Args:
        path: The input.
        skip: Folder whose files are left out (the output, when it lies inside the input).

    Raises:
        UserError: There is no such input, it names no JSON file, or two files would give sets in one place.
    """
    if path.is_dir():
        skipped = skip.resolve() if skip is not None else None
        files = [
            file
            for file in sorted(path.rglob("*.json"))
            if file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and (skipped is None or not file.resolve().is_relative_to(skipped))
        ]
        sources = [Source(file, file.relative_to(path).with_suffix("").as_posix()) for file in files]
        if not sources:
            raise UserError(f"{path}: there is no *.json file in this folder")
    elif path.suffix == ".txt" and path.is_file():
        inside = path.parent.resolve()
        sources = []
        for file, samples in read_list(path):
            resolved = file.resolve()
            name = resolved.relative_to(inside) if resolved.is_relative_to(inside) else Path(file.name)
            sources.append(Source(file, name.with_suffix("").as_posix(), samples))
    elif path.is_file():
        sources = [Source(path, path.stem)]
    else:
        raise UserError(f"{path}: there is no such file or folder")
    names = sorted(source.name for source in sources)
    for name, following in zip(names, names[1:], strict=False):
        if name == following or following.startswith(f"{name}/"):
            raise UserError(f"{path}: {name}.json and {following}.json would be written into one folder; rename one")
    return sources


def convert_source(
    source: Source, folder: Path, options: Options, workers: int = 1, overwrite: bool = False
) -> dict[str, Any]:
    """Convert one JSON file into the set ``folder`` and return its manifest.

    An equal conversion that lies there already is kept as it is.

    Raises:
        UserError: The file cannot be read, or something else lies at ``folder``.
    """
    key = source_key(source, options)
    if folder.exists():
        if not is_set(folder):
            raise UserError(f"{folder}: exists and is no converted set; choose another output or remove it")
        manifest = read_manifest(folder)
        if manifest["key"] == key:
            return manifest
        if not overwrite:
            raise UserError(f"{folder}: holds the conversion of other input or options; add --overwrite to replace it")
    rows = read_rows(source.path)
    writer = SetWriter(folder, options.max_shard_rows, options.max_shard_bytes)
    try:
        return _write_rows(source, rows, writer, options, workers, key)
    except BaseException:
        writer.abort()
        raise


def source_key(source: Source, options: Options) -> str:
    """Digest of what a conversion depends on: the JSON's bytes, name, size and time of the files beside it, options."""
    data = source.path.read_bytes()
    digest = hashlib.sha256(repr((FORMAT_VERSION, __version__, source.name, source.samples, options)).encode())
    digest.update(data)
    if b'"image"' in data:
        for line in sorted(_media_lines(source.path.parent)):
            digest.update(line)
    return digest.hexdigest()


def _media_lines(folder: Path) -> Iterator[bytes]:
    for parent, _, files in os.walk(folder):
        for name in files:
            if not name.endswith(".json"):
                path = os.path.join(parent, name)
                status = os.stat(path, follow_symlinks=False)
                yield os.fsencode(f"{os.path.relpath(path, folder)}\0{status.st_size}\0{status.st_mtime_ns}\n")


def _write_rows(
    source: Source, rows: list[Any], writer: SetWriter, options: Options, workers: int, key: str
) -> dict[str, Any]:
    preference = is_preference_file(rows)
    root, name = source.path.parent, Path(source.name).name
    # Rows about one image tend to stand together: it is read and checked once.
    load = functools.lru_cache(maxsize=64)(functools.partial(_load, root, options.max_pixels))

    def build(item: tuple[int, Any]) -> tuple[Comparison, tuple[MediaFile, ...]] | RecordError:
        try:
            return build_comparison(item[1], item[0], name, preference, load, options.row_filter)
        except RecordError as error:
            return error.at(f"{source.path.name}, row {item[0]}")

    counts: dict[str, Counter[str]] = {name: Counter() for name in ("domain", "modality", "source", "responses")}
    dropped: Counter[str] = Counter()
    seen: dict[str, int] = {}
    with tqdm(total=len(rows), desc=source.name, unit="row", disable=None, leave=False) as bar:
        for index, result in _map(build, rows, workers):
            if not isinstance(result, RecordError) and result[0].id in seen:
                remedy = f"row {seen[result[0].id]} has the same id; give each row its own"
                result = RecordError("duplicate_id", "id", result[0].id, remedy, f"{source.path.name}, row {index}")
            bar.update()
            if isinstance(result, RecordError):
                dropped[result.reason] += 1
                writer.drop(_dropped_line(source, index, rows[index], result))
                continue
            comparison, media = result
            seen[comparison.id] = index
            writer.write(comparison, media)
            for field in ("domain", "modality", "source"):
                counts[field][getattr(comparison, field)] += 1
            counts["responses"][str(len(comparison.responses))] += 1
    ignored = Counter(k for row in rows if isinstance(row, dict) for k in row if k not in ROW_KEYS)
    return writer.commit(
        {
            "name": source.name,
            "key": key,
            "input": {"file": source.path.name, "sha256": file_sha256(source.path)},
            "options": options._asdict(),
            "samples": source.samples,
            "rows": {"read": len(rows), "kept": writer.rows, "dropped": dropped.total()},
            "dropped": dict(sorted(dropped.items())),
            "counts": {field: dict(sorted(counter.items())) for field, counter in counts.items()},
            "rows_without_id": sum(isinstance(row, dict) and "id" not in row for row in rows),
            "ignored_keys": dict(sorted(ignored.items())),
            "versions": {"lit-ixc": __version__, "python": platform.python_version(), "pillow": PIL.__version__},
        }
    )


def convert(
    sources: Sequence[Source],
    output: Path,
    options: Options,
    workers: int = 1,
    overwrite: bool = False,
) -> tuple[dict[str, dict[str, Any]], dict[str, UserError]]:
    """Convert files into ``output/<name>``; what fails does not keep the others from being converted.

    Returns:
        The manifest of each converted set, and the error of each file that could not be converted, by set name.
    """
    manifests: dict[str, dict[str, Any]] = {}
    errors: dict[str, UserError] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides, and drops are counted
        for source in tqdm(sources, desc="files", unit="file", disable=None):
            try:
                manifests[source.name] = convert_source(source, output / source.name, options, workers, overwrite)
            except UserError as error:
                errors[source.name] = error
    return manifests, errors


def summary(manifests: dict[str, dict[str, Any]]) -> str:
    """One line for each set: name, rows read, kept, dropped, and the reasons of the dropped ones."""
    lines = [("set", "rows", "kept", "dropped", "reasons")]
    totals: Counter[str] = Counter()
    for name, manifest in manifests.items():
        rows = manifest["rows"]
        totals.update(rows)
        reasons = ", ".join(f"{reason}: {count}" for reason, count in manifest["dropped"].items())
        lines.append((name, str(rows["read"]), str(rows["kept"]), str(rows["dropped"]), reasons))
    lines.append(("total", str(totals["read"]), str(totals["kept"]), str(totals["dropped"]), ""))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join(
        f"{line[0]:<{widths[0]}}  {line[1]:>{widths[1]}}  {line[2]:>{widths[2]}}  {line[3]:>{widths[3]}}  {line[4]}".rstrip()
        for line in lines
    )


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="lit_ixc convert",
        description=(
            "Convert preference pairs and SFT rows in the JSON of the released IXC-2.5-Reward training code into "
            "WebDataset tar shards. Rows have 'conversations_a' (chosen), 'conversations_b' (rejected; absent throughout "
            "an SFT file) and 'image' (path or list of paths relative to the JSON file's folder, which they may not "
            "leave). Each JSON file becomes one set: OUTPUT/<path of the file without .json>/ with the shards, their index, "
            "manifest.json (counts, checksums) and dropped.jsonl (each row left out, with its reason)."
        ),
        epilog="Exit status: 0 all files converted, 2 a file could not be converted or an option is wrong.",
    )
    add = parser.add_argument
    add("--input", required=True, type=Path, metavar="FILE_OR_DIR",
        help="a JSON file; a folder, searched for *.json; or a .txt list of lines '<json path> <thousands of samples>'")  # fmt: skip
    add("--output", required=True, type=Path, metavar="DIR", help="folder that receives the sets")
    add("--on-error", choices=("error", "skip"), default="error",
        help="a file that cannot be read: 'error' converts the others and exits with status 2, 'skip' exits with 0 "
        "(default: %(default)s)")  # fmt: skip
    add(
        "--overwrite",
        action="store_true",
        help="replace sets that were converted from other input or with other options",
    )
    add("--row-filter", action="store_true",
        help="also leave out what the released training code leaves out: answers with <|im_start|> or <|im_end|>, and "
        "answers over 500 characters with a word of over 100")  # fmt: skip
    add("--max-pixels", type=_positive, default=DEFAULT_MAX_PIXELS, metavar="N",
        help=f"leave out rows whose image or video has more pixels (width x height; at most {2 * DEFAULT_MAX_PIXELS}), "
        "without decoding it (default: %(default)s)")  # fmt: skip
    add("--max-shard-rows", type=_positive, default=10_000, metavar="N", help="rows in a shard (default: %(default)s)")
    add(
        "--max-shard-mb", type=_positive, default=256, metavar="N", help="size of a shard in MiB (default: %(default)s)"
    )
    add("--workers", type=_positive, default=1, metavar="N",
        help="threads that read and check images (default: %(default)s); the result does not depend on it")  # fmt: skip
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status (0, or 2 after a message on stderr)."""
    try:
        args = make_parser().parse_args(list(argv))
    except SystemExit as stop:  # argparse has printed help (0) or the error (2)
        return int(stop.code or 0)
    try:
        return _run(args.input, args.output, args.on_error, args.overwrite, args.workers, _options(args))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _options(args: argparse.Namespace) -> Options:
    if args.max_pixels > 2 * DEFAULT_MAX_PIXELS:
        raise UserError(
            f"--max-pixels {args.max_pixels}: Pillow decodes at most {2 * DEFAULT_MAX_PIXELS}; give a smaller one"
        )
    return Options(args.max_pixels, args.row_filter, args.max_shard_rows, args.max_shard_mb * 2**20)


def _run(
    path: Path, output: Path, on_error: Literal["error", "skip"], overwrite: bool, workers: int, options: Options
) -> int:
    sources = find_sources(path, skip=output)
    manifests, errors = convert(sources, output, options, workers, overwrite)
    print(summary(manifests))
    # Any JSON may lie in a folder; a file that was named must hold conversations.
    others = {name for name, error in errors.items() if path.is_dir() and isinstance(error, NotConversations)}
    for name, error in errors.items():
        print(f"{'skipped' if name in others or on_error == 'skip' else 'error'}: {error}", file=sys.stderr)
    failed = on_error == "error" and len(errors) > len(others)
    if not manifests and not failed:
        raise UserError(f"{path}: no file was converted")
    return 2 if failed else 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _load(root: Path, max_pixels: int, name: str, field: str) -> MediaFile:
    return load_media(root, name, field, max_pixels)


def _map(build: Any, rows: list[Any], workers: int) -> Iterator[tuple[int, Any]]:
    """``build`` over the numbered rows in order; images are decoded in threads, a bounded number of rows at a time."""
    if workers <= 1:
        yield from ((index, build((index, row))) for index, row in enumerate(rows))
        return
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(rows), _CHUNK):
            numbered = list(enumerate(rows[start : start + _CHUNK], start))
            yield from zip((index for index, _ in numbered), pool.map(build, numbered), strict=True)


def _dropped_line(source: Source, index: int, row: Any, error: RecordError) -> dict[str, Any]:
    identifier = row.get("id") if isinstance(row, dict) else None
    return {
        "file": source.path.name,
        "row": index,
        "id": identifier if isinstance(identifier, str | int | None) else repr(identifier),
        "reason": error.reason,
        "message": str(error),
    }
