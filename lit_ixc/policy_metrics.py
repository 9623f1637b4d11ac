"""What is logged of rollouts and updates, and the metrics of a policy on held-out prompts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from lit_ixc.advantages import AllReduce, kl_estimate, masked_moments
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
    """Numbers of one rollout and of its updates, of all processes; those of the updates are read when all is done.

    Every process calls the same methods in the same order, and all come to the same numbers.

    Args:
        all_reduce: Sum over the processes, where there are several.
    """

    def __init__(self, all_reduce: AllReduce = None) -> None:
        self._all_reduce = all_reduce
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
        reasons: Counter[str],
    ) -> None:
        """Rewards, divergence, lengths and the critic's worth, before the updates.

        Args:
            rollout: The answers of this process.
            scores: (R,) scores in the units of the rewards.
            rewards: (R, L) rewards of the tokens.
            advantages: (R, L).
            returns: (R, L) what the critic should have said; None without one.
            coefficient: Of the divergence from the reference.
            reasons: Why answers of all processes were left out, each as often as it was; empty for the others.
        """
        kept, mask = rollout.kept, rollout.mask
        every = torch.ones_like(kept)
        rows = {
            "answers/tokens": (rollout.lengths, every),
            "answers/ended": (rollout.ended, every),
            "answers/empty": (torch.tensor([not episode.text for episode in rollout.episodes]), every),
            "answers/left_out": (~kept, every),
            "reward/raw": (rollout.rewards, kept),
            "reward/standardised": (scores, kept),
            "reward/after_kl": (rewards.sum(dim=1), kept),
            "kl/reference": (rollout.kl(), kept),
            **{f"rewards/{name}": (values, ~values.isnan()) for name, values in rollout.parts.items()},
        }
        if rollout.values is not None:
            rows["critic/value"] = (rollout.values, mask)
        self._values |= {"kl/coefficient": coefficient.clone(), **self._means(rows, mask.device)}
        answers = sum(reasons.values())
        self._values |= {f"left_out/{name}": torch.tensor(n / answers) for name, n in reasons.items() if name}
        if "reward/raw" in self._values:  # some answer counts, in whatever process
            self._values["advantage/deviation"] = masked_moments(advantages, mask, self._all_reduce)[1].sqrt()
            if returns is not None and rollout.values is not None:
                worth = explained_variance(rollout.values, returns, mask, self._all_reduce)
                self._values["critic/explained_variance"] = worth

    def _means(self, rows: dict[str, tuple[Tensor, Tensor]], device: torch.device) -> dict[str, Tensor]:
        """Means of numbers, of those that count; without a name for which none counts in any process."""
        sums = torch.stack(
            [
                torch.stack(
                    [(values.to(device).nan_to_num() * counts.to(device)).double().sum(), counts.to(device).sum()]
                )
                for values, counts in rows.values()
            ]
        )
        found = (sums if self._all_reduce is None else self._all_reduce(sums)).tolist()
        return {name: torch.tensor(total / n) for name, (total, n) in zip(rows, found, strict=True) if n}

    def _over_processes(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means over the processes."""
        if self._all_reduce is None or not values:
            return values
        *sums, processes = self._all_reduce(
            torch.stack([*values.values(), torch.ones_like(next(iter(values.values())))])
        )
        return {name: total / processes for name, total in zip(values, sums, strict=True)}

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

    def close_step(self) -> None:
        """End an optimizer step."""
        step = self._over_processes({name: value.float() for name, value in self._step.items()})
        if (tokens := step.pop("sum/tokens", None)) is not None:  # of the policy, once it learns
            for name, shown in _MEANS.items():  # the number of processes cancels
                step[shown] = step.pop(f"sum/{name}") / tokens
        self._steps.append(step)
        self._step = {}

    @property
    def steps(self) -> int:
        """Optimizer steps made."""
        return len(self._steps)

    @property
    def moved(self) -> Tensor | None:
        """Divergence of the last step's answers from the policy that sampled, mean of a token of all processes."""
        return self._steps[-1].get("kl/update") if self._steps else None

    def scalars(self, stage: str, rollout: Rollout) -> dict[str, float]:
        """All of it as ``<stage>/<name>``: of the updates the means over optimizer steps, and tokens per second."""
        names = sorted({name for step in self._steps for name in step})
        means = {name: torch.stack([s[name] for s in self._steps if name in s]).float().mean() for name in names}
        speed = {
            "speed/rollout_tokens": rollout.tokens / self._seconds["rollout"],
            "speed/update_tokens": rollout.tokens * len(self._steps) / self._seconds["update"],
            "speed/answers": len(rollout.answers) / sum(self._seconds.values()),
        }
        values = self._values | means
        read = torch.stack([value.to(rollout.mask.device, torch.float32) for value in values.values()]).tolist()
        return {f"{stage}/{name}": number for name, number in (dict(zip(values, read, strict=True)) | speed).items()}


class PolicyMetric(nn.Module):
    """Means over the answers to held-out prompts: of each set, and over all (``all``).

    ``truth`` is the share of right answers among those whose row says what is right (see ``VerifierReward``),
    ``reward`` the weighted sum of the reward functions, ``rewards/<name>`` what one of them gave.

    Args:
        rewards: Names of the reward functions.
    """

    def __init__(self, rewards: Iterable[str]) -> None:
        super().__init__()
        self.names = ["truth", "reward", "kl", "tokens", "ended", "left_out", *(f"rewards/{name}" for name in rewards)]
        self.means = nn.ModuleList([GroupMean() for _ in self.names])
        self.truth = VerifierReward()

    def update(self, rollout: Rollout) -> None:
        """Add the answers of a rollout."""
        truth = torch.tensor([judgement.score for judgement in self.truth(rollout.episodes)])
        kept, every = rollout.kept, torch.ones(len(truth), dtype=torch.bool)
        rows = {
            "truth": (truth, ~truth.isnan()),
            "reward": (rollout.rewards, kept),
            "kl": (rollout.kl(), kept),
            "tokens": (rollout.lengths.float(), every),
            "ended": (rollout.ended.float(), every),
            "left_out": ((~kept).float(), every),
            **{f"rewards/{name}": (values, ~values.isnan()) for name, values in rollout.parts.items()},
        }
        sources = [prompt.source for prompt in rollout.prompts for _ in range(rollout.samples)]
        for name, mean in self._named():
            values, counts = rows[name]
            device = rollout.mask.device  # where processes can exchange them
            mean.update(values.nan_to_num().to(device), sources, counts.to(device))

    def _named(self) -> Iterator[tuple[str, GroupMean]]:
        return zip(self.names, cast(Iterable[GroupMean], self.means), strict=True)

    def compute(self) -> dict[str, dict[str, Tensor]]:
        """The means of each name by group; starts anew."""
        found = {}
        for name, mean in self._named():
            found[name] = mean.compute()
            mean.reset()
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
