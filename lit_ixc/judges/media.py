"""Images and videos as an endpoint takes them: data URLs of PNG, JPEG, WEBP or GIF files, and sampled video frames."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager

import av
from av.container import InputContainer
from PIL import Image, ImageOps

from lit_ixc.records import DECODER_ERRORS, VIDEO_CONTAINERS, ImagePart, RecordError, VideoPart

# What endpoints accept as it is. A multi-picture JPEG (MPO) is a JPEG with more behind it.
_ACCEPTED = {"PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
Image.init()
# Raster formats only: Pillow would hand EPS to an external program.
_FORMATS = tuple(
    name for name in "PNG JPEG MPO WEBP GIF BMP TIFF PPM TGA ICO AVIF JPEG2000".split() if name in Image.OPEN
)
# Formats that lose detail anyway; all others are written as PNG, which keeps small print sharp.
_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")
_QUALITY = 92
_EXIF_ORIENTATION = 0x0112
_DECODE_ERRORS = (*DECODER_ERRORS, Image.DecompressionBombError)


def data_url(mime: str, data: bytes) -> str:
    """The bytes as a data URL."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def encode_image(part: ImagePart, max_side: int | None) -> tuple[str, bytes]:
    """MIME type and bytes of an image as it is sent.

    The bytes stay as they are unless the image is larger than ``max_side``, is turned by an EXIF tag, or is in a format
    that endpoints do not take (BMP, TIFF, ...). The type comes from the content, not from the name.

    Args:
        part: The image.
        max_side: Longer side from which the image is scaled down, in pixels; None: never.

    Raises:
        RecordError: It does not decode.
    """
    with _opened(part) as image:
        kind = image.format or ""
        small = max_side is None or max(image.size) <= max_side
        upright = image.getexif().get(_EXIF_ORIENTATION, 1) == 1
        if kind in _ACCEPTED and small and upright:
            return _ACCEPTED[kind], part.data
        turned = _eight_bit(image if upright else ImageOps.exif_transpose(image))
    if max_side is not None:
        turned.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)  # never enlarges, keeps the aspect
    return _written(turned, lossy=kind in _LOSSY)


def sample_frames(part: VideoPart, count: int, max_side: int | None) -> list[tuple[str, bytes]]:
    """MIME type and bytes of frames of a video, at the middles of ``count`` equal stretches, or all if it has fewer.

    Args:
        part: The video.
        count: Most frames.
        max_side: Longer side from which a frame is scaled down, in pixels; None: never.

    Raises:
        RecordError: It is no video, or no frame of it decodes.
    """
    with _video(part) as container:
        total = sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))
    frames, decoded = _decode(part, _middles(total, count), max_side)
    if decoded < total and len(frames) < min(total, count):  # the container announces more than decodes
        frames, _ = _decode(part, _middles(decoded, count), max_side)
    if not frames:
        raise RecordError("undecodable_video", "video", part.name, "no frame of it decodes; replace the file")
    return frames


def sent_sizes(part: ImagePart | VideoPart, frames: int, max_side: int | None) -> list[tuple[int, int]]:
    """(width, height) of each picture that stands for an image or video, read from headers alone.

    Raises:
        RecordError: The file cannot be opened.
    """
    if isinstance(part, ImagePart):
        with _opened(part) as image:
            size, count = image.size, 1
    else:
        with _video(part) as container:
            stream = container.streams.video[0]
            size, count = (stream.width, stream.height), frames
    scale = min(1.0, max_side / max(size)) if max_side else 1.0
    return [(max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))] * count


def picture_tokens(width: int, height: int) -> int:
    """Prompt tokens of a picture by GPT-4o's published rule; other models differ.

    The picture is fitted into 2048 x 2048, then its shorter side to 768; each tile of 512 x 512 costs 170, the whole
    85 more.
    """
    scale = min(1.0, 2048 / max(width, height))
    scale *= min(1.0, 768 / (min(width, height) * scale))
    columns, rows = (-(-max(1, round(side * scale)) // 512) for side in (width, height))
    return 85 + 170 * columns * rows


def _middles(total: int, count: int) -> list[int]:
    """Indices of the middle frames of ``count`` equal stretches: 10 frames, 2 of them: 2 and 7."""
    count = min(count, total)
    return [(2 * index + 1) * total // (2 * count) for index in range(count)]


@contextmanager
def _opened(part: ImagePart) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(part.data), formats=_FORMATS) as image:
            yield image
    except RecordError:
        raise
    except _DECODE_ERRORS as error:
        remedy = f"the image does not decode ({type(error).__name__}); replace the file or remove the row"
        raise RecordError("undecodable_image", "image", part.name, remedy) from error


def _eight_bit(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where there is transparency; 16-bit grey is scaled (Pillow alone would clip it to white)."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _written(image: Image.Image, lossy: bool) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    if lossy and image.mode == "RGB":
        image.save(buffer, "JPEG", quality=_QUALITY)
        return "image/jpeg", buffer.getvalue()
    image.save(buffer, "PNG")
    return "image/png", buffer.getvalue()


@contextmanager
def _video(part: VideoPart) -> Iterator[InputContainer]:
    try:
        with av.open(
            io.BytesIO(part.data), mode="r", options={"format_whitelist": VIDEO_CONTAINERS}, metadata_errors="replace"
        ) as container:
            if not container.streams.video:
                raise RecordError("undecodable_video", "video", part.name, "the file has no video stream")
            if container.streams.video[0].codec_context is None:
                raise RecordError("undecodable_video", "video", part.name, "no decoder is known for it; convert it")
            yield container
    except (av.FFmpegError, OSError) as error:
        remedy = f"the video does not decode ({type(error).__name__}); replace the file or remove the row"
        raise RecordError("undecodable_video", "video", part.name, remedy) from error


def _decode(part: VideoPart, indices: list[int], max_side: int | None) -> tuple[list[tuple[str, bytes]], int]:
    """The frames at these indices, and how many were decoded up to the last of them."""
    frames: list[tuple[str, bytes]] = []
    decoded = 0
    with _video(part) as container:
        for index, frame in enumerate(container.decode(container.streams.video[0])):
            decoded = index + 1
            if index in indices:
                image = frame.to_image()
                if frame.rotation:
                    image = image.rotate(frame.rotation, expand=True)
                if max_side is not None:
                    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
                frames.append(_written(image, lossy=True))
            if len(frames) == len(indices):
                break
    return frames, decoded
