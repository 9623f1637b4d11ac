"""What PPO refuses at the door, and how many optimizer steps a run comes to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast, get_args

import lightning as L

from lit_ixc.advantages import BestOfN
from lit_ixc.batch import PromptBatch
from lit_ixc.optim import Schedule
from lit_ixc.policy import PromptOwner
from lit_ixc.policy_losses import LossMean, Reinforce, SequencePPOClip
from lit_ixc.records import UserError

if TYPE_CHECKING:
    from lit_ixc.ppo import PPOModule

_MOST_IDLE = 10  # rollouts one after another of which no answer counts


def check_options(module: PPOModule) -> None:
    """Refuse options that cannot be meant, alone or together.

    Raises:
        UserError: One is out of its range, or advantage, loss and critic do not fit one another.
    """
    for name, value, good, remedy in (
        ("temperature", module.decoding.temperature, module.decoding.temperature > 0, "PPO learns from drawn answers"),
        ("epochs", module.epochs, module.epochs >= 1, "give at least 1"),
        ("minibatch_prompts", module.minibatch_prompts, _above(module.minibatch_prompts), "give at least 1, or null"),
        ("value_clip", module.value_clip, _above(module.value_clip), "give a positive bound, or null for none"),
        ("target_kl", module.target_kl, _above(module.target_kl), "give a positive number, or null for none"),
        ("max_grad_norm", module.max_grad_norm, _above(module.max_grad_norm), "give a positive norm, or null for none"),
        ("critic_warmup", module.critic_warmup, module.critic_warmup >= 0, "give 0 or more rollouts"),
        ("sft_weight", module.sft_weight, module.sft_weight >= 0, "give 0 or a positive weight"),
        (
            "loss_mean",
            module.loss_mean,
            module.loss_mean in get_args(LossMean),
            f"use one of {', '.join(get_args(LossMean))}",
        ),
    ):
        if not good:
            raise UserError(f"{name} = {value}: {remedy}")
    _check_critic(module)
    _check_loss(module)


def _check_critic(module: PPOModule) -> None:
    name, critic = type(module.advantage).__name__, module.critic_source
    if module.advantage.needs_critic and critic is None:
        raise UserError(f"critic = None: the advantage {name} needs one; give lit_ixc.critic.CriticFrom")
    if not module.advantage.needs_critic and critic is not None:
        raise UserError(f"critic: the advantage {name} uses none; remove it, or set it to null")
    if module.samples < module.advantage.least_samples:
        raise UserError(f"samples = {module.samples}: {name} needs at least {module.advantage.least_samples}")
    if module.critic_warmup and critic is None:
        raise UserError(f"critic_warmup = {module.critic_warmup}: there is no critic; set it to 0")


def _check_loss(module: PPOModule) -> None:
    loss, name = module.policy_loss, type(module.policy_loss).__name__
    distils = isinstance(module.advantage, BestOfN)
    if distils and not isinstance(loss, Reinforce):
        raise UserError(f"policy_loss = {name}: the weights of BestOfN are no advantages; give Reinforce")
    if isinstance(loss, SequencePPOClip) and module.loss_mean != "sequence":
        raise UserError(f"loss_mean = {module.loss_mean}: {name} has one ratio for an answer; set it to sequence")
    if type(loss) is Reinforce and not distils and (module.epochs > 1 or module.minibatch_prompts is not None):
        raise UserError(
            f"policy_loss = {name}: without a ratio a rollout serves one step; set epochs to 1 and minibatch_prompts "
            "to null, or give PPOClip"
        )


def check_trainer(trainer: L.Trainer) -> None:
    """Refuse options of the Trainer that are for automatic optimisation.

    Raises:
        UserError: One is given; the message names the module's own option.
    """
    for option, value, off, own in (
        ("gradient_clip_val", trainer.gradient_clip_val, "null", "max_grad_norm"),
        ("accumulate_grad_batches", trainer.accumulate_grad_batches - 1, "1", "microbatch_prompts"),
    ):
        if value:
            raise UserError(f"trainer.{option}: the model makes the updates; set it to {off}, and the model's {own}")
    if str(trainer.precision).startswith("16-"):
        raise UserError(
            f"trainer.precision = {trainer.precision}: gradients are clipped before the loss scale of fp16 is taken "
            "off; use bf16-mixed or 32-true"
        )


def check_demonstrations(sft_weight: float, batch: PromptBatch) -> None:
    """Refuse what would do nothing in silence.

    Raises:
        UserError: There is a weight and no demonstrations, or the other way round.
    """
    if sft_weight and batch.demonstrations is None:
        raise UserError(f"sft_weight = {sft_weight}: there are none; set data.demonstrations, or set it to 0")
    if not sft_weight and batch.demonstrations is not None:
        raise UserError("sft_weight = 0: data.demonstrations would be loaded for nothing; give it a weight")


def check_progress(idle: int, reasons: Sequence[str]) -> None:
    """End a run that makes no steps: it would never reach ``max_steps``.

    Args:
        idle: Rollouts without a step, one after another.
        reasons: Why the answers of the last one were left out.

    Raises:
        UserError: There are too many.
    """
    if idle == _MOST_IDLE:
        why = ", ".join(f"{reason}: {count}" for reason, count in Counter(reasons).items() if reason)
        raise UserError(
            f"signal.unjudged = drop: no answer could be judged in {_MOST_IDLE} rollouts one after another (the last: "
            f"{why}); see to the rewards, or choose rows that they can judge (data.with_truth)"
        )


def planned_steps(trainer: L.Trainer, epochs: int, minibatch_prompts: int | None, schedule: Schedule) -> int:
    """Optimizer steps of the whole run: ``max_steps``, or what the epochs come to if that is less.

    Raises:
        UserError: Neither is given, and the schedule has to know its end.
    """
    prompts = cast(PromptOwner, trainer.datamodule).batch_size  # type: ignore[attr-defined]
    of_rollout = epochs * math.ceil(prompts / (minibatch_prompts or prompts))
    limits = [trainer.max_steps] if trainer.max_steps > 0 else []
    if trainer.max_epochs not in (None, -1):
        trainer.fit_loop.setup_data()
        limits.append(int(trainer.num_training_batches * trainer.max_epochs * of_rollout))
    if not limits and schedule != "constant":
        raise UserError(f"schedule = {schedule}: give trainer.max_steps or max_epochs, or choose constant")
    return min(limits, default=1)


def _above(value: float | None) -> bool:
    """Whether an option is off or positive."""
    return value is None or value > 0
