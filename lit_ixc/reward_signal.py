"""The reward signal: from what reward functions say of answers to the rewards of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_ixc.advantages import AllReduce, clip_steps, delta_steps, kl_estimate, shaped_rewards
from lit_ixc.batch import ChatProcessor
from lit_ixc.controllers import FixedKL, KLController, RunningMoments
from lit_ixc.critic import Critic
from lit_ixc.lockstep import is_sharded
from lit_ixc.records import UserError
from lit_ixc.rewards.interface import Combined, Episode, Judgement, Reward, combine, unjudged
from lit_ixc.rewards.learned import LearnedReward
from lit_ixc.rollout import Rollout

KLEstimator = Literal["k1", "k2", "k3"]
KLPlace = Literal["reward", "loss"]
StepShaping = Literal["none", "clip", "delta", "clip_delta"]
Unjudged = Literal["error", "drop"]
Empty = Literal["lowest", "drop"]

#: Reason of an answer without text.
EMPTY = "empty_answer"


class RewardSignal(nn.Module):
    """Weighted rewards, brought to unit scale, at the end of each answer, less the divergence from the reference.

    Its state (running moments, KL coefficient) is part of a checkpoint.

    Args:
        rewards: Reward functions by name; each has its weight.
        kl: Coefficient of the divergence from the reference: fixed, or adapted to a target. ``FixedKL(0.05)`` if None.
        kl_estimator: Estimate of the divergence at a token (k1, k2, k3 of Schulman's note).
        kl_in: ``reward`` takes it off each token's reward, ``loss`` adds it to the policy's loss.
        standardise: Bring rewards to mean 0 and deviation 1 by the moments of all rewards of answers so far; rewards of
            steps are divided by the same deviation.
        clip: Bound of the absolute reward after that, of steps too; None: no bound.
        step_shaping: What is made of rewards of steps, so that length collects none (arXiv 2410.15115): ``clip`` counts
            what falls short of ``step_threshold``, ``delta`` takes the differences of successive steps, ``clip_delta``
            does both.
        step_threshold: See there.
        unjudged: What becomes of an answer that a reward function cannot judge (no truth, too long, not finite): stop
            the run, or leave the answer out and count it.
        empty: What becomes of an answer without text: the lowest reward of its rollout (in its process), or it is left
            out.
    """

    def __init__(
        self,
        rewards: dict[str, Reward],
        kl: KLController | None = None,
        kl_estimator: KLEstimator = "k1",
        kl_in: KLPlace = "reward",
        standardise: bool = True,
        clip: float | None = 10.0,
        step_shaping: StepShaping = "none",
        step_threshold: float = 0.0,
        unjudged: Unjudged = "error",
        empty: Empty = "lowest",
    ) -> None:
        super().__init__()
        if not rewards:
            raise UserError("rewards = {}: give at least one reward function")
        if not any(reward.weight for reward in rewards.values()):
            raise UserError("rewards: all weights are 0, so that every answer would score 0; give one a weight")
        for name, value, options in (
            ("kl_estimator", kl_estimator, KLEstimator),
            ("kl_in", kl_in, KLPlace),
            ("step_shaping", step_shaping, StepShaping),
            ("unjudged", unjudged, Unjudged),
            ("empty", empty, Empty),
        ):
            if value not in get_args(options):
                raise UserError(f"{name} = {value}: use one of {', '.join(get_args(options))}")
        if step_threshold and step_shaping not in ("clip", "clip_delta"):
            raise UserError(f"step_threshold = {step_threshold}: step_shaping = {step_shaping} does not read it; set 0")
        if kl_in == "loss" and kl_estimator == "k1":
            raise UserError("kl_estimator = k1: its gradient in a loss is zero on average; use k2 or k3")
        if clip is not None and clip <= 0:
            raise UserError(f"clip = {clip}: choose a positive bound, or null for none")
        self.rewards = rewards
        self.kl = kl or FixedKL()
        self.kl_estimator, self.kl_in = kl_estimator, kl_in
        self.standardise, self.clip = standardise, clip
        self.step_shaping, self.step_threshold = step_shaping, step_threshold
        self.unjudged, self.empty = unjudged, empty
        self.moments = RunningMoments()

    def prepare(
        self, device: torch.device, processor: ChatProcessor, policy: PreTrainedModel, critic: Critic | None
    ) -> None:
        """Load what the reward functions need, on the device of policy and critic.

        Raises:
            UserError: A reward function cannot be loaded, or asks for a critic that is not there.
        """
        for name, reward in self.rewards.items():
            if isinstance(reward, LearnedReward) and reward.share_with_critic:
                if critic is None:
                    raise UserError(
                        f"rewards.{name}: share_with_critic = True, but there is no critic; set it to false"
                    )
                if is_sharded(critic.model):
                    raise UserError(
                        f"rewards.{name}.share_with_critic = True: the critic is sharded, and processes would "
                        "score in different numbers of passes; set it to false, or use DDP"
                    )
                reward.adopt(critic.model, critic.path)
            reward.prepare(device, processor)
            reward.adopt_vision(policy)

    def judge(self, episodes: Sequence[Episode]) -> Combined:
        """Rewards of answers, weighted and summed; those without text are shown to no reward function.

        Raises:
            UserError: A reward function cannot judge an answer, and ``unjudged`` is ``error``.
        """
        written = [episode for episode in episodes if episode.text]
        if written:
            judged = combine({name: reward(written) for name, reward in self.rewards.items()}, self._weights)
        else:
            judged = Combined([], {name: [] for name in self.rewards}, {name: [] for name in self.rewards})
        for episode, total in zip(written, judged.totals, strict=True):
            if total.reason and self.unjudged == "error":
                raise UserError(
                    f"rewards: an answer to {episode.record.id!r} of {episode.record.source} cannot be judged "
                    f"({total.reason}): {episode.text[:80]!r}; set unjudged to drop to leave such answers out"
                )
        return self._with_empty(judged, [bool(episode.text) for episode in episodes])

    @property
    def _weights(self) -> dict[str, float]:
        return {name: reward.weight for name, reward in self.rewards.items()}

    def _with_empty(self, judged: Combined, written: Sequence[bool]) -> Combined:
        """The judgements of answers with text, and those of empty ones in their places."""
        shaped = self._shaped(judged.totals)
        rewards = (one.score + sum(step.value for step in one.steps) for one in shaped if not one.reason)
        lowest = min(rewards, default=math.nan)
        nothing = Judgement(lowest) if self.empty == "lowest" and math.isfinite(lowest) else unjudged(EMPTY)

        def filled(values: Sequence[Any], empty: Any) -> list[Any]:
            own = iter(values)
            return [next(own) if there else empty for there in written]

        return Combined(
            filled(shaped, nothing),
            {name: filled(scores, math.nan) for name, scores in judged.scores.items()},
            {name: filled(reasons, EMPTY) for name, reasons in judged.reasons.items()},
        )

    def _shaped(self, totals: Sequence[Judgement]) -> list[Judgement]:
        """Judgements with the rewards of their steps behind clip or delta."""
        width = max((len(total.steps) for total in totals), default=0)
        if self.step_shaping == "none" or not width:
            return list(totals)
        values = torch.tensor([[s.value for s in total.steps] + [0.0] * (width - len(total.steps)) for total in totals])
        mask = torch.arange(width) < torch.tensor([[len(total.steps)] for total in totals])
        if self.step_shaping in ("clip", "clip_delta"):
            values = clip_steps(values, self.step_threshold, mask)
        if self.step_shaping in ("delta", "clip_delta"):
            values = delta_steps(values, mask)
        return [
            total._replace(steps=tuple(s._replace(value=v) for s, v in zip(total.steps, row, strict=False)))
            for total, row in zip(totals, values.tolist(), strict=True)
        ]

    def token_rewards(self, rollout: Rollout, all_reduce: AllReduce = None) -> tuple[Tensor, Tensor]:
        """Rewards (R, L) of the tokens, and the scores (R,) in them; learns the moments of the rewards first.

        Args:
            rollout: The answers.
            all_reduce: Sum over the processes, where there are several.
        """
        scores, steps = rollout.scores, rollout.steps
        if self.standardise:
            self.moments.update(scores[rollout.kept], all_reduce)
            scores, steps = self.moments.standardise(scores), steps / self.moments.std.to(steps)
        if self.clip is not None:
            scores, steps = scores.clamp(-self.clip, self.clip), steps.clamp(-self.clip, self.clip)
        coefficient = self.kl.coefficient if self.kl_in == "reward" else 0.0
        kl = torch.zeros_like(rollout.logprobs)
        if rollout.reference is not None:
            kl = kl_estimate(rollout.logprobs, rollout.reference, self.kl_estimator)
        return shaped_rewards(scores, kl, coefficient, rollout.mask, steps), scores

    def kl_loss(self, logprobs: Tensor, reference: Tensor) -> Tensor:
        """Loss (r, L) of each token for its divergence from the reference."""
        return self.kl.coefficient * kl_estimate(logprobs, reference, self.kl_estimator)
