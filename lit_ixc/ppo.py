"""PPO of a chat policy with a critic that starts from the reward model (IXC-2.5-Chat, arXiv 2501.12368, section 3.2),
and its critic-free relatives on the same rollouts.

One batch of the data is one rollout: the policy answers its prompts, the answers are judged, and several epochs of
updates follow. Optimisation is manual: ``global_step`` counts optimizer steps (policy and critic step together),
``max_steps`` is looked at between rollouts, and a checkpoint is always one between two rollouts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lit_ixc.advantages import GAE, AdvantageEstimator, whiten
from lit_ixc.answered import Answered, answer_logprobs, lay_out
from lit_ixc.backbone import BackboneSource
from lit_ixc.batch import ChatProcessor, ComparisonBatch, PromptBatch
from lit_ixc.controllers import RunningMoments
from lit_ixc.critic import CriticFrom
from lit_ixc.losses import sft_loss
from lit_ixc.modes import float32_by_default
from lit_ixc.optim import adamw_with_schedule, decay_groups
from lit_ixc.policy import PolicyModule
from lit_ixc.policy_losses import LossMean, PolicyLoss, PPOClip, token_weights, value_loss
from lit_ixc.policy_metrics import RolloutLog
from lit_ixc.ppo_checks import check_demonstrations, check_options, check_progress, check_trainer, planned_steps
from lit_ixc.processes import counted, equal_share, mean_of_each, summed, unsynced
from lit_ixc.reward_signal import RewardSignal
from lit_ixc.rewards.vision import same_vision
from lit_ixc.rollout import Portion, Rollout, portions
from lit_ixc.sft import predict_targets
from lit_ixc.sharding import reshard

_SHOWN: tuple[str, ...] = ("train/reward/raw", "train/kl/reference")  # in the progress bar


class Estimates(NamedTuple):
    """What updates are told of a rollout, (R, L) each.

    Args:
        rewards: Rewards of the tokens: the score at the end, less the divergence from the reference.
        advantages: Advantages, whitened where the estimator's are.
        returns: What the critic should have said; None without a critic.
    """

    rewards: Tensor
    advantages: Tensor
    returns: Tensor | None


class PPOModule(PolicyModule):
    """Proximal policy optimisation (arXiv 1707.06347) of a vision-language policy on a reward.

    The ratio is taken against the policy that sampled. Other methods are other arguments: ``advantage`` RLOO, GRPO or
    ReinforcePlusPlus need no critic; BestOfN with the loss ``Reinforce`` distils the best of each prompt's answers.

    Args:
        backbone: Where the policy's weights come from: the SFT model. The reference is the same.
        processor: The policy's processor.
        signal: Rewards, and what is made of them.
        critic: Where the critic comes from; None for advantages that need none.
        advantage: GAE(gamma 0.99, lambda 0.95) if None.
        policy_loss: PPOClip(0.2) if None.
        epochs: Passes of updates over a rollout.
        minibatch_prompts: Prompts of an optimizer step in one process; None: all of the rollout.
        loss_mean: Over all tokens (``token``), over answers of each one's mean (``sequence``), or the sum of tokens by
            a fixed length (``fixed``: ``max_new_tokens``; arXiv 2503.20783).
        value_clip: Bound of the change of a value in an update; None: no bound.
        entropy_bonus: Weight of the policy's entropy.
        target_kl: End a rollout's updates when the policy has moved so far from the one that sampled (mean k3 estimate
            of a token, nats); None: never.
        critic_warmup: Rollouts at the start in which only the critic learns.
        sft_weight: Weight of the supervised loss on the batch's demonstrations (PPO-ptx, arXiv 2203.02155).
        max_grad_norm: The gradient of the policy, and that of the critic, is cut to this norm; None: not.
        lr: Peak learning rate of the policy.
        kwargs: As in ``PolicyModule``.
    """

    last: tuple[Rollout, Estimates] | None = None  # of the last training step, for whoever watches

    def __init__(
        self,
        backbone: BackboneSource,
        processor: ChatProcessor,
        signal: RewardSignal,
        critic: CriticFrom | None = None,
        advantage: AdvantageEstimator | None = None,
        policy_loss: PolicyLoss | None = None,
        epochs: int = 1,
        minibatch_prompts: int | None = None,
        loss_mean: LossMean = "token",
        value_clip: float | None = 0.2,
        entropy_bonus: float = 0.0,
        target_kl: float | None = None,
        critic_warmup: int = 0,
        sft_weight: float = 0.0,
        max_grad_norm: float | None = 1.0,
        lr: float = 5e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, processor, signal, lr=lr, **kwargs)
        self.automatic_optimization = False
        self.critic_source = critic
        self.advantage, self.policy_loss = advantage or GAE(), policy_loss or PPOClip()
        self.epochs, self.minibatch_prompts, self.loss_mean = epochs, minibatch_prompts, loss_mean
        self.value_clip, self.entropy_bonus, self.target_kl = value_clip, entropy_bonus, target_kl
        self.critic_warmup, self.sft_weight, self.max_grad_norm = critic_warmup, sft_weight, max_grad_norm
        check_options(self)
        self._idle = 0  # rollouts without a step, one after another
        self.rollouts = 0  # done so far, those before a restart included

    def configure_callbacks(self) -> list[L.Callback]:
        check_trainer(self.trainer)  # the Trainer asks for callbacks before it looks at its own options
        return super().configure_callbacks()

    def build(self) -> None:
        super().build()
        if self.critic_source is not None:
            self.critic = self.critic_source.load(self.attention)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One AdamW for policy and critic, each at its own rate; the schedule counts optimizer steps."""
        groups = decay_groups(self, self.lr, self.weight_decay, self.lr_scales())
        steps = planned_steps(self.trainer, self.epochs, self.minibatch_prompts, self.schedule)
        return adamw_with_schedule(  # type: ignore[return-value]
            groups, self.betas, steps, self.warmup_ratio, self.schedule, self._time_used
        )

    def lr_scales(self) -> dict[nn.Parameter, float]:
        scales = super().lr_scales()
        if self.critic is not None and self.critic_source is not None:
            scales |= dict.fromkeys(self.critic.parameters(), self.critic_source.lr / self.lr)
        return scales

    def prepare(self) -> None:
        if self.critic_source is not None and self.critic is not None and not self._ready:
            self.critic_source.check(self.processor)
            self.critic.own_vision = not same_vision(self.model, self.critic.model)
        super().prepare()

    @float32_by_default()
    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Answer the prompts; estimate advantages; ``epochs`` passes of updates over minibatches of prompts."""
        check_demonstrations(self.sft_weight, batch)
        log = RolloutLog(None if self.trainer.world_size == 1 else partial(summed, self.trainer))
        with log.timed("rollout"):
            prompts = equal_share(self.trainer, batch.prompts)
            rollout = self.in_units(self.answer(prompts, self._rollout_seed))
            estimates = self.estimate(rollout, log)
        with log.timed("update"):
            for chosen in self.minibatches(len(rollout.prompts)):
                self.update(rollout, estimates, chosen, batch.demonstrations, log)
                if self._moved_too_far(log):
                    break
        self._note_divergence(rollout)
        self._idle = 0 if log.steps else self._idle + 1
        check_progress(self._idle, rollout.reasons)
        self.rollouts += 1
        self.last = rollout.without_media(), estimates
        values = mean_of_each(self.trainer, log.scalars("train", rollout))
        shown = {name: values.pop(name) for name in _SHOWN if name in values}
        self.log_dict(values)
        self.log_dict(shown, prog_bar=True)

    @property
    def _rollout_seed(self) -> int:
        """Seed of this rollout: those of runs with neighbouring seeds have nothing in common."""
        return int.from_bytes(hashlib.blake2b(f"{self.seed}/{self.rollouts}".encode(), digest_size=7).digest())

    def in_units(self, rollout: Rollout) -> Rollout:
        """Teach the critic, which starts as the reward model, the units of standardised rewards, in the first rollout
        with answers that count.

        Returns:
            The rollout with the critic's values in these units.
        """
        if self.critic is None or rollout.values is None or not (self.signal.standardise and self.critic.awaits_units):
            return rollout
        moments = RunningMoments().to(self.device)
        moments.update(rollout.scores[rollout.kept], partial(summed, self.trainer))
        if not moments.count:
            return rollout
        return rollout._replace(values=self.critic.set_units(moments, rollout.values) * rollout.mask)

    def estimate(self, rollout: Rollout, log: RolloutLog) -> Estimates:
        """Rewards of tokens, advantages and returns of a rollout.

        Behind the last token the value is 0, also of an answer that the length limit cut: see ``MissingEndPenalty``.
        """
        rewards, scores = self.signal.token_rewards(rollout, partial(summed, self.trainer))
        advantages, returns = self.advantage(rewards, rollout.values, rollout.mask, rollout.samples)
        if self.advantage.whitens:
            advantages = whiten(advantages, rollout.mask, all_reduce=partial(summed, self.trainer))
        reasons = counted(self.trainer, rollout.reasons)
        log.estimated(rollout, scores, rewards, advantages, returns, self.signal.kl.coefficient, reasons)
        return Estimates(rewards, advantages, returns)

    def minibatches(self, prompts: int) -> Iterator[list[int]]:
        """Numbers of the prompts of each optimizer step of a rollout: every epoch in a new order, equal parts."""
        steps = math.ceil(prompts / (self.minibatch_prompts or prompts))
        generator = torch.Generator().manual_seed(self._rollout_seed)
        for _ in range(self.epochs):
            order = torch.randperm(prompts, generator=generator)
            yield from (part.tolist() for part in order.tensor_split(steps))

    def update(
        self,
        rollout: Rollout,
        estimates: Estimates,
        chosen: Sequence[int],
        demonstrations: ComparisonBatch | None,
        log: RolloutLog,
    ) -> None:
        """One optimizer step on some of a rollout's prompts."""
        parts = list(portions(rollout, chosen, self.microbatch_prompts))
        rows = torch.cat([part.rows for part in parts])
        weights = torch.zeros_like(rollout.logprobs)
        weights[rows] = token_weights(rollout.mask[rows], self.loss_mean, self.decoding.max_new_tokens)
        if not self._share_weights(weights, rollout, rows):  # every answer was left out: momentum shall move nothing
            return
        for part in parts:
            loss = self.loss(rollout, estimates, part, weights[part.rows], log)
            if part is parts[-1] and demonstrations is not None and self.sft_weight and not self._warming_up:
                loss = loss + self.sft_weight * self.supervised_loss(demonstrations, log)
            with unsynced(self.trainer, part is not parts[-1]):  # gradients are shared once a step
                self.manual_backward(loss)
        self._step(log)

    def _share_weights(self, weights: Tensor, rollout: Rollout, rows: Tensor) -> bool:
        """Scale weights so that the mean over the processes is that over all their tokens; whether any token counts."""
        kept = rollout.kept[rows].sum()
        parts = {"token": rollout.mask[rows].sum(), "sequence": kept, "fixed": torch.full_like(kept, len(rows))}
        divisor = parts[self.loss_mean]  # what the weights are divided by
        everywhere, anything = summed(self.trainer, torch.stack([divisor, kept]))
        weights *= divisor * self.trainer.world_size / everywhere.clamp(min=1)
        return bool(anything)

    def loss(self, rollout: Rollout, estimates: Estimates, part: Portion, weights: Tensor, log: RolloutLog) -> Tensor:
        """Clipped policy loss and value loss of some answers, weighted over their tokens (arXiv 1707.06347, eq. 9)."""
        width, pad = weights.shape[1], self.processor.pad_token_id
        answered = lay_out(part.prompts, part.answers, width, pad, self.device)
        loss = torch.zeros_like(weights)  # (r, L)
        if not self._warming_up:
            loss = loss + self.policy_terms(answered, rollout, estimates, part.rows, weights, log)
        if self.critic is not None and rollout.values is not None and estimates.returns is not None:
            old, returns = rollout.values[part.rows], estimates.returns[part.rows]
            error = value_loss(self.critic(answered), old, returns, self.value_clip, rollout.mask[part.rows])
            loss = loss + error
            log.add(**{"critic/loss": (error * weights).sum()})
        return (loss * weights).sum()

    def policy_terms(
        self, answered: Answered, rollout: Rollout, estimates: Estimates, rows: Tensor, weights: Tensor, log: RolloutLog
    ) -> Tensor:
        """The policy's loss (r, L) of each token: clipped surrogate, entropy bonus, divergence from the reference."""
        old = rollout.logprobs[rows]
        temperature, bonus = self.decoding.temperature, self.entropy_bonus
        logprobs, entropy = answer_logprobs(self.model, answered, temperature, self.attention, True, bonus != 0)
        assert entropy is not None
        terms = self.policy_loss(logprobs, old, estimates.advantages[rows], rollout.mask[rows])
        log.policy(terms, logprobs, old, entropy, rollout.mask[rows], weights)
        loss = terms.loss
        if bonus:
            loss = loss - bonus * entropy
        if rollout.reference is not None and self.signal.kl_in == "loss":
            loss = loss + self.signal.kl_loss(logprobs, rollout.reference[rows])
        return loss

    def supervised_loss(self, demonstrations: ComparisonBatch, log: RolloutLog) -> Tensor:
        """Negative log-likelihood of demonstrations, per token (arXiv 2203.02155, eq. 2)."""
        hidden = self.hidden_states(demonstrations)
        targets = predict_targets(hidden, self.model.get_output_embeddings(), demonstrations)
        loss = sft_loss(targets.logprobs, targets.weights)
        log.add(**{"sft/loss": loss})
        return loss

    def _step(self, log: RolloutLog) -> None:
        """Cut the gradients of policy and critic, each for itself, and step."""
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        reshard(self)  # what a forward pass without a backward pass has left whole has no gradients
        for name, part in (("policy", self.model), ("critic", self.critic)):
            if part is not None and self.max_grad_norm is not None:
                norm = nn.utils.clip_grad_norm_(part.parameters(), self.max_grad_norm)
                log.add(**{f"{name}/grad_norm": norm.full_tensor() if isinstance(norm, DTensor) else norm})
        optimizer.step()  # type: ignore[union-attr]
        optimizer.zero_grad()  # type: ignore[union-attr]
        scheduler.step()  # type: ignore[union-attr]
        log.close_step()

    def _note_divergence(self, rollout: Rollout) -> None:
        """Tell the KL controller the mean divergence of the answers of all processes."""
        total, answers = summed(
            self.trainer, torch.stack([rollout.kl()[rollout.kept].sum(), rollout.kept.sum()])
        ).tolist()
        if answers:
            self.signal.kl.update(torch.tensor(total / answers, dtype=torch.float64), int(answers))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["rollouts"] = self.rollouts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.rollouts = checkpoint["rollouts"]

    @property
    def _warming_up(self) -> bool:
        """Whether the critic alone learns."""
        return self.rollouts < self.critic_warmup

    def _moved_too_far(self, log: RolloutLog) -> bool:
        """Whether the policy has left the one that sampled further than ``target_kl``; all processes say the same."""
        return self.target_kl is not None and log.moved is not None and bool(log.moved > self.target_kl)
