"""What is logged of rollouts and updates, and the metrics of a policy on held-out prompts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from lit_ixc.advantages import kl_estimate, masked_mean
from lit_ixc.metrics import GroupMean
from lit_ixc.policy_losses import PolicyTerms, explained_variance
from lit_ixc.rewards.rules import VerifierReward
from lit_ixc.rollout import Rollout

#: Sums over tokens, and the names under which their means are logged.
_MEANS = {
    "clipped": "policy/clipped",
    "ratio": "policy/ratio",
    "entropy": "policy/entropy",
    "moved": "kl/update",
}


class RolloutLog:
    """Numbers of one rollout and of its updates; tensors are read when all is done."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._values: dict[str, Tensor] = {}
        self._step: dict[str, Tensor] = {}
        self._steps: list[dict[str, Tensor]] = []

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure what runs inside."""
        start = time.perf_counter()
        yield
        self._seconds[name] = time.perf_counter() - start

    def estimated(
        self,
        rollout: Rollout,
        scores: Tensor,
        rewards: Tensor,
        advantages: Tensor,
        returns: Tensor | None,
        coefficient: Tensor,
    ) -> None:
        """Rewards, divergence, lengths and the critic's worth, before the updates."""
        kept = rollout.kept
        self._values |= {
            "kl/coefficient": coefficient.float(),
            "answers/tokens": rollout.lengths.float().mean(),
            "answers/ended": rollout.ended.float().mean(),
            "answers/empty": torch.tensor([not episode.text for episode in rollout.episodes]).float().mean(),
            "answers/left_out": (~kept).float().mean(),
        }
        for reason in set(rollout.reasons) - {""}:
            self._values[f"left_out/{reason}"] = torch.tensor(rollout.reasons.count(reason) / len(rollout.reasons))
        if not kept.any():
            return
        self._values |= {
            "reward/raw": rollout.scores[kept].mean(),
            "reward/standardised": scores[kept].mean(),
            "reward/after_kl": rewards.sum(dim=1)[kept].mean(),
            "kl/reference": rollout.kl()[kept].mean(),
            "advantage/deviation": advantages[rollout.mask].std(correction=0),
        }
        for name, values in rollout.parts.items():
            self._values[f"rewards/{name}"] = values.nanmean()
        if returns is not None and rollout.values is not None:
            self._values["critic/value"] = masked_mean(rollout.values, rollout.mask)
            self._values["critic/explained_variance"] = explained_variance(rollout.values, returns, rollout.mask)

    def add(self, **values: Tensor) -> None:
        """Add parts of an optimizer step's numbers, one part for each microbatch."""
        for name, value in values.items():
            self._step[name] = self._step.get(name, 0.0) + value.detach()

    def policy(
        self, terms: PolicyTerms, logprobs: Tensor, old: Tensor, entropy: Tensor, mask: Tensor, weights: Tensor
    ) -> None:
        """Add the policy's part of a microbatch: its weighted loss, and sums over the tokens of the mask (r, L)."""
        moved = kl_estimate(old, logprobs.detach(), "k3")
        sums = {"clipped": terms.clipped, "ratio": terms.ratio, "entropy": entropy, "moved": moved, "tokens": mask}
        self.add(**{f"sum/{name}": (values * mask).sum() for name, values in sums.items()})
        self.add(**{"policy/loss": (terms.loss * weights).sum()})
        if not self._steps:  # before the first optimizer step: the same weights sampled and learn
            off = (terms.ratio - 1).abs().masked_fill(~mask, 0.0).max()
            first = self._values.get("policy/first_ratio_error", off)
            self._values["policy/first_ratio_error"] = torch.maximum(first, off)

    def close_step(self, **values: Tensor) -> None:
        """End an optimizer step."""
        self.add(**values)
        tokens = self._step.pop("sum/tokens", None)
        for name, shown in _MEANS.items():
            if tokens is not None:
                self._step[shown] = self._step.pop(f"sum/{name}") / tokens.clamp(min=1)
        self._steps.append(self._step)
        self._step = {}

    @property
    def moved(self) -> Tensor | None:
        """Divergence of the last optimizer step's answers from the policy that sampled, mean of a token."""
        return self._steps[-1].get("kl/update") if self._steps else None

    def scalars(self, stage: str, rollout: Rollout) -> dict[str, Tensor]:
        """All of it as ``<stage>/<name>``: of the updates the means over optimizer steps, and tokens per second."""
        names = sorted({name for step in self._steps for name in step})
        means = {name: torch.stack([s[name] for s in self._steps if name in s]).float().mean() for name in names}
        speed = {
            "speed/rollout_tokens": rollout.tokens / self._seconds["rollout"],
            "speed/update_tokens": rollout.tokens * len(self._steps) / self._seconds["update"],
            "speed/answers": len(rollout.answers) / sum(self._seconds.values()),
        }
        values = {**self._values, **means, **{name: torch.tensor(value) for name, value in speed.items()}}
        return {f"{stage}/{name}": value.float().cpu() for name, value in values.items()}


class PolicyMetric(nn.Module):
    """Means over the answers to held-out prompts: of each set, and over all (``all``).

    ``truth`` is the share of right answers among those whose row says what is right (see ``VerifierReward``),
    ``reward`` the weighted sum of the reward functions, ``rewards/<name>`` what one of them gave.

    Args:
        rewards: Names of the reward functions.
    """

    def __init__(self, rewards: Iterable[str]) -> None:
        super().__init__()
        names = ["truth", "reward", "kl", "tokens", "ended", *(f"rewards/{name}" for name in rewards)]
        self.means = nn.ModuleDict({name: GroupMean() for name in names})
        self.truth = VerifierReward()

    def update(self, rollout: Rollout) -> None:
        """Add the answers of a rollout."""
        truth = torch.tensor([judgement.score for judgement in self.truth(rollout.episodes)])
        kept, every = rollout.kept.cpu(), torch.ones(len(truth), dtype=torch.bool)
        rows = {
            "truth": (truth, ~truth.isnan()),
            "reward": (rollout.scores.cpu(), kept),
            "kl": (rollout.kl().cpu(), kept),
            "tokens": (rollout.lengths.float(), every),
            "ended": (rollout.ended.float(), every),
            **{f"rewards/{name}": (values, ~values.isnan()) for name, values in rollout.parts.items()},
        }
        sources = [prompt.source for prompt in rollout.prompts for _ in range(rollout.samples)]
        for name, (values, counts) in rows.items():
            cast(GroupMean, self.means[name]).update(values.nan_to_num(), sources, counts)

    def compute(self) -> dict[str, dict[str, Tensor]]:
        """The means of each name by group; starts anew."""
        found = {}
        for name, mean in self.means.items():
            found[name] = cast(GroupMean, mean).compute()
            cast(GroupMean, mean).reset()
        return found


def policy_table(values: dict[str, dict[str, Tensor]]) -> str:
    """Result table of a test: a line for each set and one for all, a column for each metric."""
    columns = [name for name in values if values[name]]
    groups = sorted({group for name in columns for group in values[name]} - {"all"}) + ["all"]
    widths = [max(10, len(name) + 2) for name in columns]
    lines = [f"{'':28}" + "".join(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True))]
    for group in groups:
        cells = [f"{float(values[name][group]):.3f}" if group in values[name] else "" for name in columns]
        lines.append(f"{group:28}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))
    return "\n".join(lines)
