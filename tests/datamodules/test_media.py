"""Media files: found inside their folder only, checked that they decode, kept byte for byte."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import av
import numpy as np
import pytest
from fakes import png
from PIL import EpsImagePlugin, Image

from datamodules.media import load_media
from lit_ixc.records import ImagePart, RecordError, VideoPart


def reason(root: Path, name: str, max_pixels: int = 1000) -> str:
    with pytest.raises(RecordError) as caught:
        load_media(root, name, "image", max_pixels)
    return caught.value.reason


def frames(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (8, 6), (40 * number, 0, 0)) for number in range(count)]


def save(path: Path, count: int) -> Path:
    first, *rest = frames(count)
    first.save(path, save_all=True, append_images=rest, duration=100)
    return path


def write_video(path: Path, size: tuple[int, int] = (32, 16)) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((size[1], size[0], 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_an_image_is_kept_byte_for_byte(tmp_path: Path) -> None:
    data = png((1, 2, 3), (5, 4))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/x.png").write_bytes(data)
    file = load_media(tmp_path, "sub/x.png", "image")
    assert file.part == ImagePart("sub/x.png", data)
    assert (file.pixels, file.sha256) == (20, hashlib.sha256(data).hexdigest())


def test_a_video_is_told_by_its_extension(tmp_path: Path) -> None:
    write_video(tmp_path / "a.MP4".lower())
    file = load_media(tmp_path, "a.mp4", "image")
    assert isinstance(file.part, VideoPart) and file.pixels == 32 * 16
    (tmp_path / "b.MP4").write_bytes(file.part.data)
    assert isinstance(load_media(tmp_path, "b.MP4", "image").part, VideoPart)


def test_a_gif_that_moves_is_a_video_and_one_that_does_not_an_image(tmp_path: Path) -> None:
    save(tmp_path / "moving.gif", 3)
    save(tmp_path / "still.gif", 1)
    assert isinstance(load_media(tmp_path, "moving.gif", "image").part, VideoPart)
    assert isinstance(load_media(tmp_path, "still.gif", "image").part, ImagePart)


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.tiff"])
def test_other_images_of_several_frames_are_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path / name, 2)
    assert reason(tmp_path, name) == "animated_image"


def test_a_tagged_preview_in_a_photo_is_no_animation(tmp_path: Path) -> None:
    first, second = frames(2)
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert isinstance(load_media(tmp_path, "a.jpg", "image").part, ImagePart)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/etc/hostname", "absolute_path"),
        ("C:\\x.png", "absolute_path"),
        ("\\\\host\\x.png", "absolute_path"),
        ("http://host/x.png", "url"),
        ("file:///etc/hostname", "url"),
        ("data:image/png;base64,AAAA", "url"),
        ("../x.png", "outside_root"),
        ("sub/../../x.png", "outside_root"),
        ("link.png", "outside_root"),
        ("linked/x.png", "outside_root"),
        ("none.png", "missing_media"),
        ("sub", "missing_media"),
        (".", "missing_media"),
        ("a\0b.png", "missing_media"),
        ("\ud800.png", "missing_media"),
        ("x" * 5000, "missing_media"),
        ("circle.png", "missing_media"),
        ("empty.png", "empty_media"),
        ("empty.mp4", "empty_media"),
        ("notes.jpg", "undecodable_image"),
        ("notes.mp4", "undecodable_video"),
        ("large.png", "too_many_pixels"),
        ("large.mp4", "too_many_pixels"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, expected: str) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "x.png").write_bytes(png((0, 0, 0)))
    (root / "link.png").symlink_to(tmp_path / "x.png")
    (root / "linked").symlink_to(tmp_path)
    (root / "circle.png").symlink_to("circle.png")
    for empty in ("empty.png", "empty.mp4"):
        (root / empty).touch()
    for notes in ("notes.jpg", "notes.mp4"):
        (root / notes).write_text("not a picture")
    (root / "large.png").write_bytes(png((0, 0, 0), (41, 25)))  # 1025 > 1000
    write_video(root / "large.mp4", (64, 32))
    assert reason(root, name) == expected


def test_a_link_that_stays_inside_is_followed(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png((0, 0, 0)))
    (tmp_path / "y.png").symlink_to("x.png")
    assert load_media(tmp_path, "y.png", "image").pixels == 12


def test_a_pixel_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.png").write_bytes(png((0, 0, 0), (40, 26)))
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    assert reason(tmp_path, "x.png") == "too_many_pixels"


def test_a_play_list_opens_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile 'a.mp4'\n")
    assert reason(tmp_path, "list.mp4") == "undecodable_video"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "JPEG2000"])
def test_a_cut_off_image_is_refused(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    data = buffer.getvalue()
    for share in (0.1, 0.5, 0.9):
        (tmp_path / "x.img").write_bytes(data[: int(len(data) * share)])
        assert reason(tmp_path, "x.img", 10_000) == "undecodable_image"


def test_an_eps_file_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **options: pytest.fail("started"))
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert reason(tmp_path, "a.png") == "undecodable_image"


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert reason(tmp_path, "pipe.png") == "missing_media"
