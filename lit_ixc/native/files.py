"""A model's own tokenizer and processor from its folder, as transformers has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import av
import PIL
import transformers
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # the name above it wants torchvision
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.processing_utils import ProcessorMixin

from lit_ixc.native.loading import model_class
from lit_ixc.native.model import argument_names
from lit_ixc.records import UserError


def read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder.

    Raises:
        UserError: There is none, or it does not tell where its tokens stand in the text.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"processor path = {path}: no tokenizer can be read there ({error})") from error
    files = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    if not any((path / file).is_file() for file in files):  # transformers then makes one without a vocabulary
        raise UserError(f"processor path = {path}: no tokenizer there; it needs one of {', '.join(sorted(files))}")
    if not tokenizer.is_fast:
        raise UserError(
            f"processor path = {path}: {type(tokenizer).__name__} does not tell where its tokens stand in the text; "
            "save it in the tokenizer.json form"
        )
    return tokenizer


def read_processor(
    path: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, video: bool = False
) -> ProcessorMixin | None:
    """The processor of an image-text model in a folder; None for a text model.

    The parts are put together here and not by ``AutoProcessor``, which wants a video processor, and that wants
    torchvision, where only images are given.

    Args:
        path: The folder.
        config: The model's configuration.
        tokenizer: The model's tokenizer.
        video: Read the video processor, too.

    Raises:
        UserError: The model takes images but the folder has no image processor, or the video processor is wanted and
            the model has none.
    """
    if not hasattr(model_class(config, lm_head=False), "get_image_features"):
        return None
    if type(config) not in PROCESSOR_MAPPING:
        raise UserError(f"processor path = {path}: transformers has no processor for {config.model_type}")
    kind = PROCESSOR_MAPPING[type(config)]
    takes_videos = "video_processor" in argument_names(kind.__init__)
    if video and not takes_videos:
        raise UserError(f"processor video = 'native': {kind.__name__} takes no videos; set video: frames")
    kind = kind if video else _without_video(kind)
    settings, _ = kind.get_processor_dict(path, local_files_only=True)
    try:
        images = AutoImageProcessor.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"processor path = {path}: no image processor can be read there ({error})") from error
    settings.pop("video_processor", None)
    parts: dict[str, Any] = {"image_processor": images, "tokenizer": tokenizer}
    try:
        if takes_videos:
            parts["video_processor"] = _read_video_processor(path) if video else None
        return cast(ProcessorMixin, kind.from_args_and_dict([], settings, **parts))
    except ImportError as error:
        raise UserError(f"processor path = {path}: {kind.__name__} cannot be built ({error})") from error


def _read_video_processor(path: Path) -> Any:
    try:
        return AutoVideoProcessor.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"processor video = 'native', path = {path}: no video processor can be read there ({error}); "
            "set video: frames"
        ) from error


def read_template(
    path: Path, given: str | None, processor: ProcessorMixin | None, tokenizer: PreTrainedTokenizerBase
) -> str:
    """A chat template as Jinja: the one given, as text or as a file's name, or the processor's or the tokenizer's.

    Raises:
        UserError: There is none, or ``given`` names no file.
    """
    template: Any = given
    if template is not None and "{" not in template:
        if not Path(template).is_file():
            raise UserError(f"processor chat_template = {template!r}: neither Jinja nor a file; give one of them")
        template = Path(template).read_text()
    template = template or getattr(processor, "chat_template", None) or tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise UserError(f"processor path = {path}: there is no chat template; give chat_template")
    return cast(str, template)


def image_arguments(
    processor: ProcessorMixin, image_options: Mapping[str, Any], min_pixels: int | None, max_pixels: int | None
) -> dict[str, Any]:
    """Arguments of the image processor: the processor's own defaults, then the options given here.

    Raises:
        UserError: The image processor has no such setting.
    """
    images = processor.image_processor
    known = set(getattr(getattr(images, "valid_kwargs", None), "__annotations__", {}))
    options = dict(image_options)
    for name in options:
        if name not in known and not hasattr(images, name):
            raise UserError(
                f"processor image_options.{name}: {type(images).__name__} has no such setting; it has "
                f"{', '.join(sorted(known))}"
            )
    bounds = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    if any(bound is not None for bound in bounds.values()):
        if "max_pixels" not in known:
            raise UserError(
                f"processor max_pixels = {max_pixels}, min_pixels = {min_pixels}: "
                f"{type(images).__name__} has no such bounds; leave them out, or use image_options"
            )
        options["size"] = {**dict(images.size), **{edge: n for edge, n in bounds.items() if n is not None}}
    if "image_grid_pinpoints" in known:  # as a list, for want of padding: tiles of several prompts then join
        options["do_pad"] = False
    else:
        options["return_tensors"] = "pt"
    return {**default_arguments(processor, "images_kwargs"), **options}


def default_arguments(processor: ProcessorMixin, kind: Literal["images_kwargs", "videos_kwargs"]) -> dict[str, Any]:
    """The arguments that a processor's own call gives to its image or its video processor."""
    merged = processor._merge_kwargs(
        processor.valid_processor_kwargs, tokenizer_init_kwargs=processor.tokenizer.init_kwargs
    )
    return cast(dict[str, Any], merged[kind])


def placeholders(processor: ProcessorMixin, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> list[str]:
    """Tokens that stand for images and videos or frame them."""
    named = {value for name, value in vars(processor).items() if name.endswith("_token")}
    ids = [value for name, value in config.to_dict().items() if name.endswith(("_token_id", "_token_index"))]
    special = {str(token) for number, token in tokenizer.added_tokens_decoder.items() if number in ids}
    usual = {tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token}
    return sorted(token for token in named | special if isinstance(token, str) and token not in usual)


def leading_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The tokenizer's own begin-of-text id, where an image-text model's template leaves it to the tokenizer."""
    bos = tokenizer.bos_token
    if bos is None or text.startswith(bos):
        return []
    first = tokenizer("")["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def processor_settings(processor: ProcessorMixin | None) -> dict[str, Any]:
    """Kinds and settings of the image and the video processor, and versions of what reads images and videos."""
    parts = {name: getattr(processor, name, None) for name in ("image_processor", "video_processor")}
    return {
        "processor": type(processor).__name__,
        "processor_settings": {} if processor is None else processor.to_dict(),
        **{name: "" if part is None else type(part).__name__ for name, part in parts.items()},
        "transformers": transformers.__version__,
        "pillow": PIL.__version__,
        "av": av.__version__,
    }


def _without_video(kind: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """The class of a processor without its video processor; it keeps its name, under which it is saved."""

    def get_attributes(cls: type[ProcessorMixin]) -> list[str]:
        return [name for name in super(made, cls).get_attributes() if name != "video_processor"]

    made: Any = type(kind.__name__, (kind,), {"get_attributes": classmethod(get_attributes)})
    return made
