"""A model's own tokenizer and processor from its folder, as transformers has them, without its video processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # the name above it wants torchvision
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.processing_utils import ProcessorMixin

from lit_ixc.native.model import argument_names, model_class
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


def read_processor(path: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> ProcessorMixin | None:
    """The processor of an image-text model in a folder; None for a text model.

    The parts are put together here and not by ``AutoProcessor``, which wants a video processor, and that wants
    torchvision, where only images are given.

    Raises:
        UserError: The model takes images but the folder has no image processor.
    """
    if not hasattr(model_class(config, lm_head=False), "get_image_features"):
        return None
    if type(config) not in PROCESSOR_MAPPING:
        raise UserError(f"processor path = {path}: transformers has no processor for {config.model_type}")
    kind = _without_video(PROCESSOR_MAPPING[type(config)])
    settings, _ = kind.get_processor_dict(path, local_files_only=True)
    try:
        images = AutoImageProcessor.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"processor path = {path}: no image processor can be read there ({error})") from error
    settings.pop("video_processor", None)
    parts: dict[str, Any] = {"image_processor": images, "tokenizer": tokenizer}
    if "video_processor" in argument_names(kind.__init__):
        parts["video_processor"] = None
    try:
        return cast(ProcessorMixin, kind.from_args_and_dict([], settings, **parts))
    except ImportError as error:
        raise UserError(f"processor path = {path}: {kind.__name__} cannot be built ({error})") from error


def _without_video(kind: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """The class of a processor without its video processor; it keeps its name, under which it is saved."""

    def get_attributes(cls: type[ProcessorMixin]) -> list[str]:
        return [name for name in super(made, cls).get_attributes() if name != "video_processor"]

    made: Any = type(kind.__name__, (kind,), {"get_attributes": classmethod(get_attributes)})
    return made
