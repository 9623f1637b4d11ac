"""Native models from a folder, from a configuration with random weights, or from the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_MAPPING,
)

from lit_ixc.native.model import base_of
from lit_ixc.records import UserError


def model_class(config: PreTrainedConfig, lm_head: bool) -> type[PreTrainedModel]:
    """The class of an image-text model, or of a causal language model, with its head or without.

    Raises:
        UserError: transformers has no such model for this configuration.
    """
    for mapping in (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING):
        if type(config) in mapping and type(config) in MODEL_MAPPING:
            return (mapping if lm_head else MODEL_MAPPING)[type(config)]
    raise UserError(
        f"backbone model_type = {config.model_type!r}: transformers has neither an image-text model nor a causal "
        "language model of this type; choose a model that AutoModelForImageTextToText or AutoModelForCausalLM loads"
    )


def load(
    path_or_config: str | Path | Mapping[str, Any],
    lm_head: bool,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str | Mapping[str, str] = "sdpa",
    seed: int = 0,
    download: bool = False,
) -> PreTrainedModel:
    """A model with its language-model head or without, in evaluation mode.

    Args:
        path_or_config: A folder with a checkpoint; or a configuration, as a mapping or as a JSON file, for random
            weights; or, with ``download``, a name on the Hugging Face Hub.
        lm_head: Keep the head. Without it, its weights are not held in memory.
        dtype: Floating-point type of the weights.
        attn_implementation: A name that transformers knows.
        seed: Seed of random weights; the same with and without the head.
        download: Allow ``path_or_config`` to be fetched from the Hub. Code is never fetched.

    Raises:
        UserError: There is no configuration or no weights, transformers does not know the architecture, it has no such
            attention function, or with ``lm_head`` its logits are not its head's output.
    """
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation}
    if isinstance(path_or_config, Mapping) or Path(path_or_config).is_file():
        config = _config_of(path_or_config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _made(model_class(config, lm_head=True)._from_config, config, **options)
        return _checked(model).eval() if lm_head else base_of(model).eval()
    config = read_config(path_or_config, download)
    kind = model_class(config, lm_head)
    where = {"local_files_only": not download, "trust_remote_code": False}
    try:
        make = partial(kind.from_pretrained, path_or_config, output_loading_info=True)
        model, found = _made(make, config=config, **where, **options)
    except OSError as error:
        raise UserError(
            f"backbone path = {path_or_config}: there are no weights ({_first_line(error)}); give a folder with "
            "model.safetensors or its shards, or a config.json file for random weights"
        ) from error
    missing = sorted([*found["missing_keys"], *(str(key[0]) for key in found["mismatched_keys"])])
    if missing:
        raise UserError(
            f"backbone path = {path_or_config}: the checkpoint lacks {len(missing)} weights of {kind.__name__}, the "
            f"first is {missing[0]}; give the complete checkpoint of this model"
        )
    return (_checked(model) if lm_head else model).eval()


def _made(make: Callable[..., Any], *args: Any, attn_implementation: Any, **options: Any) -> Any:
    """The model that ``make`` gives, or a UserError where it has no such attention function."""
    try:
        return make(*args, attn_implementation=attn_implementation, **options)
    except (ValueError, ImportError) as error:
        remedy = "choose eager, which every model has"
        raise UserError(
            f"backbone attn_implementation = {attn_implementation}: {_first_line(error)}; {remedy}"
        ) from error


def _checked(model: PreTrainedModel) -> PreTrainedModel:
    """A model whose logits are what its head makes of the last hidden state, and nothing more.

    Its own forward pass runs on two tokens with the decoder's part given, so that only the head is computed.

    Raises:
        UserError: The model scales or caps its logits: what is trained on the head's output would be another model.
    """
    head, base = model.get_output_embeddings(), base_of(model)
    ids = torch.zeros(1, 2, dtype=torch.long, device=head.weight.device)
    with torch.random.fork_rng(devices=[]):
        hidden = torch.randn(1, 2, head.weight.shape[1]).to(head.weight)
    own, base.forward = base.forward, lambda *_, **__: _Given(last_hidden_state=hidden)
    try:
        with torch.no_grad():
            same = torch.allclose(model(input_ids=ids, use_cache=False).logits.float(), head(hidden).float())
    finally:
        base.forward = own
    if not same:
        raise UserError(
            f"backbone of class {type(model).__name__}: its logits are not its head's output (scaled or capped), which "
            "next-token training and the local judge rely on; choose another model, or train a reward model on it"
        )
    return model


class _Given(BaseModelOutputWithPast):
    """Outputs of a decoder; what families add to them is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def read_config(
    path: str | Path,
    download: bool = False,
    option: str = "backbone path",
    remedy: str = "give the folder of a checkpoint, or set download to true to fetch it from the Hugging Face Hub",
) -> PreTrainedConfig:
    """The configuration in a folder, or on the Hub.

    Args:
        path: The folder, or with ``download`` a name on the Hub.
        download: Allow it to be fetched.
        option: What messages name.
        remedy: What the message of a missing configuration advises.

    Raises:
        UserError: There is none, or transformers does not know the architecture.
    """
    if not download and not (Path(path) / "config.json").is_file():
        raise UserError(f"{option} = {path}: no config.json there; {remedy}")
    try:
        return AutoConfig.from_pretrained(path, local_files_only=not download, trust_remote_code=False)
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{option} = {path}: transformers does not know this architecture ({_first_line(error)}); code beside "
            "a checkpoint is never run: choose a model that transformers has itself"
        ) from error
    except OSError as error:
        raise UserError(f"{option} = {path}: no configuration can be read ({_first_line(error)})") from error


def _config_of(source: str | Path | Mapping[str, Any]) -> PreTrainedConfig:
    """A configuration from a mapping or from a JSON file."""
    if not isinstance(source, Mapping):
        try:
            source = cast(dict[str, Any], json.loads(Path(source).read_text()))
        except ValueError as error:
            raise UserError(f"backbone config = {source}: it is no JSON ({error}); give a config.json") from error
    values = dict(source)
    kind = values.pop("model_type", None)
    try:
        return AutoConfig.for_model(kind, **values)
    except ValueError as error:
        raise UserError(
            f"backbone config model_type = {kind!r}: transformers does not know it; give the model_type of a model "
            "that transformers has itself, e.g. qwen2_5_vl"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
