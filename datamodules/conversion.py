"""Released training JSON to shard sets: which files, where to, and what was dropped on the way."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import PIL
from PIL import Image
from tqdm import tqdm

from datamodules.media import DEFAULT_MAX_PIXELS, MediaFile, load_media
from datamodules.released_json import (
    ROW_KEYS,
    build_comparison,
    is_preference_file,
    read_list,
    read_rows,
)
from datamodules.shards import FORMAT_VERSION, SetWriter, is_set, read_manifest
from lit_ixc import __version__
from lit_ixc.records import Comparison, RecordError, UserError

_CHUNK = 256  # rows in flight: bounds the memory that their images take

Built = tuple[Comparison, tuple[MediaFile, ...]] | RecordError


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
    """What changes the rows or the shards of a conversion; ``convert --help`` describes them."""

    max_pixels: int = DEFAULT_MAX_PIXELS
    row_filter: bool = False
    max_shard_rows: int = 10_000
    max_shard_bytes: int = 256 * 2**20


class Conversion(NamedTuple):
    """What became of the files.

    Args:
        manifests: Manifest of each converted set, by its name.
        errors: Error of each file that could not be converted, by the name of its set.
    """

    manifests: dict[str, dict[str, Any]]
    errors: dict[str, UserError]


def find_sources(path: Path, skip: Path | None = None) -> list[Source]:
    """The JSON files that an input means: itself, those of a ``.txt`` list, or all below a folder.

    Args:
        path: The input.
        skip: Folder whose files are left out (the output, when it lies inside the input).

    Raises:
        UserError: There is no such input, or it names no JSON file.
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
        if not files:
            raise UserError(f"{path}: there is no *.json file in this folder")
        return [Source(file, _set_name(file.relative_to(path))) for file in files]
    if not path.is_file():
        raise UserError(f"{path}: there is no such file or folder")
    if path.suffix != ".txt":
        return [Source(path, _set_name(Path(path.name)))]
    folder = path.parent.resolve()
    listed = [(file, file.resolve(), samples) for file, samples in read_list(path)]
    return [
        Source(file, _set_name(full.relative_to(folder) if full.is_relative_to(folder) else Path(file.name)), samples)
        for file, full, samples in listed
    ]


def convert(
    sources: Sequence[Source], output: Path, options: Options, workers: int = 1, overwrite: bool = False
) -> Conversion:
    """Convert files into ``output/<name>``; one that fails does not keep the others from being converted.

    Raises:
        UserError: Two files would be written into one place.
        OSError: The output cannot be written.
    """
    names = sorted(source.name for source in sources)
    for name, following in zip(names, names[1:], strict=False):
        if name == following or following.startswith(f"{name}/"):
            raise UserError(f"{name}.json and {following}.json would be written into one folder; rename one of them")
    done = Conversion({}, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides, and drops are counted
        for source in tqdm(sources, desc="files", unit="file", disable=None):
            try:
                folder = output / source.name
                done.manifests[source.name] = convert_source(source, folder, options, workers, overwrite)
            except UserError as error:
                done.errors[source.name] = error
    return done


def convert_source(
    source: Source, folder: Path, options: Options, workers: int = 1, overwrite: bool = False
) -> dict[str, Any]:
    """Convert one JSON file into the set ``folder`` and return its manifest.

    An equal conversion that lies there already is kept as it is.

    Raises:
        UserError: The file cannot be read, or something else lies at ``folder``.
    """
    rows = read_rows(source.path)
    key = source_key(source, options)
    if folder.exists():
        if not is_set(folder):
            raise UserError(f"{folder}: exists and is no converted set; choose another output or remove it")
        manifest = read_manifest(folder)
        if manifest["key"] == key:
            return manifest
        if not overwrite:
            raise UserError(f"{folder}: holds the conversion of other input or options; --overwrite replaces it")
    writer = SetWriter(folder, options.max_shard_rows, options.max_shard_bytes)
    try:
        tally = _write_rows(source, rows, writer, options, workers)
        return writer.commit(_manifest(source, rows, writer, options, key, tally))
    except BaseException:
        writer.abort()
        raise


def source_key(source: Source, options: Options) -> str:
    """Digest of all that a conversion depends on.

    These are the JSON's bytes, the options, the program's version and, where rows have images, name, size and time of
    the files in the JSON's folder: reading each image at every start would take too long.
    """
    try:
        data = source.path.read_bytes()
    except OSError as error:
        raise UserError(f"{source.path}: cannot be read ({error.strerror})") from error
    digest = hashlib.sha256(repr((FORMAT_VERSION, __version__, source.name, source.samples, options)).encode())
    digest.update(data)
    if b'"image"' in data:
        for line in sorted(_media_lines(source.path.parent)):
            digest.update(line)
    return digest.hexdigest()


class _Tally:
    """Counts of a conversion."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self.kept: dict[str, Counter[str]] = {n: Counter() for n in ("domain", "modality", "source", "responses")}

    def keep(self, comparison: Comparison) -> None:
        for field in ("domain", "modality", "source"):
            self.kept[field][getattr(comparison, field)] += 1
        self.kept["responses"][str(len(comparison.responses))] += 1


def _write_rows(source: Source, rows: list[Any], writer: SetWriter, options: Options, workers: int) -> _Tally:
    """Build, check and write every row, or note why it was dropped."""
    preference, name = is_preference_file(rows), Path(source.name).name

    @functools.lru_cache(maxsize=64)  # rows about one image tend to stand together: it is read and checked once
    def load(path: str, field: str) -> MediaFile:
        return load_media(source.path.parent, path, field, options.max_pixels)

    def build(index: int) -> Built:
        try:
            return build_comparison(rows[index], index, name, preference, load, options.row_filter)
        except RecordError as error:
            return error.at(_where(source, index))

    tally = _Tally()
    seen: dict[str, int] = {}
    with tqdm(total=len(rows), desc=source.name, unit="row", disable=None, leave=False) as bar:
        for index, built in enumerate(_map(build, len(rows), workers)):
            bar.update()
            if not isinstance(built, RecordError) and built[0].id in seen:
                remedy = f"row {seen[built[0].id]} has the same id; give each row its own"
                built = RecordError("duplicate_id", "id", built[0].id, remedy, _where(source, index))
            if isinstance(built, RecordError):
                tally.dropped[built.reason] += 1
                writer.drop(_dropped_line(source, index, rows[index], built))
                continue
            seen[built[0].id] = index
            writer.write(*built)
            tally.keep(built[0])
    return tally


def _manifest(
    source: Source, rows: list[Any], writer: SetWriter, options: Options, key: str, tally: _Tally
) -> dict[str, Any]:
    ignored = Counter(name for row in rows if isinstance(row, dict) for name in row if name not in ROW_KEYS)
    return {
        "name": source.name,
        "key": key,
        "input": {"file": source.path.name, "sha256": hashlib.sha256(source.path.read_bytes()).hexdigest()},
        "options": options._asdict(),
        "samples": source.samples,
        "rows": {"read": len(rows), "kept": writer.rows, "dropped": tally.dropped.total()},
        "dropped": dict(sorted(tally.dropped.items())),
        "counts": {field: dict(sorted(counter.items())) for field, counter in tally.kept.items()},
        "rows_without_id": sum(isinstance(row, dict) and "id" not in row for row in rows),
        "ignored_keys": dict(sorted(ignored.items())),
        "versions": {"lit-ixc": __version__, "python": platform.python_version(), "pillow": PIL.__version__},
    }


def _map(build: Callable[[int], Built], count: int, workers: int) -> Iterator[Built]:
    """``build`` of every row number, in order; threads decode images, a bounded number of rows at a time."""
    if workers == 1:
        yield from map(build, range(count))
        return
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, count, _CHUNK):
            yield from pool.map(build, range(start, min(count, start + _CHUNK)))


def _where(source: Source, index: int) -> str:
    return f"{source.path.name}, row {index}"


def _dropped_line(source: Source, index: int, row: Any, error: RecordError) -> dict[str, Any]:
    identifier = row.get("id") if isinstance(row, dict) else None
    return {
        "file": source.path.name,
        "row": index,
        "id": identifier if isinstance(identifier, str | int | None) else repr(identifier),
        "reason": error.reason,
        "message": str(error),
    }


def _set_name(path: Path) -> str:
    return path.with_suffix("").as_posix()


def _media_lines(folder: Path) -> Iterator[bytes]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and not is_set(Path(parent, name))]
        for name in files:
            path = os.path.join(parent, name)
            if not name.endswith(".json") and os.path.exists(path):  # a link to nothing is no media file
                status = os.stat(path)
                yield os.fsencode(f"{os.path.relpath(path, folder)}\0{status.st_size}\0{status.st_mtime_ns}\n")
