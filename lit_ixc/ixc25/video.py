"""Videos as IXC-2.5 sees them: about one frame a second, pasted into one long picture.

Section 6 of the architecture notes describes the released code; all but the labels' font equals it bit for bit.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from PIL import Image, ImageDraw, ImageFont

from lit_ixc.records import VIDEO_CONTAINERS, RecordError

_WHITE = (255, 255, 255)


def sample_indices(
    average_fps: float, total: int, max_frames: int = 32, start: int | None = None, end: int | None = None
) -> list[int]:
    """Indices of the frames that are looked at: every ``round(fps)``-th, thinned to ``max_frames``.

    Args:
        average_fps: Frames per second of the video. At 0.5 or less the release fails; here every frame is taken.
        total: Number of frames.
        max_frames: Most frames kept. Of k > max_frames the ones at ``int(i * (k / (max_frames + 1)))`` are kept, so the
            tail is never reached.
        start: First frame looked at.
        end: Frame before which to stop.
    """
    stride = max(1, round(average_fps))
    every = range(start or 0, total if end is None else end, stride)
    if len(every) <= max_frames:
        return list(every)
    step = len(every) / (max_frames + 1)  # a float, multiplied afterwards: i * k / (n + 1) rounds differently at k = 45
    return [every[int(i * step)] for i in range(max_frames)]


class Frame(NamedTuple):
    """A sampled frame, already at the size it has in the montage, and its (width, height) before."""

    image: Image.Image
    size: tuple[int, int]


def fit_frame(image: Image.Image, frame_size: int = 1120) -> Frame:
    """Resize a frame so that its longer side is ``frame_size`` pixels."""
    return Frame(image.resize(_fitted(*image.size, frame_size), Image.Resampling.BILINEAR), image.size)


def _fitted(width: int, height: int, frame_size: int) -> tuple[int, int]:
    ratio = width / height
    if width > height:
        return frame_size, max(1, int(frame_size / ratio))
    return max(1, int(frame_size * ratio)), frame_size


def read_frames(
    source: bytes | str | Path,
    max_frames: int = 32,
    frame_size: int = 1120,
    name: str = "video",
    max_pixels: int | None = None,
) -> list[Frame]:
    """Decode the sampled frames of a video, upright, as RGB.

    Args:
        source: The bytes of a video file, or its path.
        max_frames: Most frames, see :func:`sample_indices`.
        frame_size: Longer side of the frames in pixels; no more than one frame is held at its own size.
        name: What an error calls the video.
        max_pixels: Most pixels a frame may have; checked before a frame is decoded.

    Raises:
        RecordError: The file is no video, has no picture stream or rate, its frames are too large, or none decodes.
    """
    if not isinstance(source, bytes):
        name = str(source) if name == "video" else name
    try:
        fps, total = probe(source, name, max_pixels)
        picked = sample_indices(fps, total, max_frames)
        frames, decoded = _decode(source, picked, frame_size)
        if len(frames) < len(picked):  # fewer frames decode than the container announces
            frames, _ = _decode(source, sample_indices(fps, decoded, max_frames), frame_size)
    except (av.FFmpegError, OSError) as error:
        raise RecordError("unreadable_video", "video", name, f"give a whole video file ({error.strerror})") from error
    if not frames:
        raise RecordError("unreadable_video", "video", name, "give a whole video file (no frame of it decodes)")
    return frames


def _open(source: bytes | str | Path) -> InputContainer:
    file = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    options = {"format_whitelist": VIDEO_CONTAINERS}
    return av.open(file, mode="r", options=options, metadata_errors="replace")  # titles need not be UTF-8


def probe(source: bytes | str | Path, name: str, max_pixels: int | None) -> tuple[float, int]:
    """Average frame rate and number of frames of a video; packets are counted, since headers may lie.

    Args:
        source: The video's bytes, or its path.
        name: Its name in messages.
        max_pixels: Most pixels of a frame; None: any.

    Raises:
        RecordError: There is no video stream, codec or frame rate, or frames are too large.
    """
    with _open(source) as container:
        if not container.streams.video:
            raise RecordError("no_video_stream", "video", name, "it holds sound alone: give a file with a picture")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise RecordError("unknown_codec", "video", name, "no decoder is known for it: convert it to H.264")
        if max_pixels is not None and stream.width * stream.height > max_pixels:
            size = f"{stream.width} x {stream.height}"
            remedy = f"its frames have {size} pixels, more than max_pixels = {max_pixels}: shrink it"
            raise RecordError("too_many_pixels", "video", name, remedy)
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise RecordError("no_frame_rate", "video", name, "give a video whose stream states its frame rate")
        return float(rate), sum(packet.size > 0 for packet in container.demux(stream))


def _decode(source: bytes | str | Path, picked: Sequence[int], frame_size: int) -> tuple[list[Frame], int]:
    """The picked frames, and how many were decoded up to the last of them."""
    frames: list[Frame] = []
    wanted, decoded = set(picked), 0
    with _open(source) as container:
        stream = container.streams.video[0]
        for index, frame in enumerate(container.decode(stream)):
            decoded = index + 1
            if index in wanted:
                image = frame.to_image()
                if frame.rotation:
                    image = image.rotate(frame.rotation, expand=True)
                frames.append(fit_frame(image, frame_size))
            if len(frames) == len(wanted):
                break
    return frames, decoded


class MontageLayout(NamedTuple):
    """Where frames go in the montage, in pixels.

    Args:
        canvas: (width, height) of the montage.
        frames: (x, y) of each frame's upper left corner.
        labels: (x, y) of each label.
        lines: ((x, y), (x, y)) of each separating line.
    """

    canvas: tuple[int, int]
    frames: list[tuple[int, int]]
    labels: list[tuple[int, int]]
    lines: list[tuple[tuple[int, int], tuple[int, int]]]


def montage_layout(
    sizes: Sequence[tuple[int, int]], frame_size: int = 1120, label_height: int = 40, frame_gap: int = 10
) -> MontageLayout:
    """Geometry of the montage of frames with the given (width, height).

    Each frame's longer side becomes ``frame_size``. If the last frame is wider than high they stand below each other,
    else beside each other; each has a bar of ``label_height`` above it and ``frame_gap`` pixels behind it.
    """
    resized = [_fitted(width, height, frame_size) for width, height in sizes]
    stacked = sizes[-1][0] > sizes[-1][1]
    step = label_height + frame_gap if stacked else frame_gap
    lengths = [size[1] if stacked else size[0] for size in resized]
    starts = [sum(lengths[:i]) + i * step for i in range(len(resized))]
    total = sum(lengths) + len(resized) * step
    # the line lies in the middle of the gap behind the frame
    cuts = [start + length + step - frame_gap + frame_gap // 2 for start, length in zip(starts, lengths, strict=True)]
    if stacked:
        canvas = (max(width for width, _ in resized), total)
        corners = [(0, start) for start in starts]
        lines = [((0, cut), (canvas[0], cut)) for cut in cuts[:-1]]
    else:
        canvas = (total, max(height for _, height in resized) + label_height)
        corners = [(start, 0) for start in starts]
        lines = [((cut, 0), (cut, canvas[1])) for cut in cuts[:-1]]
    return MontageLayout(canvas, [(x, y + label_height) for x, y in corners], corners, lines)


def montage(
    frames: Sequence[Frame],
    frame_size: int = 1120,
    label_height: int = 40,
    frame_gap: int = 10,
    draw_labels: bool = True,
) -> Image.Image:
    """Paste frames into one white picture, with lines between them and labels ``<IMAGE i>`` above them.

    The label's font is the one that Pillow ships (the release's is not free); everything else equals the release.
    Sizes are in pixels and described at :func:`montage_layout`; the defaults are the release's. ``frame_size`` is the
    one to which the frames were fitted.
    """
    layout = montage_layout([frame.size for frame in frames], frame_size, label_height, frame_gap)
    canvas = Image.new("RGB", layout.canvas, _WHITE)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=label_height) if draw_labels and label_height else None
    for number, frame in enumerate(frames):
        canvas.paste(frame.image, layout.frames[number])
        if font is not None:
            draw.text(layout.labels[number], f"<IMAGE {number}>", fill="black", font=font)
    for line in layout.lines if frame_gap else ():
        draw.line(line, fill="black", width=max(1, frame_gap // 5))
    return canvas


def fit_short_side(image: Image.Image, tile_size: int = 560) -> Image.Image:
    """Resize so that the shorter side is one tile, then pad the longer side with white at its end to whole tiles."""
    swapped = image.width < image.height
    if swapped:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    width = int(tile_size * (image.width / image.height))
    image = image.resize((width, tile_size), Image.Resampling.BILINEAR)
    padded = math.ceil(width / tile_size) * tile_size
    if padded != width:
        canvas = Image.new("RGB", (padded, tile_size), _WHITE)
        canvas.paste(image, (0, 0))
        image = canvas
    return image.transpose(Image.Transpose.TRANSPOSE) if swapped else image
