"""Partition, reading of pictures, and the image processor, on cases worked out by hand."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lit_ixc.ixc25.image import IXC25ImageProcessor, load_image
from lit_ixc.ixc25.partition import CLIP_MEAN, CLIP_STD, Partition, arrange, cut_views, partition
from lit_ixc.records import RecordError


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_partition_by_hand() -> None:
    # ratio 2, s * ceil(s / 2) = 1, 2, 6, 8, 15 for s = 1..5: four columns are the most for 9 tiles; 10 are wanted
    assert partition(1000, 500, max_tiles=9, tile_size=100) == Partition(False, (400, 200), (400, 200), 0, (2, 4))
    # a tall picture is laid on its side: rows and columns change places
    assert partition(500, 1000, max_tiles=9, tile_size=100) == Partition(True, (400, 200), (400, 200), 0, (4, 2))
    # ratio 1.3: ceil(130 / 100) = 2 columns, int(200 / 1.3) = 153 rows of pixels in 200: 47 of padding below
    assert partition(130, 100, 4, 100) == Partition(False, (200, 153), (200, 200), 0, (2, 2))
    # training: ceil(1.5 * 130 / 100) = 2 as well, but 47 // 2 = 23 rows of the padding stand above
    assert partition(130, 100, 4, 100, "training") == Partition(False, (200, 153), (200, 200), 23, (2, 2))
    # a square of one tile stays one tile, training enlarges it: ceil(1.5) = 2
    assert partition(100, 100, 4, 100).grid == (1, 1)
    assert partition(100, 100, 4, 100, "training").grid == (2, 2)
    # ratio 4000, 24 columns allowed, ceil(4000 / 560) = 8 wanted: int(4480 / 4000) = 1 pixel high
    assert partition(4000, 1) == Partition(False, (4480, 1), (4480, 560), 0, (1, 8))
    # int(100 / 4000) = 0, where the release fails: one pixel
    assert partition(4000, 1, max_tiles=1, tile_size=100).resize == (100, 1)


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.integers(1, 30),
    st.sampled_from([28, 64, 560]),
    st.sampled_from(["training", "inference"]),
)
def test_partition_properties(width: int, height: int, most: int, tile: int, variant: str) -> None:
    layout = partition(width, height, most, tile, variant)
    rows, columns = layout.grid
    assert 1 <= rows * columns <= most
    long, short = max(rows, columns), min(rows, columns)
    assert layout.canvas == (long * tile, short * tile)
    assert layout.resize[0] == layout.canvas[0] and 1 <= layout.resize[1] <= layout.canvas[1]
    assert layout.canvas[1] - layout.resize[1] < tile
    if width != height:
        assert partition(height, width, most, tile, variant).grid == (columns, rows)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"width": 0}, "width=0"),
        ({"max_tiles": 0}, "max_tiles=0"),
        ({"variant": "test"}, "variant = 'test': use 'training' or 'inference'"),
    ],
)
def test_partition_refuses(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        partition(**{"width": 10, "height": 10, **arguments})


@pytest.mark.parametrize(
    "mode, value, expected",
    [
        ("L", 100, (100, 100, 100)),
        ("LA", (100, 0), (100, 100, 100)),  # alpha is dropped, whatever it hides
        ("RGBA", (10, 20, 30, 0), (10, 20, 30)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("1", 1, (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
    ],
)
def test_modes(mode: str, value: object, expected: tuple[int, int, int]) -> None:
    image = load_image(Image.new(mode, (3, 2), value))
    assert image.mode == "RGB" and image.getpixel((2, 1)) == expected


def test_palette() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([1, 2, 3, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert [load_image(encoded(image)).getpixel((x, 0)) for x in (0, 1)] == [(1, 2, 3), (200, 100, 50)]


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_16_bit_grey_is_scaled(mode: str) -> None:
    """65535 / 257 = 255, and 32896 / 257 = 128; clipping would give 255 for both."""
    values = np.array([[0, 32896, 65535]], dtype=np.uint16 if mode == "I;16" else np.int32)
    image = Image.fromarray(values)
    assert image.mode == mode
    assert [load_image(image).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


@pytest.mark.parametrize("values", [np.array([[70000]], np.int32), np.array([[0.5]], np.float32)])
def test_grey_without_a_known_white_is_refused(values: np.ndarray) -> None:
    with pytest.raises(RecordError, match="no known white"):
        load_image(Image.fromarray(values), "grey.tif")


def test_exif_orientation() -> None:
    """Orientation 6: the stored left side is the top."""
    stored = Image.new("RGB", (16, 8), "blue")
    stored.paste((255, 0, 0), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(stored, "PNG", exif=exif)
    upright = load_image(data)
    assert upright.size == (8, 16)
    assert (upright.getpixel((4, 2)), upright.getpixel((4, 14))) == ((255, 0, 0), (0, 0, 255))
    as_stored = load_image(data, exif_orientation=False)
    assert as_stored.size == (16, 8) and as_stored.getpixel((2, 4)) == (255, 0, 0)


def test_gif_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(data).getpixel((0, 0)) == (255, 0, 0)


def test_sources_agree(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    image = Image.fromarray(array)
    path = tmp_path / "a.png"
    path.write_bytes(encoded(image))
    for source in (array, image, path, str(path), path.read_bytes()):
        assert np.array_equal(np.array(load_image(source)), array)


def bomb(width: int, height: int) -> bytes:
    """A PNG that has a header and no pixels."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT", b"IEND"]
    framed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def test_pixel_cap_acts_before_decoding() -> None:
    with pytest.raises(RecordError, match="big.png.*too many pixels.*1001 x 1000 pixels.*max_pixels = 1000000"):
        load_image(bomb(1001, 1000), "big.png", max_pixels=1_000_000)
    with pytest.raises(RecordError, match="unreadable"):  # small enough, so it is decoded, and has no pixels
        load_image(bomb(1000, 1000), "big.png", max_pixels=1_000_000)
    with pytest.raises(RecordError, match="Pillow refuses"):
        load_image(bomb(100_000, 100_000), "huge.png")


@pytest.mark.parametrize(
    "data", [b"", b"some text", encoded(Image.effect_noise((50, 50), 90).convert("RGB"), "JPEG")[:900]]
)
def test_damaged_files_are_named(data: bytes) -> None:
    with pytest.raises(RecordError, match="photo.jpg") as error:
        load_image(data, "photo.jpg")
    assert error.value.reason == "unreadable_image"


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="absent.png"):
        load_image(tmp_path / "absent.png")


def test_training_pads_both_sides_of_a_tall_picture_with_white() -> None:
    """10 x 20 in tiles of 28, one column: int(28 / 2) = 14 wide, so (28 - 14) // 2 = 7 white columns each side."""
    image = Image.new("RGB", (10, 20), "black")
    pixels = np.array(arrange(image, partition(10, 20, 1, 28, "training")))[..., 0]
    assert pixels.shape == (28, 28)
    assert (pixels[:, :7] == 255).all() and (pixels[:, 7:21] == 0).all() and (pixels[:, 21:] == 255).all()
    below = np.array(arrange(image, partition(10, 20, 1, 28)))[..., 0]
    assert (below[:, :14] == 0).all() and (below[:, 14:] == 255).all()


def test_views_of_one_tile_repeat_it() -> None:
    pixels = torch.randn(3, 28, 28)
    views = cut_views(pixels, 28)
    assert torch.equal(views[0], pixels) and torch.equal(views[1], pixels)


def test_views_are_row_major() -> None:
    pixels = torch.arange(6.0).view(2, 3).repeat_interleave(4, 0).repeat_interleave(4, 1).expand(3, 8, 12)
    views = cut_views(pixels.contiguous(), 4)
    assert views.shape == (7, 3, 4, 4)
    assert [view.unique().tolist() for view in views[1:]] == [[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]]


def test_batch_of_pictures() -> None:
    processor = IXC25ImageProcessor(tile_size=28, max_tiles=4, max_tiles_multi=1)
    wide, square = Image.new("RGB", (56, 28)), Image.new("RGB", (28, 28), "white")
    batch = processor([wide, square])
    assert batch["image_grid"].tolist() == [[1, 2], [1, 1]]
    assert batch["pixel_values"].shape == (3 + 2, 3, 28, 28)
    # black is -mean / std, white (1 - mean) / std; the wide picture's views come first
    black = -torch.tensor(CLIP_MEAN) / torch.tensor(CLIP_STD)
    torch.testing.assert_close(batch["pixel_values"][:3].mean((0, 2, 3)), black)
    white = (1 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    torch.testing.assert_close(batch["pixel_values"][3:].mean((0, 2, 3)), white)
    # Q = 28 / (2 * 14) = 1: Q(Q+1) + 1 + Q rows (Q columns + 1) = 2 + 1 + 3, and 2 + 1 + 2
    assert processor.token_counts(batch["image_grid"]) == (6, 5)
    # together in one prompt each has one tile
    assert processor([[wide, square]])["image_grid"].tolist() == [[1, 1], [1, 1]]
    assert processor(wide)["image_grid"].tolist() == [[1, 2]]


def test_options_are_saved(tmp_path: Path) -> None:
    processor = IXC25ImageProcessor(tile_size=64, patch_size=8, max_tiles=3, max_tiles_multi=None, max_pixels=None)
    processor.save_pretrained(tmp_path)
    loaded = IXC25ImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert (loaded.tile_size, loaded.patch_size, loaded.max_tiles) == (64, 8, 3)
    assert loaded.max_tiles_multi is None and loaded.max_pixels is None
    assert IXC25ImageProcessor.from_pretrained(tmp_path, max_tiles=9).max_tiles == 9


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tile_size": 60}, "tile_size = 60"),
        ({"max_tiles": 0}, "max_tiles=0"),
        ({"variant": "x"}, "variant = 'x'"),
        ({"max_frames": 0}, "max_frames = 0: must be at least 1"),
        ({"label_height": -1}, "label_height = -1: must be at least 0"),
        ({"max_video_tiles": 0}, "max_video_tiles = 0: must be at least 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IXC25ImageProcessor(**options)
