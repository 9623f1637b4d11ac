"""The model's own video path: what transformers' processor classes make of our frames, mixed with pictures.

The video processors of transformers need torchvision. A stand-in gives inputs of the right shapes here; all that its
output goes through, and what the models do with it, is transformers' own.
"""

from __future__ import annotations

import copy
import json
from typing import Any, cast

import av
import numpy as np
import pytest
import torch
from native.miniatures import IMAGE, VIDEO, VISION_FAMILIES, film, miniature, picture, question
from torch import Tensor
from transformers import LlavaOnevisionModel
from transformers.processing_utils import ProcessorMixin
from transformers.video_utils import VideoMetadata, make_batched_metadata

from lit_ixc.backbone import hidden_states
from lit_ixc.batch import EncodedComparison, EncodedSequence
from lit_ixc.ixc25.image import load_image
from lit_ixc.ixc25.video import read_frames
from lit_ixc.layout import collate
from lit_ixc.native import NativeFamily, NativeProcessor, files, processing
from lit_ixc.native.files import read_processor
from lit_ixc.native.media import clip_of, placed_of
from lit_ixc.native.model import argument_names
from lit_ixc.records import MediaPart, Prompt, RecordError, UserError, text_message
from tests.trees import states_in_tree

FAMILY = NativeFamily()
# of transformers 5.17, LLaVA-OneVision adds the newline behind a video elsewhere
ONEVISION = "pixel_values_videos" in argument_names(LlavaOnevisionModel.get_video_features)
FAMILIES: tuple[str, ...] = ("qwen2_5_vl", "qwen3_vl", "internvl", *(("llava_onevision",) if ONEVISION else ()))
QWEN = ("qwen2_5_vl", "qwen3_vl")
FILM = film(45)  # ten frames a second: frames 0, 10, 20, 30, 40
PICTURE = picture(40, 20)


class Frames:
    """A video processor that leaves frames at their size: each is a picture (InternVL, LLaVA-OneVision)."""

    temporal_patch_size, merge_size = 2, 2

    def __call__(
        self, videos: list[Any], video_metadata: Any = None, return_metadata: bool = False, **options: Any
    ) -> dict[str, Any]:
        assert options["do_sample_frames"] is False and options["input_data_format"] == "channels_last"
        pixels = [torch.from_numpy(np.asarray(video)).movedim(-1, 1).float() / 255 for video in videos]
        found = self.inputs(pixels)
        return {**found, "video_metadata": make_batched_metadata(videos, video_metadata)} if return_metadata else found

    def inputs(self, pixels: list[Tensor]) -> dict[str, Any]:
        return {"pixel_values_videos": torch.stack(pixels)}  # (videos, frames, 3, H, W)

    def to_dict(self) -> dict[str, Any]:
        return {"merge_size": self.merge_size}


class Patches(Frames):
    """Patches of 2 frames x 4 x 4 pixels, 2 x 2 of them beside each other (Qwen-VL)."""

    def inputs(self, pixels: list[Tensor]) -> dict[str, Any]:
        patches, grids = [], []
        for video in pixels:
            video = torch.cat([video, video[-1:]]) if len(video) % 2 else video
            time, high, wide = len(video) // 2, video.shape[2] // 4, video.shape[3] // 4
            cut = video.view(time, 2, 3, high // 2, 2, 4, wide // 2, 2, 4).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
            patches.append(cut.reshape(time * high * wide, 3 * 2 * 4 * 4))
            grids.append([time, high, wide])
        return {"pixel_values_videos": torch.cat(patches), "video_grid_thw": torch.tensor(grids)}


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a processor with the stand-in."""
    monkeypatch.setattr(processing, "is_torchvision_available", lambda: True)

    def make(family: str, **options: Any) -> NativeProcessor:
        _, own = miniature(family)
        processor = NativeProcessor(str(own.path), video="native", frame_size=16, **options)
        parts: Any = read_processor(own.path, own.config, own.tokenizer)
        parts.video_processor = Patches() if family in QWEN else Frames()
        processor.processor = parts
        return processor

    return make


def mixed(order: str) -> Prompt:
    """A text right before the video, and one picture before it or behind it."""
    parts: dict[str, tuple[str | MediaPart, ...]] = {
        "picture first": ("Which of ", PICTURE, " and ", FILM, " is brighter?"),
        "video first": ("Which of ", FILM, "and", PICTURE, " is brighter?"),
    }
    return question(*parts[order])


_SQUARE = {"size": {"height": 16, "width": 16}}
_SIZES = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
VIDEO_SETTINGS: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {
        "video_processor_type": "Qwen2VLVideoProcessor",
        "size": {"shortest_edge": 8 * 8, "longest_edge": 24 * 24},
        **_SIZES,
    },
    "qwen3_vl": {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "size": {"shortest_edge": 2 * 8 * 8, "longest_edge": 8 * 24 * 24},
        **_SIZES,
    },
    "internvl": {"video_processor_type": "InternVLVideoProcessor", **_SQUARE},
    "llava_onevision": {"video_processor_type": "LlavaOnevisionVideoProcessor", **_SQUARE},
}
ORDERS = ("picture first", "video first")


def encode(processor: NativeProcessor, prompt: Prompt, text: str = "The cat.") -> EncodedSequence:
    media = processor.encode_media(prompt.media)
    return processor.encode_conversation(prompt, (text_message("assistant", text),), media, "sft")


def own_call(processor: NativeProcessor, family: str, order: str) -> Any:
    """Transformers' processor on the conversation as text, the picture and the frames."""
    text = (
        "<|im_start|>user\nWhich of PICTURE and FILM is brighter?<|im_end|>\n<|im_start|>assistant\nThe cat.<|im_end|>"
    )
    if order == "video first":
        text = text.replace("PICTURE and FILM", "FILMandPICTURE")
    text = text.replace("PICTURE", IMAGE[family]).replace("FILM", VIDEO[family])
    frames = np.stack([np.asarray(frame.image) for frame in read_frames(FILM.data, 32, 16)])
    metadata = VideoMetadata(45, 10.0, 16, 16, 4.5, "pyav", [0, 10, 20, 30, 40])
    options = {"do_sample_frames": False, "video_metadata": [metadata], "input_data_format": "channels_last"}
    parts: Any = processor.processor
    images = [[load_image(PICTURE.data)]]
    return parts(text=[text], images=images, videos=[frames], videos_kwargs=options, return_tensors="pt")


def assert_equal_to_own_call(processor: NativeProcessor, family: str, order: str) -> None:
    prompt = mixed(order)
    media, sequence = processor.encode_media(prompt.media), encode(processor, prompt)
    own = own_call(processor, family, order)
    assert sequence.ids == own["input_ids"][0].tolist()
    if family == "llava_onevision":  # (1, tiles, ...), padded where there are several pictures
        own["pixel_values"] = own["pixel_values"].flatten(0, 1)
    names = {"pixel_values", "pixel_values_videos", "image_grid_thw", "video_grid_thw", "second_per_grid_ts"} & set(own)
    assert names == names & set(media.tensors) and len(names) == (5 if family == "qwen2_5_vl" else len(names))
    for name in names:
        torch.testing.assert_close(media.tensors[name], torch.as_tensor(own[name]), rtol=0, atol=0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_ids_and_inputs_equal_the_processors_own_call(native: Any, family: str, order: str) -> None:
    assert_equal_to_own_call(native(family), family, order)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_lengths_and_visual_mask(native: Any, family: str, order: str) -> None:
    """Frames of 16 x 16 pixels are 4 tokens: 5 frames as 3 steps in time, as 5 frames, or as 5 and a newline."""
    processor = native(family)
    alone = processor.encode_media((PICTURE,)).lengths[0]
    of_video = {"internvl": 5 * 4, "llava_onevision": 5 * 4 + 1}.get(family, 3 * 4)
    media = processor.encode_media(mixed(order).media)
    assert media.lengths == ((alone, of_video) if order == "picture first" else (of_video, alone))
    assert media.tensors["video_items"].tolist() == ([0, 1] if order == "picture first" else [1, 0])
    sequence = encode(processor, mixed(order))
    assert sum(sequence.visual) == alone + of_video
    # a frame is a picture to InternVL; the others have a token of its own for videos
    token = processor.image_token_id if family == "internvl" else processor.config.video_token_id
    of_kind = [number == token for number in sequence.ids]
    assert sum(of_kind) == of_video + (alone if family == "internvl" else 0)
    assert not any(is_video and not seen for is_video, seen in zip(of_kind, sequence.visual, strict=True))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("family", QWEN)
def test_axes_equal_the_model_s_own_count(native: Any, family: str, order: str) -> None:
    model, _ = miniature(family)
    processor = native(family)
    media, sequence = processor.encode_media(mixed(order).media), encode(processor, mixed(order))
    own = own_call(processor, family, order)
    grids = {name: own[name] for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts") if name in own}
    expected, _ = model.get_rope_index(own["input_ids"], own["mm_token_type_ids"], **grids)
    assert set(own["mm_token_type_ids"][0].tolist()) == {0, 1, 2}
    assert sequence.axes is not None and (sequence.axes == expected[:, 0].numpy()).all()
    # beside kept features nothing but whole numbers is left
    whole = {name: tensor for name, tensor in media.tensors.items() if tensor.dtype in (torch.int64, torch.int32)}
    assert {"pixel_values_videos", "second_per_grid_ts"}.isdisjoint(whole)
    response = (text_message("assistant", "The cat."),)
    kept = processor.encode_conversation(mixed(order), response, media._replace(tensors=whole), "sft")
    assert kept.ids == sequence.ids and (kept.axes == sequence.axes).all()


def test_time_of_a_video(native: Any) -> None:
    """6 of 60 frames at 10 a second are one a second, so a step of 2 frames is 2 s, or 4 at 2 positions a second.

    Steps in time stand at 0, 4 and 8 behind the text before them; text goes on behind the 2 rows and columns.
    """
    sequence = encode(native("qwen2_5_vl"), question("a", film(60), "b"))
    start = sequence.visual.index(True)
    assert sequence.axes is not None
    assert (sequence.axes[0, start : start + 12] - start).tolist() == [0] * 4 + [4] * 4 + [8] * 4
    assert (sequence.axes[1, start : start + 12] - start).tolist() == [0, 0, 1, 1] * 3
    assert sequence.axes[:, start + 12].tolist() == [start + 2] * 3


def test_times_that_qwen3_vl_reads(native: Any) -> None:
    """Frames 0 and 10, 20 and 30, 40 twice, at 10 a second."""
    processor = native("qwen3_vl")
    step = "<|vision_start|>" + 4 * "<|video_pad|>" + "<|vision_end|>"
    text = f"<0.5 seconds>{step}<2.5 seconds>{step}<4.0 seconds>{step}"
    assert text in processor.tokenizer.decode(encode(processor, question("a", FILM)).ids)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_features_stand_in_reading_order(native: Any, family: str, order: str) -> None:
    model, _ = miniature(family)
    processor = native(family)
    parts = mixed(order).media
    with torch.no_grad():
        found = FAMILY.features(model, processor.encode_media(parts).tensors)
        alone = [FAMILY.features(model, processor.encode_media((part,)).tensors) for part in parts]
    assert tuple(map(len, alone)) == processor.encode_media(parts).lengths
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_trees_equal_the_model_s_own_forward_pass(native: Any, family: str) -> None:
    """Text alone, a picture alone, and both orders in one step, two answers each."""
    model, _ = miniature(family)
    processor = native(family)
    items = []
    for prompt in (question("What is it?"), question(PICTURE, "What is it?"), *map(mixed, ORDERS)):
        media = processor.encode_media(prompt.media)
        answers = [(text_message("assistant", answer),) for answer in ("A small cat.", "It is 42.")]
        sequences = [processor.encode_conversation(prompt, answer, media, "reward") for answer in answers]
        items.append(EncodedComparison("c", "", "", prompt.modality, sequences, media, (0, 1), None, (1, 1)))
    batch = collate(items, processor.pad_token_id)
    with torch.no_grad():
        found = states_in_tree(hidden_states(model, batch), batch)
        for one, item in zip(found, items, strict=True):
            for states, sequence in zip(one, item.sequences, strict=True):
                ids = torch.tensor([sequence.ids])
                expected = FAMILY.separate(model, ids, torch.ones_like(ids), item.media.tensors)[0]
                assert (states - expected).norm() <= 1e-5 * expected.norm()


def test_several_videos(native: Any) -> None:
    """3 and 5 frames."""
    prompt = question("a", film(25), "b", FILM)
    assert native("qwen2_5_vl").encode_media(prompt.media).lengths == (2 * 4, 3 * 4)
    processor = native("internvl")
    assert processor.encode_media(prompt.media).lengths == (3 * 4, 5 * 4)
    assert "aFrame1: <img>" in processor.tokenizer.decode(encode(processor, prompt).ids)
    placed, _ = placed_of(processor.encode_media(prompt.media), processor.tokenizer)
    start = processor.tokenizer.convert_tokens_to_ids("<img>")
    assert [(one.head, one.ids[0]) for one in placed] == 2 * [("Frame1: ", start)]  # to be tokenised with the a


@pytest.mark.skipif(not ONEVISION, reason="it is refused")
def test_several_videos_of_llava_onevision(native: Any) -> None:
    processor = native("llava_onevision")
    assert processor.encode_media((FILM, FILM)).lengths == (21, 21)
    with pytest.raises(RecordError, match="the same number of frames"):
        processor.encode_media((film(25), FILM))


def test_features_that_are_not_what_is_relied_on(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlavaOnevisionModel, "get_video_features", lambda pixel_values: pixel_values)
    with pytest.raises(UserError, match="LlavaOnevisionModel of this version of transformers"):
        native("llava_onevision").encode_media((FILM,))


def test_fewer_frames_than_announced() -> None:
    """45 frames at ten a second are announced, of which three of the five sampled ones decode."""
    frames = [frame.image for frame in read_frames(FILM.data, 32, 16)][:3]
    metadata = clip_of(FILM, frames, 32).metadata
    assert (metadata.total_num_frames, metadata.fps, metadata.frames_indices) == (45, 10.0, [0, 10, 20])


def test_a_template_that_takes_a_video_for_a_picture(native: Any) -> None:
    part = "{% if c.type == 'text' %}{{ c.text }}{% else %}<|image_pad|>{% endif %}"
    template = "{% for m in messages %}{% for c in m.content %}" + part + "{% endfor %}<|im_end|>{% endfor %}"
    with pytest.raises(UserError, match="1 placeholders for 1 images and videos"):
        encode(native("qwen2_5_vl", chat_template=template), question(FILM, "a"))


def test_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processing, "is_torchvision_available", lambda: False)
    with pytest.raises(UserError, match=r"video = 'native': .* need torchvision.*set video: frames"):
        NativeProcessor("a folder", video="native")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_video_processor_is_read_and_kept(family: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image processor plays its part, and transformers' check of its class is left out, for want of torchvision."""
    _, own = miniature(family)
    known = copy.deepcopy(cast(Any, own.processor).image_processor)
    known.size = {"height": 7, "width": 9}
    monkeypatch.setattr(files.AutoVideoProcessor, "from_pretrained", lambda *_, **__: known)
    monkeypatch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda *_: object)
    processor = read_processor(own.path, own.config, own.tokenizer, video=True)
    assert processor is not None and processor.video_processor is known
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["video_processor"]["size"] == {"height": 7, "width": 9} != saved["image_processor"]["size"]

    def nothing(*_: Any, **__: Any) -> None:
        raise OSError("no file")

    monkeypatch.setattr(files.AutoVideoProcessor, "from_pretrained", nothing)
    with pytest.raises(UserError, match=r"no video processor can be read there \(no file\); set video: frames"):
        read_processor(own.path, own.config, own.tokenizer, video=True)


@pytest.mark.skipif("idefics3" not in VISION_FAMILIES, reason="transformers cannot read its image processor here")
def test_a_processor_without_videos() -> None:
    _, own = miniature("idefics3")
    with pytest.raises(UserError, match=r"Idefics3Processor takes no videos; set video: frames"):
        read_processor(own.path, own.config, own.tokenizer, video=True)


def test_what_cannot_be_used(native: Any) -> None:
    _, text = miniature("llama")
    no_videos = NativeProcessor(str(text.path), video="native")
    with pytest.raises(RecordError, match="takes text alone"):
        no_videos.encode_media((FILM,))
    with pytest.raises(UserError, match="video = 'film'"):
        NativeProcessor(str(text.path), video="film")  # type: ignore[arg-type]


def test_media_settings(native: Any) -> None:
    """An image processor plays the part of the video processor: it writes its settings as that does."""
    settings = []
    for height in (7, 7, 9):
        processor = native("qwen2_5_vl")
        video = copy.deepcopy(processor.processor.image_processor)
        video.size = {"height": height, "width": 9}
        processor.processor.video_processor = video
        settings.append(processor.media_settings)
    assert settings[0] == settings[1] != settings[2]
    frames = NativeProcessor(str(processor.path), frame_size=16).media_settings
    assert frames not in settings and json.loads(frames)["av"] == av.__version__


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_video_processors_of_transformers(family: str, order: str, tmp_path: Any) -> None:
    """The same with the model's true video processor, read from its folder and written again."""
    pytest.importorskip("torchvision", reason="the video processors of transformers need torchvision")
    _, own = miniature(family)
    processor = read_processor(own.path, own.config, own.tokenizer)
    assert processor is not None
    processor.save_pretrained(tmp_path)
    own.config.save_pretrained(tmp_path)
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(VIDEO_SETTINGS[family]))
    NativeProcessor(str(tmp_path), video="native", frame_size=16).save_pretrained(tmp_path / "again")
    assert_equal_to_own_call(NativeProcessor.from_pretrained(tmp_path / "again"), family, order)
