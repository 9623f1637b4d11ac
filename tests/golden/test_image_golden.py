"""Pictures: sizes, tiles, bytes and normalised values of the released preprocessing, exactly."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from released import synthetic
from safetensors.torch import load_file

from lit_ixc.ixc25.image import IXC25ImageProcessor
from lit_ixc.ixc25.partition import arrange, cut_views, normalise, partition
from lit_ixc.ixc25.vision import visual_token_count


@pytest.fixture(scope="module")
def rows(golden_dir: Path) -> list[dict[str, Any]]:
    rows = json.loads((golden_dir / "image_transform.json").read_text())["rows"]
    assert sum(len(row["cases"]) for row in rows) >= 8, "the goldens hold no cases"
    return rows


def test_partition_and_pixels(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        image = synthetic(row["w"], row["h"])
        assert hashlib.sha256(image.tobytes()).hexdigest() == row["src_sha256"]
        for case in row["cases"]:
            layout = partition(row["w"], row["h"], case["hd_num"], 560, case["kind"])
            assert layout.swapped == case["transposed"], case
            assert layout.resize == (case["resize_w"], case["resize_h"]), case
            assert layout.resize[0] == 560 * case["scale"], case
            assert layout.grid == (case["tiles_h"], case["tiles_w"]), case
            assert visual_token_count(*layout.grid, 20) == case["num_visual_tokens"], case
            canvas = arrange(image, layout)
            assert canvas.size == (case["out_w"], case["out_h"]), case
            assert hashlib.sha256(canvas.tobytes()).hexdigest() == case["sha256"], case


def test_full_pixels_and_normalisation(golden_dir: Path, rows: list[dict[str, Any]]) -> None:
    full = load_file(golden_dir / "image_pixels_full.safetensors")
    compared = 0
    for row in rows:
        for case in row["cases"]:
            name = f"{case['kind']}_w{row['w']}_h{row['h']}_hd{case['hd_num']}"
            if f"{name}.uint8_hwc" not in full:
                continue
            layout = partition(row["w"], row["h"], case["hd_num"], 560, case["kind"])
            canvas = arrange(synthetic(row["w"], row["h"]), layout)
            pixels = normalise(canvas)
            expected = full[f"{name}.uint8_hwc"]
            assert canvas.tobytes() == expected.numpy().tobytes(), name
            assert torch.equal(pixels[:, :48], full[f"{name}.normalized_rows_0_48"]), name
            digest = hashlib.sha256(pixels.numpy().tobytes()).digest()
            assert digest == bytes(full[f"{name}.normalized_sha256"].tolist()), name
            compared += 1
    assert compared == sum(key.endswith(".uint8_hwc") for key in full) > 0


def test_processor_gives_global_view_and_tiles(rows: list[dict[str, Any]]) -> None:
    """The whole path for one case with several tiles: tile (r, c) of the golden canvas is view 1 + r * w + c."""
    row = next(row for row in rows if row["cases"][0]["tiles_w"] * row["cases"][0]["tiles_h"] > 1)
    case = row["cases"][0]
    processor = IXC25ImageProcessor(max_tiles=case["hd_num"], variant=case["kind"])
    batch = processor([synthetic(row["w"], row["h"])], return_tensors="pt")
    h, w = case["tiles_h"], case["tiles_w"]
    assert batch["image_grid"].tolist() == [[h, w]]
    assert processor.token_counts(batch["image_grid"]) == (case["num_visual_tokens"],)
    layout = partition(row["w"], row["h"], case["hd_num"], 560, case["kind"])
    pixels = normalise(arrange(synthetic(row["w"], row["h"]), layout))
    views = batch["pixel_values"]
    assert views.shape == (1 + h * w, 3, 560, 560) and views.dtype == torch.float32
    for r in range(h):
        for c in range(w):
            tile = pixels[:, 560 * r : 560 * (r + 1), 560 * c : 560 * (c + 1)]
            assert torch.equal(views[1 + r * w + c], tile)
    whole = torch.nn.functional.interpolate(pixels[None], size=(560, 560), mode="bicubic")[0]
    assert torch.equal(views[0], whole)
    assert torch.equal(cut_views(pixels, 560), views)
