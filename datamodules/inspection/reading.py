"""Rows and media of a set, with no more read than is asked for: the text of a row, the header of a picture."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import av
from PIL import Image

from datamodules.media import IMAGE_FORMATS
from datamodules.record_json import from_json
from datamodules.shards import ShardSet
from lit_ixc.records import DECODER_ERRORS, VIDEO_CONTAINERS, Comparison, RecordError, UserError

_HEADER = 512  # bytes before a member that hold its name
_BUFFER = 16 * 1024  # enough for the header of most pictures
_STAND_IN = b"-"

#: What Pillow, FFmpeg and the tar file raise where a member does not decode.
MEDIA_ERRORS = (*DECODER_ERRORS, av.FFmpegError, Image.DecompressionBombError)


class MediaSize(NamedTuple):
    """Size of a picture, or of a video's frames.

    Args:
        width, height: In pixels, as the file stores them.
        seconds: Length of a video, 0 where the file does not say; None for a picture.
        frames: Frames of a video, 0 where the file does not say.
    """

    width: int
    height: int
    seconds: float | None = None
    frames: int = 0


class SetReader:
    """Reads the rows of a set one by one; a context manager, which closes the shard that is open.

    Args:
        shards: The set.
    """

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards
        self._shard = -1
        self._file: IO[bytes] | None = None

    def __enter__(self) -> SetReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def comparison(self, number: int) -> Comparison:
        """The record of a row. Its media are stand-ins of one byte: :meth:`open_media` has the real ones.

        Raises:
            UserError: The member is not where the index says, or does not parse; the message names shard and member.
        """
        shard, row = self.shards.row(number)
        name = f"{row.key}.json"
        where = f"shard {self._path(shard)}, member {name}"
        try:
            with self._member(shard, row.json, name) as member:
                return from_json(json.loads(member.read()), lambda number, suffix: _STAND_IN)
        except RecordError as error:
            raise error.at(where) from error
        except UserError:
            raise
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{where}: {error}; convert the set again") from error

    def open_media(self, number: int, item: int) -> io.BufferedReader:
        """An image or video of a row as a file, which lasts until another shard is read.

        Raises:
            UserError: The member is not where the index says.
        """
        shard, row = self.shards.row(number)
        return self._member(shard, row.media[item][:2], f"{row.key}.{row.media[item][3]}")

    def _path(self, shard: int) -> Path:
        return self.shards.folder / str(self.shards.shards[shard]["file"])

    def _member(self, shard: int, place: tuple[int, int], name: str) -> io.BufferedReader:
        """A member's bytes as a file, its header checked to carry the name."""
        if shard != self._shard or self._file is None:
            if self._file is not None:
                self._file.close()
            self._file, self._shard = self._path(shard).open("rb", buffering=0), shard
        offset, size = place
        header = os.pread(self._file.fileno(), _HEADER, offset - _HEADER)
        if header[:100].rstrip(b"\0") != name.encode():
            raise UserError(f"shard {self._path(shard)}: member {name} is not at byte {offset}; convert the set again")
        return io.BufferedReader(_Window(self._file.fileno(), offset, size), _BUFFER)


class _Window(io.RawIOBase):
    """Some bytes of an open file as a file of their own, read where they are asked for."""

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self._descriptor, self._offset, self._size, self._position = descriptor, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._position))
        data = os.pread(self._descriptor, wanted, self._offset + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError("a position before the start of the file")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position


def media_size(file: IO[bytes], video: bool) -> MediaSize:
    """Size of a picture or video from its header; nothing is decoded.

    Raises:
        One of MEDIA_ERRORS: The header does not parse.
    """
    if not video:
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            return MediaSize(image.width, image.height)
    with open_video(file) as container:
        stream = container.streams.video[0]
        seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        seconds = seconds or (container.duration or 0) / av.time_base
        frames = stream.frames or round(seconds * float(stream.average_rate or 0))
        if not stream.width or not stream.height:
            raise ValueError("the header of the video names no size")
        return MediaSize(stream.width, stream.height, seconds, frames)


def open_video(file: IO[bytes]) -> av.container.InputContainer:
    """A video to decode; raises one of MEDIA_ERRORS if it is none of the containers that ``convert`` accepts."""
    container = av.open(file, mode="r", options={"format_whitelist": VIDEO_CONTAINERS})
    if not container.streams.video:
        container.close()
        raise ValueError("the file has no video stream")
    return container
