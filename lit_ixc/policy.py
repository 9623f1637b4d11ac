"""A chat policy that answers prompts and is judged: rollouts, and the metrics on held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor

from lit_ixc.answered import Answered, answer_logprobs, with_features
from lit_ixc.backbone import BackboneSource, family_of
from lit_ixc.batch import ChatProcessor, EncodedPrompt, PromptBatch
from lit_ixc.critic import Critic, differences
from lit_ixc.decoding import Decoding, check_decoding
from lit_ixc.engines import RolloutEngine, TransformersEngine
from lit_ixc.generation import Drawn
from lit_ixc.modes import float32_by_default, without_dropout
from lit_ixc.module import BackboneModule
from lit_ixc.policy_metrics import PolicyMetric, policy_table
from lit_ixc.records import UserError
from lit_ixc.reference import Reference, ReferenceMode
from lit_ixc.reward_signal import RewardSignal
from lit_ixc.rollout import Players, Rollout, collect
from lit_ixc.sharding import gathered

_HELD_OUT_SEED = -1  # every validation draws with the same random numbers


class PromptOwner(Protocol):
    """What policies need of a data module.

    Args:
        batch_size: Most prompts of a batch in one process.
        max_length: Most tokens of a prompt in training.
        test_max_length: The same in validation and testing.
        processor: Encodes the prompts.
    """

    batch_size: int
    max_length: int
    test_max_length: int
    processor: ChatProcessor


class PolicyModule(BackboneModule):
    """A policy with its reference and the rewards of its answers.

    Args:
        backbone: Where the policy's weights come from: the SFT model. The reference is the same.
        processor: The policy's processor.
        signal: Rewards, and what is made of them.
        reference: ``copy`` keeps a second, frozen model; ``adapters_off`` is the policy without its adapters; ``auto``
            is that where adapters alone train, else a copy; ``none``: no divergence is measured.
        engine: What samples the answers; in this process, by transformers, if None.
        samples: Answers of each prompt.
        temperature: Divides the logits, in sampling and in log-probabilities.
        top_p: Tokens are drawn from the smallest set whose probability reaches this; 1: from all.
        top_k: Tokens are drawn from so many most probable ones; 0: from all.
        max_new_tokens: Most tokens of an answer, its end included.
        microbatch_prompts: Prompts of a forward pass. It changes speed and memory alone.
        recompute_logprobs: Compute the log-probabilities of the answers anew, as updates do. False takes those of
            sampling and saves a forward pass; the two agree to rounding, which is more in half precision.
        seed: Seed of the sampled answers.
        kwargs: As in ``BackboneModule``.
    """

    needs_lm_head = True
    shown: Rollout | None = None  # the first answers of the last validation, for whoever watches

    def __init__(
        self,
        backbone: BackboneSource,
        processor: ChatProcessor,
        signal: RewardSignal,
        reference: ReferenceMode | Literal["none"] = "auto",
        engine: RolloutEngine | None = None,
        samples: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 512,
        microbatch_prompts: int = 8,
        recompute_logprobs: bool = True,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.processor, self.signal, self.engine = processor, signal, engine or TransformersEngine()
        self.reference = None if reference == "none" else Reference(backbone, reference, self.lora is not None)
        self.recompute_logprobs = recompute_logprobs
        self.samples, self.microbatch_prompts, self.seed = samples, microbatch_prompts, seed
        self.decoding = Decoding(temperature, top_p, top_k, max_new_tokens)
        check_decoding(self.decoding, samples)
        for name, value in (("samples", samples), ("microbatch_prompts", microbatch_prompts)):
            if value < 1:
                raise UserError(f"{name} = {value}: give at least 1")
        if reference == "none" and float(signal.kl.coefficient) > 0:
            raise UserError("reference = none: no divergence can be measured; set the coefficient of signal.kl to 0")
        self.critic: Critic | None = None
        self.metric = PolicyMetric(signal.rewards)
        self._ready = False

    def build(self) -> None:
        super().build()
        without_dropout(self.model)

    def on_fit_start(self) -> None:
        self.prepare()

    def on_validation_start(self) -> None:
        self.prepare()

    def on_test_start(self) -> None:
        self.prepare()

    def prepare(self) -> None:
        """Load the reward functions, once, where the models are."""
        if not self._ready:
            self._check_data()
            self.signal.prepare(self.device, self.processor, self.model, self.critic)
            self._ready = True

    def _check_data(self) -> None:
        """Make sure that the data's prompts are the policy's, and that the longest fits with its answer."""
        data = cast(PromptOwner | None, self.trainer.datamodule)  # type: ignore[attr-defined]
        if data is None:
            raise UserError("datamodule = None: a policy needs one, e.g. datamodules.prompts.PromptDataModule")
        for what in differences(data.processor, self.processor):
            raise UserError(f"data.processor: its {what} is not that of model.processor; give both the same")
        prompt, answer = max(data.max_length, data.test_max_length), self.decoding.max_new_tokens
        models = {"policy": self.model} | ({} if self.critic is None else {"critic": self.critic.model})
        for name, model in models.items():
            family = family_of(model)  # beyond the longest tree a token's probability hangs on the whole length
            limits = [limit for limit in (family.window(model), family.longest_tree(model)) if limit is not None]
            if limits and prompt + answer > min(limits):
                raise UserError(
                    f"max_new_tokens = {answer}: with data.max_length or test_max_length = {prompt} more than the "
                    f"{min(limits)} positions of the {name}; lower one of them"
                )

    @torch.no_grad()
    def answer(self, prompts: Sequence[EncodedPrompt], seed: int) -> Rollout:
        """The policy's answers to prompts, with log-probabilities, values and rewards."""
        names = [f"{self.global_rank}/{index}/{prompt.record.id}" for index, prompt in enumerate(prompts)]

        def sample(prompts: Sequence[EncodedPrompt]) -> list[list[Drawn]]:
            return self.engine.generate(self.model, self.processor, prompts, names, self.samples, self.decoding, seed)

        players = Players(
            sample=sample,
            decode=self.processor.decode,
            policy=self._policy_logprobs if self.recompute_logprobs else None,
            reference=None if self.reference is None else self._reference_logprobs,
            critic=self.critic,
            judge=self.signal.judge,
        )
        with gathered(self):  # sharded weights are whole for as many passes as each process needs
            other = self.critic.model if self.critic is not None and self.critic.own_vision else None
            known = with_features(prompts, self.model, other, self.device)
            return collect(known, players, self.microbatch_prompts, self.processor.pad_token_id, self.device)

    def _policy_logprobs(self, answered: Answered) -> Tensor:
        return answer_logprobs(self.model, answered, self.decoding.temperature, self.attention)[0]

    def _reference_logprobs(self, answered: Answered) -> Tensor:
        with cast(Reference, self.reference).model(self.model) as model:
            return answer_logprobs(model, answered, self.decoding.temperature, self.attention)[0]

    @float32_by_default()
    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Answer held-out prompts as in training."""
        rollout = self.answer(batch.prompts, _HELD_OUT_SEED)
        self.metric.update(rollout)
        if batch_idx == 0:
            self.shown = rollout.without_media()

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self._log_metric("val")

    def on_test_epoch_end(self) -> None:
        values = self._log_metric("test")
        if self.trainer.is_global_zero:
            print(policy_table(values))

    def _log_metric(self, stage: str) -> dict[str, dict[str, Tensor]]:
        found = self.metric.compute()
        flat = {f"{stage}/{name}/{group}": mean for name, means in found.items() for group, mean in means.items()}
        self.log_dict(flat, rank_zero_only=True)
        return found

    def export(self, folder: Path) -> None:
        """The policy with its language-model head; a critic in ``critic``, in a reward model's form."""
        super().export(folder)
        if self.critic is not None:
            self.critic.export(folder / "critic")
