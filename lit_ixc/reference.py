"""The reference: the policy as it was before its first step, with no more in memory than that takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from lit_ixc.adapters import adapters_off
from lit_ixc.backbone import BackboneSource
from lit_ixc.batch import ComparisonBatch
from lit_ixc.modes import evaluating
from lit_ixc.records import UserError

ReferenceMode = Literal["auto", "copy", "adapters_off"]
DIGEST_BYTES = 16
TABLE_FILE = "reference_logprobs.safetensors"


class Reference:
    """The policy's start as a model to run.

    It is no ``nn.Module``: a module that holds one neither trains it nor saves it.

    Args:
        source: Where the policy's weights come from.
        mode: ``copy`` keeps a second, frozen model; ``adapters_off`` runs the policy without its adapters, which alone
            train; ``auto`` takes ``adapters_off`` where nothing but adapters trains, else ``copy``.
        adapters: Whether the policy has adapters.

    Raises:
        UserError: ``adapters_off`` for a policy without adapters.
    """

    def __init__(self, source: BackboneSource, mode: ReferenceMode = "auto", adapters: bool = False) -> None:
        if mode == "adapters_off" and not adapters:
            raise UserError("reference = adapters_off: the policy has no adapters; set lora, or use copy")
        self.source, self.mode, self.adapters = source, mode, adapters
        self._copy: PreTrainedModel | None = None
        self._without_copy: bool | None = None

    @contextmanager
    def model(self, policy: nn.Module) -> Iterator[PreTrainedModel]:
        """The model to run, in evaluation mode and without gradients; afterwards the policy is as it was.

        Args:
            policy: The model that trains, on its device.

        Raises:
            UserError: ``adapters_off``, but more of the policy trains than its adapters.
        """
        if self._without_copy is None:
            self._without_copy = self._runs_the_policy(policy)
        if self._without_copy:
            assert isinstance(policy, PreTrainedModel)
            with torch.no_grad(), evaluating(policy), adapters_off(policy):
                yield policy
        else:
            if self._copy is None:
                self._copy = start_of(policy, self.source)
            with torch.no_grad():
                yield self._copy

    def _runs_the_policy(self, policy: nn.Module) -> bool:
        """Whether the policy without its adapters is what it was before the first step."""
        if self.mode == "copy" or not self.adapters:
            return False
        trained = [name for name, p in policy.named_parameters() if p.requires_grad and ".lora_" not in name]
        if trained and self.mode == "adapters_off":
            raise UserError(
                f"reference = adapters_off: {trained[0]} and {len(trained) - 1} other parameters train beside the "
                "adapters; set freeze_vision and freeze_projector to true, or use copy"
            )
        return not trained


def start_of(policy: nn.Module, source: BackboneSource) -> PreTrainedModel:
    """A frozen model with its language-model head, from the policy's source, on its device and in its types.

    The random numbers that dropout draws from go on as if nothing had been made.
    """
    device = next(policy.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model = source.load(lm_head=True)
    own = {name.replace(".base_layer.", "."): tensor for name, tensor in _tensors(policy)}
    for name, tensor in _tensors(model):
        tensor.data = tensor.data.to(device, own[name].dtype)
    return model.requires_grad_(False).eval()


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(model.named_parameters(), model.named_buffers())


class ReferenceTable:
    """Reference log-probabilities of whole responses, computed before the first step and kept on the host.

    A response is known by a digest of its row's source and id, of its tokens and of which of them are supervised, and
    of the key of its media where they have one.

    Args:
        settings: What the numbers came from, by name.
        sums: Log-probability by digest.
    """

    def __init__(self, settings: Mapping[str, str], sums: dict[bytes, float] | None = None) -> None:
        self.settings, self.sums = dict(settings), sums if sums is not None else {}

    def add(self, batch: ComparisonBatch, sums: Tensor) -> None:
        """Keep the sums (C, K) of a batch's responses."""
        for digests, values in zip(response_digests(batch), sums.tolist(), strict=True):
            self.sums.update(zip(digests, values, strict=False))  # beyond the digests are missing responses

    def find(self, batch: ComparisonBatch) -> Tensor:
        """(C, K) fp32 on the host; 0 where a comparison has no k-th response.

        Raises:
            UserError: A row is not in the table.
        """
        found = torch.zeros(batch.ranks.shape, dtype=torch.float32)
        for number, digests in enumerate(response_digests(batch)):
            missing = [k for k, digest in enumerate(digests) if digest not in self.sums]
            if missing:
                raise UserError(
                    f"reference = precomputed: response {missing[0]} of row {batch.ids[number]!r} in "
                    f"{batch.sources[number]} has no reference log-probability: no such row was there "
                    "when they were computed, or its tokens have changed since (data, template, max_length); start "
                    f"anew without {TABLE_FILE}, or use copy"
                )
            found[number, : len(digests)] = torch.tensor([self.sums[digest] for digest in digests], dtype=torch.float32)
        return found

    def save(self, path: Path) -> None:
        """Write the table; a reader sees all of it or none."""
        digests = torch.from_numpy(np.frombuffer(b"".join(self.sums), np.uint8).reshape(-1, DIGEST_BYTES).copy())
        part = path.with_suffix(".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {"digests": digests, "logprobs": torch.tensor(list(self.sums.values()), dtype=torch.float32)},
            part,
            self.settings,
        )
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> ReferenceTable:
        """The table of a file."""
        with safe_open(path, "pt") as file:
            settings, digests, logprobs = file.metadata(), file.get_tensor("digests"), file.get_tensor("logprobs")
        keys = [row.tobytes() for row in digests.numpy()]
        return cls(settings or {}, dict(zip(keys, logprobs.tolist(), strict=True)))


def response_digests(batch: ComparisonBatch) -> list[list[bytes]]:
    """For each comparison, what names each of its responses; the host waits for the batch's device."""
    ids = batch.input_ids.flatten().cpu().numpy().astype("<i4")
    used = (batch.loss & batch.response).flatten().cpu().numpy()
    rows = zip(batch.trees, batch.sources, batch.ids, batch.media, strict=True)
    return [
        [
            blake2b(
                "\0".join([source, name, media.key, ""]).encode() + ids[path].tobytes() + used[path].tobytes(),
                digest_size=DIGEST_BYTES,
            ).digest()
            for path in tree.sequences()
        ]
        for tree, source, name, media in rows
    ]


def weights_digest(model: nn.Module) -> str:
    """A short name of a model's weights, without adapters, from the sum and the norm of each."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    for name, parameter in sorted(model.named_parameters()):
        if ".lora_" in name:
            continue
        values = [parameter.detach().sum(dtype=torch.float64), parameter.detach().norm(dtype=torch.float64)]
        whole = [value.full_tensor() if isinstance(value, DTensor) else value for value in values]
        digest.update(f"{name.replace('.base_layer.', '.')} {whole[0].item():.6e} {whole[1].item():.6e}".encode())
    return digest.hexdigest()
