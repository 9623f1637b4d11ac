"""Weights in shards over the processes: FSDP2 (``torch.distributed.fsdp.fully_shard``), under ModelParallelStrategy.

Each process keeps its part of every tensor. A decoder layer's weights are gathered while the layer runs. The rest of a
model, its root (token embedding, final norm, language-model head, whatever trains of vision tower and projector), is
gathered at its first use and stays whole until the next backward pass is over. A frozen vision tower and projector are
whole on every process all the time.

Gathering waits for all processes, which therefore must do it equally often. They do where each runs the decoder equally
often; images, or the number of parts in which logits are made, may differ.

FSDP2 gathers where a *module* is called. The root of a model is hardly ever called here (the decoder runs over prefix
trees directly), so that the first of the root's own modules that runs has it gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, cast
from weakref import WeakKeyDictionary, WeakSet

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from lit_ixc.backbone import family_of, refusal
from lit_ixc.records import UserError

_GATHER_ROOT = "gather_root"  # the name of a method of sharded models
_POLICY = MixedPrecisionPolicy(reduce_dtype=torch.float32)  # gradients of half precision are summed in full
_RESHARDS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # of each sharded module, after its forward pass
_WHOLE: WeakSet[nn.Module] = WeakSet()  # sharded modules that are kept whole for now


def data_mesh(mesh: DeviceMesh | None) -> DeviceMesh | None:
    """The dimension of a strategy's device mesh that weights are sharded over; None without a mesh.

    Raises:
        UserError: The mesh has tensor parallelism, which Lightning takes by default.
    """
    if mesh is None:
        return None
    if mesh["tensor_parallel"].size() > 1:
        raise UserError(
            f"tensor_parallel_size = {mesh['tensor_parallel'].size()}: layers are not split over processes; set "
            f"strategy.init_args.tensor_parallel_size to 1 and data_parallel_size to {mesh.size()}"
        )
    return mesh["data_parallel"]


def shard_all(module: nn.Module, mesh: DeviceMesh) -> None:
    """Shard all that a module holds: backbones with :func:`shard`, and heads beside them each as a whole.

    One optimizer cannot hold sharded and plain tensors: every trainable parameter has to be sharded.

    Args:
        module: E.g. a LightningModule or a critic; its own class is left as it is.
        mesh: Of one dimension.
    """
    for child in module.children():
        if isinstance(child, FSDPModule):  # shared with a module that was here before
            continue
        if isinstance(child, PreTrainedModel):
            shard(child, mesh)
        elif any(isinstance(part, PreTrainedModel) for part in child.modules()):
            shard_all(child, mesh)
        elif any(True for _ in child.parameters()):
            shard_head(child, mesh)


def shard_head(head: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a small module as a whole, to be called as it is or by its ``project``."""
    _share(head, mesh)
    fully_shard(head, mesh=mesh, reshard_after_forward=True, mp_policy=_POLICY)
    _RESHARDS[head] = True
    head.register_forward_pre_hook(_unshard, prepend=True)
    inside = getattr(head, "project", None)
    if inside is not None:
        setattr(head, "project", lambda pooled: inside(pooled).clone())  # noqa: B010 - no view: see FSDP2's warning
        register_fsdp_forward_method(head, "project")
        alone = cast(Callable[[Tensor], Tensor], head.project)

        def project(pooled: Tensor) -> Tensor:
            if not any(isinstance(parameter, DTensor) for parameter in head.parameters()):
                return inside(pooled)  # within the head's forward pass
            _unshard(head)
            return alone(pooled)

        setattr(head, "project", project)  # noqa: B010 - a method, for this one head


def shard(model: PreTrainedModel, mesh: DeviceMesh, reshard_after_forward: bool = True) -> None:
    """Shard a backbone in place, with its language-model head or without: a policy, a critic, a frozen reference.

    All processes start from the weights of the first. Freeze, add adapters and switch checkpointing on before.

    Args:
        model: The backbone; its parameters are moved to the mesh's device.
        mesh: Of one dimension.
        reshard_after_forward: Free a layer's whole weights behind its forward pass and gather them again for its
            backward pass; else they stay until that, which takes more memory and less time.

    Raises:
        UserError: The decoder has no list of layers.
    """
    parts, embedding = family_of(model).parts(model), model.get_input_embeddings()
    layers = getattr(parts.decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UserError(f"ModelParallelStrategy: the decoder of {type(model).__name__} has no list of layers; use ddp")
    encoders = (*parts.vision, *parts.projector)
    inside = {id(parameter) for parameter in layers.parameters()}
    training = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    encoding = [name for name, parameter in training if any(parameter is one for one in encoders)]
    if training and not encoding and all(id(parameter) not in inside for _, parameter in training):
        raise UserError(
            f"ModelParallelStrategy: {training[0][0]} trains, but no layer before it, whose backward pass starts the "
            "exchange of gradients; use ddp, or set freeze_language to false"
        )
    refusal(model)  # is found out on a copy, which sharded modules do not have
    _share(model, mesh)
    frozen = {parameter for parameter in encoders if not parameter.requires_grad}
    of_layers = {id(part) for part in layers.modules()}
    of_root = [
        part
        for part in model.modules()
        if id(part) not in of_layers
        and part is not model
        # an encoder of which some trains may read a parameter of the model itself, beside its modules
        and any(encoding or parameter not in frozen for parameter in part.parameters(recurse=False))
    ]
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=reshard_after_forward, mp_policy=_POLICY)
        _RESHARDS[layer] = reshard_after_forward
        layer.register_forward_pre_hook(_unshard, prepend=True)
    for layer, following in pairwise(layers):  # else gathering would wait for the layer before
        cast(FSDPModule, layer).set_modules_to_forward_prefetch([cast(FSDPModule, following)])
    fully_shard(model, mesh=mesh, reshard_after_forward=False, mp_policy=_POLICY, ignored_params=frozen)
    _RESHARDS[model] = False
    setattr(model, _GATHER_ROOT, lambda: None)
    register_fsdp_forward_method(model, _GATHER_ROOT)
    for part in of_root:
        part.register_forward_pre_hook(partial(_gather_root, model, embedding))
    if encoding:
        embedding.register_forward_hook(partial(_tie, model, encoding))


def _share(module: nn.Module, mesh: DeviceMesh) -> None:
    """Move a module to the mesh's device, tensor by tensor, with the weights of the first process."""
    device = torch.device("cuda", torch.cuda.current_device()) if mesh.device_type == "cuda" else torch.device("cpu")
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.to(device).contiguous()
        torch.distributed.broadcast(tensor.data, group=mesh.get_group(), group_src=0)


def _unshard(part: nn.Module, *_: Any) -> None:
    """Gather a part before it does so in inference mode: no backward pass could ever use its whole weights then."""
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False):
            cast(FSDPModule, part).unshard()


def _gather_root(model: PreTrainedModel, embedding: nn.Module, *_: Any) -> None:
    """Make the root's own weights whole; nothing where they are. They stay so until the next backward pass."""
    if isinstance(embedding.weight, DTensor):
        with torch.inference_mode(False):  # or the backward pass could not use them
            getattr(model, _GATHER_ROOT)()


def _tie(model: PreTrainedModel, names: Sequence[str], embedding: nn.Module, _: Any, output: Tensor) -> Tensor:
    """Give encoders that train a zero gradient where there are no images: all processes reduce the same gradients."""
    if not (model.training and torch.is_grad_enabled()):
        return output
    return output + 0.0 * torch.stack([model.get_parameter(name).sum() for name in names]).sum().to(output.dtype)


def sharded_parts(module: nn.Module) -> list[FSDPModule]:
    """The sharded modules in a module, outer ones first."""
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def reshard(module: nn.Module) -> None:
    """Free whole weights that a forward pass has left: before the shards change, or they would be used on."""
    for part in sharded_parts(module):
        if cast(nn.Module, part) not in _WHOLE:
            part.reshard()


def gather(module: nn.Module) -> list[FSDPModule]:
    """Keep all weights in a module whole on every process until :func:`scatter`; all processes call it.

    Forward passes in between wait for no other process: a process may have more of them than another, or longer ones.
    Do not train in between.

    Returns:
        The sharded modules that were not whole before, for :func:`scatter`.
    """
    parts = [part for part in sharded_parts(module) if cast(nn.Module, part) not in _WHOLE]
    with torch.inference_mode(False):
        for part in parts:
            if isinstance(part, PreTrainedModel):  # outer modules take the lead over inner ones at their first pass
                getattr(part, _GATHER_ROOT)()
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
    _WHOLE.update(cast(list[nn.Module], parts))
    return parts


def scatter(parts: Sequence[FSDPModule]) -> None:
    """Undo :func:`gather`."""
    for part in parts:
        _WHOLE.discard(cast(nn.Module, part))
        part.set_reshard_after_forward(_RESHARDS[cast(nn.Module, part)], recurse=False)
        part.reshard()


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Whole weights inside, e.g. to sample answers: see :func:`gather`. May be nested; nothing without shards."""
    parts = gather(module)
    try:
        yield
    finally:
        scatter(parts)


def full_state(module: nn.Module) -> dict[str, Tensor]:
    """The whole state dict on the host, on the first process; empty on the others. All processes call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, Tensor], get_model_state_dict(module, options=options))


class WholeForEvaluation(L.Callback):
    """Keeps sharded weights whole while validation, test or prediction runs: processes may have unequal batches."""

    def __init__(self) -> None:
        self._parts: list[FSDPModule] = []

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._parts = gather(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        scatter(self._parts)

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end
