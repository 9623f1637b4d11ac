"""Read and write checkpoints under the released parameter names.

The released shards are read tensor by tensor into one copy of the weights; nothing is unpickled but tensors.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lit_ixc.ixc25.configuration import IXC25Config
from lit_ixc.ixc25.model import IXC25ForConditionalGeneration, IXC25Model

log = logging.getLogger(__name__)

# Held by some published checkpoints, used by none of the paths implemented here (architecture notes, section 4):
# adapters of the "write" and "web" modes, the memory projector of the streaming variant, buffers of older libraries.
IGNORED = re.compile(
    r"\.lora_(sft|dpo|web)_[AB]\.weight$|^video_mem_proj\.|(^|\.)position_ids$|\.rotary_emb\.(inv_freq|cos_cached|sin_cached)$"
)
# The vision tower's last norm feeds only a pooled output that IXC-2.5 does not read; some checkpoints leave it out.
UNUSED_NORM = "vit.vision_tower.vision_model.post_layernorm."
# Names that reward models of this family give their linear head.
SCORE_NAMES = ("v_head.weight", "score.weight")
SAME_NAME_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_theta",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "tie_word_embeddings",
)


class Report(NamedTuple):
    """What a checkpoint held.

    Attributes:
        files: the weight files, in reading order.
        ignored: names left unread, because no implemented path uses them.
        filled: names the checkpoint lacks that no output depends on, set to the start values of a norm.
        score_name: the name under which the score vector was found.
    """

    files: list[str]
    ignored: list[str]
    filled: list[str]
    score_name: str | None


class Released(NamedTuple):
    """A checkpoint read by `from_released`.

    Attributes:
        model: with its language-model head (`IXC25ForConditionalGeneration`) or without (`IXC25Model`).
        score: (1, H) weight of a reward checkpoint's linear head.
        report: what was read and what was not.
    """

    model: IXC25Model
    score: Tensor | None
    report: Report


def from_released(
    directory: str | Path,
    *,
    dtype: torch.dtype | None = None,
    with_head: bool | None = None,
    config: IXC25Config | None = None,
) -> Released:
    """Read a published checkpoint: safetensors or PyTorch shards with their index, or a single file.

    Args:
        directory: holds the weight files and `config.json`.
        dtype: of the floating-point weights; None keeps the checkpoint's.
        with_head: whether to read the language-model head; None reads it if it is there.
        config: sizes, for a checkpoint whose `config.json` does not tell them; None reads `config.json`.

    Returns:
        The model in evaluation mode on the CPU, the score vector of a reward checkpoint, and a report.

    Raises:
        FileNotFoundError: no `config.json`, no weight file, or a shard that the index names is absent.
        ValueError: a file that is damaged or holds other objects than tensors, or names that are missing, unexpected,
            duplicate or of another shape, all in one message.
    """
    directory = Path(directory)
    config = config or released_config(directory / "config.json")
    files = _weight_files(directory)
    state: dict[str, Tensor] = {}
    ignored: list[str] = []
    for file in files:
        for name, tensor in _read(file):
            if IGNORED.search(name) or (name == "output.weight" and with_head is False):
                ignored.append(name)
            elif name in state:
                raise ValueError(f"{file}: {name} is in an earlier weight file too; keep one copy of the checkpoint")
            else:
                # A copy, so that the weights do not hang on a mapped file; one tensor at a time.
                state[name] = tensor.to(dtype if tensor.is_floating_point() else None, copy=True)
    if with_head is None:
        with_head = "output.weight" in state

    with torch.device("meta"):
        model = (IXC25ForConditionalGeneration if with_head else IXC25Model)(config)
    expected = model.state_dict()
    score_name = _find_score(state, expected.keys(), config.hidden_size)
    score = state.pop(score_name) if score_name else None
    filled = [name for name in expected if name.startswith(UNUSED_NORM) and name not in state]
    reference = next(iter(state.values()), torch.empty(0))
    for name in filled:
        fill = torch.ones if name.endswith("weight") else torch.zeros
        state[name] = fill(expected[name].shape, dtype=reference.dtype)
    _check_names(directory, expected, state)
    model.load_state_dict(state, assign=True)
    # The only buffer outside the state dict: it is still on the meta device.
    embeddings = model.vit.clip.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
    model.config.dtype = model.dtype
    if score_name:
        log.info("%s: took the score vector from %s", directory, score_name)
    if ignored:
        log.info("%s: left %d unused tensors unread", directory, len(ignored))
    return Released(model.eval(), score, Report([file.name for file in files], ignored, filled, score_name))


def to_released(
    model: IXC25Model, directory: str | Path, *, score: Tensor | None = None, max_shard_size: str | int = "10GB"
) -> None:
    """Write safetensors shards, their index and `config.json` under the released names.

    The directory can be read by `from_released` and by `from_pretrained`.

    Args:
        model: an unwrapped model; merge adapters first.
        directory: new or without weight files.
        score: (1, H) weight of a reward head, written as `v_head.weight`.
        max_shard_size: most bytes per file, as a number or as in "10GB".

    Raises:
        FileExistsError: the directory already holds weight files.
        ValueError: parameters under other names than the released ones, or a score of another shape.
    """
    directory = Path(directory)
    if stale := [
        path.name for pattern in ("*.safetensors", "*.bin", "*.index.json") for path in directory.glob(pattern)
    ]:
        raise FileExistsError(f"{directory} already holds {', '.join(sorted(stale))}; choose a new directory")
    with torch.device("meta"):
        expected = type(model)(model.config).state_dict()
    state = model.state_dict()
    _check_names(directory, expected, state, remedy="; merge adapters (merge_and_unload) and unwrap the model first")
    if score is not None:
        if tuple(score.shape) != (1, model.config.hidden_size):
            raise ValueError(f"score has shape {tuple(score.shape)}, expected (1, {model.config.hidden_size})")
        state["v_head.weight"] = score.detach()
    directory.mkdir(parents=True, exist_ok=True)
    split = split_torch_state_dict_into_shards(
        state, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    for filename, names in split.filename_to_tensors.items():
        save_file({name: state[name].contiguous() for name in names}, directory / filename, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    values = model.config.to_dict() | {"architectures": [type(model).__name__]}
    IXC25Config.from_dict(values).save_pretrained(directory)


def released_config(path: str | Path) -> IXC25Config:
    """Read a `config.json`: the released one (flat InternLM2 fields) or one of this package.

    The released file has no vision or PLoRA fields; they have their released values.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no JSON object, or asks for something IXC-2.5 does not have.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: it lies beside the published weights, copy it too")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold one JSON object, not a {type(values).__name__}")
    if values.get("model_type") == IXC25Config.model_type:
        return _checked_config(path, values)
    if values.get("bias"):
        raise ValueError(f"{path}: bias={values['bias']} is not supported, IXC-2.5 has no biases in its language model")
    scaling = values.get("rope_scaling")
    if scaling and (scaling.get("type", scaling.get("rope_type")) != "dynamic" or "factor" not in scaling):
        raise ValueError(f"{path}: rope_scaling={scaling} is not supported, only type 'dynamic' with a factor, or null")
    fields: dict[str, Any] = {name: values[name] for name in SAME_NAME_FIELDS if name in values}
    fields["rope_ntk_factor"] = scaling["factor"] if scaling else None
    return _checked_config(path, fields)


def _checked_config(path: Path, fields: dict[str, Any]) -> IXC25Config:
    try:
        return IXC25Config.from_dict(fields)
    except StrictDataclassError as error:
        raise ValueError(f"{path}: {error}") from error


def _weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights; safetensors win over PyTorch files."""
    for suffix in ("safetensors", "bin"):
        indices = sorted(directory.glob(f"*.{suffix}.index.json"))
        if len(indices) > 1:
            raise ValueError(f"{directory} holds several indices: {', '.join(path.name for path in indices)}")
        if indices:
            try:
                weight_map = json.loads(indices[0].read_text(encoding="utf-8"))["weight_map"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{indices[0]} is no weight index ({error!r}); fetch it again") from error
            names = sorted(set(weight_map.values()))
            if absent := [name for name in names if not (directory / name).is_file()]:
                raise FileNotFoundError(f"{indices[0]} names {', '.join(absent)}, absent: complete the download")
            return [directory / name for name in names]
        if files := sorted(directory.glob("*.safetensors" if suffix == "safetensors" else "pytorch_model*.bin")):
            return files
    raise FileNotFoundError(f"{directory} holds no weights: expected *.safetensors or pytorch_model*.bin")


def _read(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of one weight file, without copying it into memory as a whole."""
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (the handle is no mapping)
                    yield name, tensors.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f"{file} is not a readable safetensors file ({error}); fetch it again") from error
        return
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} holds pickled objects other than tensors, or is damaged; it is not unpickled. Fetch it again, or "
            f"convert it to safetensors where you trust it"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{file} is not a readable PyTorch weight file ({error}); fetch it again") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{file} must hold a flat mapping from names to tensors, as published checkpoints do")
    yield from state.items()


def _find_score(state: dict[str, Tensor], expected: Any, hidden_size: int) -> str | None:
    """Name of the reward head: a known name, else the only unknown tensor of shape (1, H)."""
    unknown = [name for name in state if name not in expected and tuple(state[name].shape) == (1, hidden_size)]
    candidates = [name for name in SCORE_NAMES if name in unknown] or unknown
    return candidates[0] if len(candidates) == 1 else None


def _check_names(directory: Path, expected: dict[str, Tensor], state: dict[str, Tensor], remedy: str = "") -> None:
    """Raise one ValueError that lists missing, unexpected and mismatched names."""
    problems = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [f"{name} {tuple(state[name].shape)}" for name in state if name not in expected],
        "of another shape": [
            f"{name} {tuple(state[name].shape)}, expected {tuple(expected[name].shape)}"
            for name in expected
            if name in state and state[name].shape != expected[name].shape
        ],
    }
    shown = 8
    lines = [
        f"{len(names)} {kind}: {'; '.join(names[:shown])}{'; ...' if len(names) > shown else ''}"
        for kind, names in problems.items()
        if names
    ]
    if lines:
        raise ValueError(f"{directory}: the parameters do not fit the configuration. " + ". ".join(lines) + remedy)
