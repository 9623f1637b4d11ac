"""Decoding, sampling and montage of videos that the tests write themselves."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from lit_ixc.ixc25 import video
from lit_ixc.ixc25.image import IXC25ImageProcessor
from lit_ixc.ixc25.video import fit_frame, fit_short_side, montage, montage_layout, read_frames, sample_indices
from lit_ixc.records import RecordError


def clip(
    frames: int,
    fps: int = 10,
    size: tuple[int, int] = (64, 48),
    rotation: int = 0,
    title: str = "",
    format: str = "mp4",
) -> bytes:
    """A clip whose frame i is grey of value 5 i, its left half black."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format) as container:
        container.metadata["title"] = title
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(frames):
            pixels = np.full((size[1], size[0], 3), 5 * index, np.uint8)
            pixels[:, : size[0] // 2] = 0
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def greys(frames: list[video.Frame]) -> list[int]:
    """The number of each frame, read off its right half."""
    return [round(float(np.array(frame.image)[:, -12:].mean()) / 5) for frame in frames]


def test_indices_by_hand() -> None:
    assert sample_indices(10, 45) == [0, 10, 20, 30, 40]
    assert sample_indices(2.5, 7) == [0, 2, 4, 6]  # 2.5 rounds to the even 2
    assert sample_indices(10, 45, max_frames=3) == [0, 10, 20]  # 5 / 4 = 1.25: places 0, 1.25, 2.5
    assert sample_indices(10, 45, start=5, end=30) == [5, 15, 25]
    # 45 / 33 as a float, times 11, is 14.999...: the 14th, not the 15th
    assert sample_indices(1, 45)[11] == 14
    assert sample_indices(0.4, 3) == [0, 1, 2]  # the release divides by zero here


@pytest.mark.parametrize("as_path", [False, True])
def test_sampled_frames(as_path: bool, tmp_path: Path) -> None:
    data = clip(45)
    (tmp_path / "clip.mp4").write_bytes(data)
    frames = read_frames(tmp_path / "clip.mp4" if as_path else data, frame_size=32)
    assert greys(frames) == [0, 10, 20, 30, 40]
    assert [(frame.image.size, frame.size) for frame in frames] == [((32, 24), (64, 48))] * 5
    assert greys(read_frames(data, max_frames=3, frame_size=32)) == [0, 10, 20]


def test_container_that_announces_too_many_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling starts again from the number of frames that decode."""
    monkeypatch.setattr(video, "probe", lambda *_: (10.0, 100))
    assert greys(read_frames(clip(45), max_frames=3, frame_size=32)) == [0, 10, 20]  # from 100: [0, 20, 50]
    assert greys(read_frames(clip(45), frame_size=32)) == [0, 10, 20, 30, 40]


def test_rotated_video_is_turned_upright() -> None:
    """A quarter turn counter-clockwise brings the black left half to the bottom."""
    frames = read_frames(clip(45, rotation=90), frame_size=64)
    assert frames[-1].size == (48, 64)
    pixels = np.array(frames[-1].image).mean(axis=2)
    assert pixels[4:28].mean() > 150 and pixels[36:60].mean() < 50


def test_title_that_is_not_utf8_is_no_fault() -> None:
    data = clip(3, title="TITLE")
    assert data.count(b"TITLE") == 1
    assert greys(read_frames(data.replace(b"TITLE", b"\xff\xfe\x98\x98\xe9"), frame_size=32)) == [0]


def sound() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mov") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "unreadable_video"),
        (b"no video at all " * 100, "unreadable_video"),
        (clip(20)[:-300], "unreadable_video"),
        (sound(), "no_video_stream"),
        (b"ffconcat version 1.0\nfile other.mp4\n", "unreadable_video"),  # a play list would open another file
        (clip(3, format="avi").replace(b"FMP4", b"ZZZZ"), "unknown_codec"),
    ],
    ids=["zero bytes", "text", "truncated", "sound alone", "play list", "codec"],
)
def test_unusable_files_are_named(data: bytes, reason: str) -> None:
    with pytest.raises(RecordError, match="talk.mp4") as error:
        read_frames(data, name="talk.mp4")
    assert error.value.reason == reason


def test_pixel_cap() -> None:
    with pytest.raises(RecordError, match="talk.mp4.*64 x 48 pixels, more than max_pixels = 3000"):
        read_frames(clip(3), name="talk.mp4", max_pixels=3000)


def test_layout_by_hand() -> None:
    """Two frames of 40 x 20 and 40 x 10 in montage size 20: 20 x 10 and 20 x 5, bars of 4, gaps of 2."""
    layout = montage_layout([(40, 20), (40, 10)], frame_size=20, label_height=4, frame_gap=2)
    # 10 + 6, then 5 + 6; the line lies in the middle of the gap, 4 + 10 + 1
    assert layout.canvas == (20, 27)
    assert layout.frames == [(0, 4), (0, 20)]
    assert layout.labels == [(0, 0), (0, 16)]
    assert layout.lines == [((0, 15), (20, 15))]
    # the last frame is tall: beside each other, 20 + 2 and 10 + 2 wide
    layout = montage_layout([(40, 20), (20, 40)], frame_size=20, label_height=4, frame_gap=2)
    assert layout.canvas == (34, 24)
    assert layout.frames == [(0, 4), (22, 4)]
    assert layout.lines == [((21, 0), (21, 24))]


def test_labels_stay_in_their_bars() -> None:
    frames = [fit_frame(Image.new("RGB", (320, 180), "red")) for _ in range(2)]
    plain, labelled = np.array(montage(frames, draw_labels=False)), np.array(montage(frames))
    rows = np.flatnonzero((plain != labelled).any(axis=(1, 2)))
    assert rows.size and all(row < 40 or 680 <= row < 720 for row in rows)
    assert (labelled[:40] < 128).sum() > 1000  # black strokes
    assert (labelled[:40] != labelled[680:720]).any()  # <IMAGE 0> is not <IMAGE 1>


def test_montage_without_bars_and_gaps() -> None:
    frames = [fit_frame(Image.new("RGB", (8, 4), colour), 8) for colour in ("red", "blue")]
    canvas = montage(frames, frame_size=8, label_height=0, frame_gap=0)
    assert canvas.size == (8, 8)
    assert canvas.getpixel((7, 3)) == (255, 0, 0) and canvas.getpixel((0, 4)) == (0, 0, 255)


def test_short_side_becomes_one_tile() -> None:
    """30 x 10 with tiles of 4: int(4 * 3) = 12 x 4, three tiles; 10 x 25: 4 x 10, padded below to 12."""
    assert fit_short_side(Image.new("RGB", (30, 10)), 4).size == (12, 4)
    tall = np.array(fit_short_side(Image.new("RGB", (10, 25)), 4))
    assert tall.shape == (12, 4, 3) and (tall[:10] == 0).all() and (tall[10:] == 255).all()


def test_tiles_of_a_video() -> None:
    """Five frames 28 x 21 below each other without bars: 28 x 105, so ceil(105 / 28) = 4 tiles in a column."""
    options = {"tile_size": 28, "frame_size": 28, "label_height": 0, "frame_gap": 0}
    views, grid = IXC25ImageProcessor(**options).encode_video(clip(45))
    assert grid == (4, 1) and views.shape == (5, 3, 28, 28)
    assert IXC25ImageProcessor(**options, max_video_tiles=4).encode_video(clip(45))[0].equal(views)
    views, grid = IXC25ImageProcessor(**options, max_video_tiles=2).encode_video(clip(45))
    assert grid == (2, 1) and views.shape == (3, 3, 28, 28)
    assert IXC25ImageProcessor(**options, max_frames=1).encode_video(clip(45))[1] == (1, 2)
