"""Videos: sampled frames, geometry of the montage, its bytes without labels, and the picture made of it, exactly."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from released import synthetic

from lit_ixc.ixc25.video import fit_frame, fit_short_side, montage, montage_layout, sample_indices
from lit_ixc.ixc25.vision import visual_token_count


@pytest.fixture(scope="module")
def video(golden_dir: Path) -> dict[str, Any]:
    video = json.loads((golden_dir / "video.json").read_text())
    assert video["sampling"] and video["composites"], "the goldens hold no cases"
    return video


def test_frame_indices(video: dict[str, Any]) -> None:
    for case in video["sampling"]:
        picked = sample_indices(case["avg_fps"], case["n_frames"], case["num_frm"], case["start"], case["end"])
        assert picked == case["picked"], case


def test_montage_geometry(video: dict[str, Any]) -> None:
    for case in video["composites"]:
        layout = montage_layout([(case["frame_w"], case["frame_h"])] * case["n_frames"])
        assert layout.canvas == (case["canvas_w"], case["canvas_h"])
        assert layout.labels == [(label["x"], label["y"]) for label in case["labels"]]
        assert [label["text"] for label in case["labels"]] == [f"<IMAGE {i}>" for i in range(case["n_frames"])]
        assert layout.lines == [(tuple(line["p0"]), tuple(line["p1"])) for line in case["separators"]]


def test_montage_bytes_and_picture(video: dict[str, Any]) -> None:
    for case in video["composites"]:
        frames = [fit_frame(synthetic(case["frame_w"], case["frame_h"], k)) for k in range(case["n_frames"])]
        canvas = montage(frames, draw_labels=False)
        assert canvas.size == (case["canvas_w"], case["canvas_h"])
        assert hashlib.sha256(canvas.tobytes()).hexdigest() == case["canvas_without_text_sha256"]
        picture, expected = fit_short_side(canvas), case["video_transform_without_text"]
        assert picture.size == (expected["out_w"], expected["out_h"])
        assert hashlib.sha256(picture.tobytes()).hexdigest() == expected["sha256"]
        grid = (picture.height // 560, picture.width // 560)
        assert grid == (expected["tiles_h"], expected["tiles_w"])
        assert visual_token_count(*grid, 20) == expected["num_visual_tokens"]
