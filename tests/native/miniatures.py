"""Miniature random models of transformers with locally trained tokenizers, one for each family under test."""

from __future__ import annotations

import io
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Idefics3Processor,
    InternVLProcessor,
    LlavaOnevisionProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen3VLProcessor,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lit_ixc.native import NativeProcessor, load
from lit_ixc.native.files import _without_video
from lit_ixc.records import ImagePart, MediaPart, Message, Prompt, TextPart, VideoPart

# transformers 5.17 needs torchvision to read the image processor of Idefics3; later versions do not.
_IDEFICS3 = () if getattr(transformers.Idefics3ImageProcessorPil, "is_dummy", False) else ("idefics3",)
VISION_FAMILIES: tuple[str, ...] = ("qwen2_5_vl", "qwen3_vl", "internvl", "llava_onevision", *_IDEFICS3)
TEXT_FAMILIES = ("llama", "qwen2", "qwen3")
FAMILIES: tuple[str, ...] = VISION_FAMILIES + TEXT_FAMILIES

SENTENCES = (
    "What is in the picture? Describe the image in one sentence.",
    "A small cat sits on the red mat, and a dog looks at it.",
    "The answer is 42, since 6 times 7 is 42. Wrong: it is 41!",
    "Which of the two frames is brighter than the other? system user assistant",
)

_TURN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}IMAGE{% elif c.type == 'video' %}VIDEO"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Llama's form: a begin-of-text token, headers between two tokens, contents stripped.
_LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# Qwen3's form: the last answer gets a block of thoughts, earlier answers lose theirs.
_QWEN3 = (
    "{% for m in messages %}{% set c = m.content %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% set thought = '' %}{% if '</think>' in c %}"
    "{% set thought = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.last %}<think>\n{{ thought }}\n</think>\n\n{{ c }}{% else %}{{ c }}{% endif %}"
    "{% else %}{{ c }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN_VL = (*_CHAT, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
SPECIAL: dict[str, tuple[str, ...]] = {
    "qwen2_5_vl": _QWEN_VL,
    "qwen3_vl": _QWEN_VL,
    "internvl": (*_CHAT, "<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
    "llava_onevision": (*_CHAT, "<image>", "<video>"),
    "idefics3": (
        *_CHAT,
        "<image>",
        "<fake_token_around_image>",
        "<global-img>",
        "<end_of_utterance>",
        *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
    ),
    "llama": ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "qwen2": _CHAT,
    "qwen3": (*_CHAT, "<think>", "</think>"),
}
_NAMED: dict[str, dict[str, str]] = {  # tokens that a processor asks its tokenizer for by name
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
}
IMAGE = {
    "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "qwen3_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "internvl": "<IMG_CONTEXT>\n",
    "llava_onevision": "<image>",
    "idefics3": "<image>",
}
VIDEO = {
    "qwen2_5_vl": "<|vision_start|><|video_pad|><|vision_end|>",
    "qwen3_vl": "<|vision_start|><|video_pad|><|vision_end|>",
    "internvl": "<video>\n",
    "llava_onevision": "<video>",
}


def chat_template(family: str) -> str:
    """A short template of the family's kind."""
    return {"llama": _LLAMA, "qwen3": _QWEN3}.get(family) or _TURN.replace("IMAGE", IMAGE.get(family, "")).replace(
        "VIDEO", VIDEO.get(family, "")
    )


@cache
def train_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 360 pieces with the family's special tokens first."""
    special = SPECIAL[family]
    core = Tokenizer(models.BPE())
    split = Regex(r"\p{L}+| ?[^\s\p{L}]+|\s+(?!\S)|\s+| \p{L}+")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(split, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 320,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(SENTENCES, trainer)
    llama = family == "llama"
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=special[0] if llama else None,
        eos_token=special[-1] if llama else "<|im_end|>",
        pad_token=None if llama else "<|endoftext|>",
        extra_special_tokens=_NAMED.get(family, {}),
        chat_template=chat_template(family),
    )


def _text(model_type: str, vocab: int, **more: Any) -> dict[str, Any]:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 2048, "vocab_size": vocab}
    tokens = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": None, "initializer_range": 0.2}
    return {"model_type": model_type, **heads, **sizes, **tokens, **more}


def model_config(family: str, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The configuration of a family with two layers of width 32 (four heads, two for keys) and a tiny vision tower."""
    vocab = len(tokenizer)
    number = lambda token: tokenizer.convert_tokens_to_ids(token)  # noqa: E731
    if family in TEXT_FAMILIES:
        return _text(family, vocab, head_dim=8, tie_word_embeddings=False)
    if family in ("qwen2_5_vl", "qwen3_vl"):
        names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
        names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
        vision: dict[str, Any] = {"depth": 2, "num_heads": 2, "hidden_size": 16, "intermediate_size": 24}
        vision |= {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3}
        vision |= {"out_hidden_size": 32, "initializer_range": 0.2}
        if family == "qwen3_vl":
            rope["mrope_interleaved"] = True
            vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
            text = _text("qwen3_vl_text", vocab, head_dim=8, rope_parameters=rope)
        else:
            vision |= {"window_size": 16, "fullatt_block_indexes": [1], "tokens_per_second": 2}
            text = _text("qwen2_5_vl_text", vocab, rope_parameters=rope)
        ids = {key: number(token) for key, token in names.items()}
        return {"model_type": family, "text_config": text, "vision_config": vision, "tie_word_embeddings": False, **ids}
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "initializer_range": 0.2}
    if family == "internvl":
        vision = {"model_type": "internvl_vision", **sizes, "image_size": [16, 16], "patch_size": [4, 4]}
        more: dict[str, Any] = {"image_token_id": number("<IMG_CONTEXT>"), "downsample_ratio": 0.5}
        more["tie_word_embeddings"] = False
        return {"model_type": family, "text_config": _text("qwen2", vocab), "vision_config": vision, **more}
    if family == "llava_onevision":
        vision = {"model_type": "siglip_vision_model", **sizes, "image_size": 16, "patch_size": 4}
        vision["vision_use_head"] = False
        more = {"image_token_id": number("<image>"), "video_token_id": number("<video>")}
        more |= {"image_grid_pinpoints": [[16, 16], [16, 32], [32, 16], [32, 32]], "vision_feature_layer": -1}
        return {"model_type": family, "text_config": _text("qwen2", vocab), "vision_config": vision, **more}
    vision = {"model_type": "idefics3_vision", **sizes, "image_size": 16, "patch_size": 4}
    more = {"image_token_id": number("<image>"), "scale_factor": 2}
    return {"model_type": family, "text_config": _text("llama", vocab), "vision_config": vision, **more}


def _processor(family: str, tokenizer: PreTrainedTokenizerFast) -> Any:
    """The family's own processor with a Pillow image processor of the miniature's sizes."""
    if family in TEXT_FAMILIES:
        return tokenizer
    template = {"chat_template": chat_template(family)}
    size = {"height": 16, "width": 16}
    if family in ("qwen2_5_vl", "qwen3_vl"):
        kind: Any = Qwen2_5_VLProcessor if family == "qwen2_5_vl" else Qwen3VLProcessor
        images: Any = Qwen2VLImageProcessorPil(patch_size=4, min_pixels=8 * 8, max_pixels=24 * 24)
        return _without_video(kind)(images, tokenizer, None, **template)
    if family == "internvl":
        images = GotOcr2ImageProcessorPil(size=size, crop_to_patches=True, min_patches=1, max_patches=4)
        return _without_video(InternVLProcessor)(images, tokenizer, None, image_seq_length=4, **template)
    if family == "llava_onevision":
        pinpoints = [[16, 16], [16, 32], [32, 16], [32, 32]]
        images = LlavaOnevisionImageProcessorPil(size=size, image_grid_pinpoints=pinpoints)
        strategy = {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
        return _without_video(LlavaOnevisionProcessor)(images, tokenizer, None, **strategy, **template)
    edges = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
    return Idefics3Processor(Idefics3ImageProcessorPil(**edges), tokenizer, image_seq_len=4, **template)


@cache
def _folder(family: str) -> tuple[tempfile.TemporaryDirectory[str], NativeProcessor]:
    """A folder with the processor and the configuration, and the processor read from it."""
    folder = tempfile.TemporaryDirectory(prefix=f"{family}-")
    tokenizer = train_tokenizer(family)
    _processor(family, tokenizer).save_pretrained(folder.name)
    (Path(folder.name) / "config.json").write_text(json.dumps(model_config(family, tokenizer)))
    return folder, NativeProcessor(folder.name)


def miniature(family: str, seed: int = 0, lm_head: bool = False) -> tuple[PreTrainedModel, NativeProcessor]:
    """A model of the family with random weights, and its processor.

    Args:
        family: One of ``FAMILIES``. Its processor is one object for all calls.
        seed: Seed of the weights.
        lm_head: Keep the language-model head.
    """
    model = load(model_config(family, train_tokenizer(family)), lm_head, seed=seed)
    return model, _folder(family)[1]


def picture(width: int, height: int, seed: int = 0) -> ImagePart:
    """A PNG of random pixels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "PNG")
    return ImagePart(f"{seed}.png", buffer.getvalue())


def film(frames: int, width: int = 16, height: int = 16, fps: int = 10) -> VideoPart:
    """A video whose left half grows brighter and whose right half grows darker."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            pixels = np.full((height, width, 3), 4 * index % 256, np.uint8)
            pixels[:, width // 2 :] = 255 - pixels[:, :1]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return VideoPart(f"{frames}.mp4", buffer.getvalue())


def question(*parts: str | MediaPart) -> Prompt:
    """A prompt of one user turn of texts, pictures and videos."""
    return Prompt((Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts)),))
