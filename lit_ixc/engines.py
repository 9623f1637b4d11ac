"""Who samples the answers of a rollout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from transformers import PreTrainedModel

from lit_ixc.backbone import family_of
from lit_ixc.batch import ChatProcessor, EncodedPrompt
from lit_ixc.decoding import Decoding
from lit_ixc.generation import Drawn, draw
from lit_ixc.kv_cache import empty_cache
from lit_ixc.lockstep import Lockstep, is_sharded
from lit_ixc.records import UserError


class RolloutEngine(ABC):
    """Samples answers from the weights that a policy has at this moment.

    Another engine, vLLM for a native model for instance, is a subclass named by its class path. Its ``generate`` must

    - hand the weights over: the policy has been updated since the last call. ``model.state_dict()`` has the names under
      which ``save_pretrained`` writes them; adapters (names with ``lora_``) must be added to the weights that they
      adapt, and sharded ones (``DTensor``) be collected with ``full_tensor()``, on all ranks;
    - give each prompt as ``prompt.sequence.ids``, not as text that is tokenised again, with the pictures of
      ``prompt.record.prompt`` where the engine has an image processor of its own (and then check that it puts as many
      tokens in their place);
    - end an answer at each of ``processor.stop_ids``, and never draw an id of ``processor.unwritable(V)``;
    - return every token of an answer, its end included, and for each its log-probability under
      softmax(logits / temperature) over *all* tokens: not over those that top-p, top-k or a list of forbidden ids has
      left (vLLM: ``logprobs_mode="processed_logprobs"`` gives the latter, ``"raw_logprobs"`` that of temperature 1);
    - draw the same answers for the same weights, prompts, names and seed, and others for another seed, or say in its
      docstring that it cannot.
    """

    @abstractmethod
    def generate(
        self,
        model: PreTrainedModel,
        processor: ChatProcessor,
        prompts: Sequence[EncodedPrompt],
        names: Sequence[str],
        n: int,
        decoding: Decoding,
        seed: int,
    ) -> list[list[Drawn]]:
        """n answers to each prompt, in the order of the prompts.

        Args:
            model: The policy, with its language-model head.
            processor: Its processor.
            prompts: P of them, on any device.
            names: P names, for the seed; equal names have equal draws.
            n: Answers of each prompt.
            decoding: How they are sampled.
            seed: Any whole number; another one for each rollout.

        Raises:
            UserError: The engine cannot sample from this policy.
            RecordError: A prompt is too long for it.
        """


class TransformersEngine(RolloutEngine):
    """The policy itself, in this process.

    Args:
        rows: Answers that are sampled at a time, at least those of one prompt; null for all. Prompts of about one
            length are answered together.
        synced: Have all ranks run the same number of forward passes. Null: where the weights are sharded (FSDP2).

    Raises:
        UserError: ``rows`` is out of its range.
    """

    def __init__(self, rows: int | None = None, synced: bool | None = None) -> None:
        if rows is not None and rows < 1:
            raise UserError(f"engine rows = {rows}: give at least 1, or null for no limit")
        self.rows, self.synced = rows, synced

    def generate(
        self,
        model: PreTrainedModel,
        processor: ChatProcessor,
        prompts: Sequence[EncodedPrompt],
        names: Sequence[str],
        n: int,
        decoding: Decoding,
        seed: int,
    ) -> list[list[Drawn]]:
        """See ``RolloutEngine``. What is drawn does not depend on ``rows``, but for rounding."""
        if self.rows is not None and self.rows < n:
            raise UserError(f"engine rows = {self.rows}: fewer than the {n} answers of one prompt; raise it")
        synced = is_sharded(model) if self.synced is None else self.synced
        lockstep = Lockstep(model.device) if synced else None
        together = len(prompts) if self.rows is None else self.rows // n
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].sequence.ids))
        found: dict[int, list[Drawn]] = {}
        for start in range(0, len(order), max(together, 1)):
            some = order[start : start + together]
            part, its = [prompts[index] for index in some], [names[index] for index in some]
            answers = draw(model, processor, part, its, n, decoding, seed, lockstep)
            found.update(zip(some, answers, strict=True))
        if lockstep is not None:
            lockstep.finish(lambda: _idle(model))
        return [found[index] for index in range(len(prompts))]


@torch.no_grad()
def _idle(model: PreTrainedModel) -> None:
    """A forward pass of one token, for the sake of other ranks."""
    family = family_of(model)
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    cache = empty_cache(cast(PreTrainedModel, family.parts(model).decoder).config)
    model.get_output_embeddings()(family.step(model, token, token, None, cache)[:, -1])
