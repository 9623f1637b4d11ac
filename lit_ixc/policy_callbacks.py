"""What TensorBoard shows of a policy: charts, histograms of rewards and advantages, and a page of answers."""

from __future__ import annotations

from typing import Any, cast

import lightning as L
from matplotlib.figure import Figure

from lit_ixc.pages import board, page, shortened
from lit_ixc.ppo import PPOModule
from lit_ixc.rewards.rules import VerifierReward
from lit_ixc.rollout import Rollout

# Tags are regular expressions of TensorBoard's custom scalar plugin.
LAYOUT = {
    "policy": {
        "truth on held-out prompts": ["Multiline", ["val/truth/.*"]],
        "reward": ["Multiline", ["train/reward/raw", "val/reward/all"]],
        "rewards": ["Multiline", ["train/rewards/.*"]],
        "divergence from the reference": ["Multiline", ["train/kl/reference", "val/kl/all"]],
        "KL coefficient": ["Multiline", ["train/kl/coefficient"]],
        "divergence of an update": ["Multiline", ["train/kl/update"]],
        "entropy": ["Multiline", ["train/policy/entropy"]],
        "clipped": ["Multiline", ["train/policy/clipped"]],
        "tokens of an answer": ["Multiline", ["train/answers/tokens", "val/tokens/all"]],
        "ended by the policy": ["Multiline", ["train/answers/ended", "val/ended/all"]],
    },
    "critic": {
        "explained variance": ["Multiline", ["train/critic/explained_variance"]],
        "value loss": ["Multiline", ["train/critic/loss"]],
        "gradient norms": ["Multiline", ["train/policy/grad_norm", "train/critic/grad_norm"]],
    },
    "speed": {
        "tokens per second": ["Multiline", ["train/speed/rollout_tokens", "train/speed/update_tokens"]],
        "answers per second": ["Multiline", ["train/speed/answers"]],
    },
}


class PolicyDashboard(L.Callback):
    """TensorBoard of a policy that is trained by a reward; all of it over rollouts, as the scalars are.

    Args:
        samples: Held-out prompts on the page of answers.
        every_n_rollouts: Rollouts from one histogram to the next.
    """

    def __init__(self, samples: int = 8, every_n_rollouts: int = 10) -> None:
        self.samples, self.every_n_rollouts = samples, every_n_rollouts

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if (writer := board(trainer)) is not None:
            writer.add_custom_scalars(LAYOUT)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        writer, module = board(trainer), cast(PPOModule, pl_module)
        if writer is None or module.last is None or module.rollouts % self.every_n_rollouts:
            return
        rollout, estimates = module.last
        for name, values in (
            ("rewards", rollout.rewards[rollout.kept]),
            ("advantages", estimates.advantages[rollout.mask]),
            ("lengths", rollout.lengths),
        ):
            if len(values):
                writer.add_histogram(f"train/{name}", values.float(), module.rollouts)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        writer, module = board(trainer), cast(PPOModule, pl_module)
        if writer is not None and module.shown is not None and not trainer.sanity_checking:
            writer.add_figure("val/answers", answer_page(module.shown, self.samples), module.rollouts)


def answer_page(rollout: Rollout, prompts: int) -> Figure:
    """Prompts with their image, their best known answer, and the policy's answers with their rewards.

    Args:
        rollout: The answers.
        prompts: Most prompts on the page; the sets take turns.
    """
    turns: dict[str, int] = {}
    order = []
    for index, prompt in enumerate(rollout.prompts):
        turns[prompt.source] = turns.get(prompt.source, 0) + 1
        order.append((turns[prompt.source], index))
    chosen = [index for _, index in sorted(order)[:prompts]]
    truth, pages = VerifierReward(), []
    for index in chosen:
        record = rollout.prompts[index].record
        lines = [f"  known         {shortened(record.response_text(record.ranks.index(0)))}"]
        for row in range(index * rollout.samples, (index + 1) * rollout.samples):
            episode = rollout.episodes[row]
            mark = {1.0: "right", 0.0: "wrong"}.get(truth([episode])[0].score, "")
            reward = rollout.reasons[row] or f"{float(rollout.rewards[row]):+7.2f}"
            lines.append(f"{reward}  {mark:5}  {shortened(episode.text)}{'' if episode.ended else ' (cut)'}")
        pages.append((record, lines))
    return page(pages)
