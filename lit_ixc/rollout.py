"""Rollouts: answers of the policy to prompts, with everything that an update needs to know about them.

Shapes: P prompts, n answers of each, R = P * n answers (those of one prompt side by side), L tokens of the longest.
Per-token tensors are (R, L), padded on the right; ``mask`` is True at sampled tokens, the one that ends an answer
included. Whatever stands outside the mask is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lit_ixc.answered import Answered, lay_out, mask_of
from lit_ixc.batch import EncodedMedia, EncodedPrompt
from lit_ixc.generation import Drawn
from lit_ixc.layout import on_device
from lit_ixc.rewards.interface import Combined, Episode, Judgement

#: Prompts and the R answers to them, the tokens of each -> (R, L) numbers.
TokenScorer = Callable[[Answered], Tensor]


class Rollout(NamedTuple):
    """What was sampled and what is known of it; nothing here has a gradient.

    Args:
        prompts: P prompts; with a frozen vision encoder their media hold the policy's visual features.
        answers: R lists of sampled tokens.
        mask: (R, L) sampled tokens that count; no token of an answer that was left out.
        logprobs: (R, L) log-probabilities under the policy that sampled, at the sampling temperature.
        reference: (R, L) the same under the reference; None without one.
        values: (R, L) the critic's value of the state before each token; None without a critic.
        scores: (R,) rewards, weighted and summed, as the reward functions gave them.
        steps: (R, L) rewards of steps inside an answer, at the last token of each.
        parts: (R,) for each reward function by name; NaN where it gave none.
        ended: (R,) whether the policy ended the answer itself.
        episodes: R answers as text.
        reasons: Why an answer was left out; empty for the others.
    """

    prompts: tuple[EncodedPrompt, ...]
    answers: tuple[tuple[int, ...], ...]
    mask: Tensor
    logprobs: Tensor
    reference: Tensor | None
    values: Tensor | None
    scores: Tensor
    steps: Tensor
    parts: dict[str, Tensor]
    ended: Tensor
    episodes: tuple[Episode, ...]
    reasons: tuple[str, ...]

    @property
    def samples(self) -> int:
        """n, answers of each prompt."""
        return len(self.answers) // len(self.prompts)

    @property
    def lengths(self) -> Tensor:
        """(R,) tokens of each answer, on the host, those left out included."""
        return torch.tensor([len(answer) for answer in self.answers])

    @property
    def rewards(self) -> Tensor:
        """(R,) the whole reward of each answer, that of its steps included."""
        return self.scores + self.steps.sum(dim=1)

    @property
    def kept(self) -> Tensor:
        """(R,) answers that count."""
        return self.mask.any(dim=1)

    @property
    def tokens(self) -> int:
        """Sampled tokens."""
        return sum(map(len, self.answers))

    def without_media(self) -> Rollout:
        """The same answers without pixels and features, for whoever looks at them later."""
        none = EncodedMedia((), {})
        return self._replace(
            prompts=tuple(prompt._replace(media=none, critic_media=None) for prompt in self.prompts),
            episodes=tuple(episode._replace(media=none) for episode in self.episodes),
        )

    def kl(self) -> Tensor:
        """(R,) one-sample estimate of the divergence from the reference, ``sum_t log p_t - log p_ref_t``, in nats."""
        if self.reference is None:
            return torch.zeros_like(self.scores)
        return ((self.logprobs - self.reference) * self.mask).sum(dim=1)


class Portion(NamedTuple):
    """Some of a rollout's prompts with their answers, as an update takes them.

    Args:
        prompts: p of the P prompts.
        answers: Their r = p * n answers.
        rows: (r,) where they stand in the rollout's tensors.
    """

    prompts: tuple[EncodedPrompt, ...]
    answers: tuple[tuple[int, ...], ...]
    rows: Tensor


def portions(rollout: Rollout, order: Sequence[int], prompts: int) -> Iterator[Portion]:
    """The prompts of a rollout in an order, ``prompts`` at a time."""
    n, device = rollout.samples, rollout.mask.device
    for start in range(0, len(order), prompts):
        chosen = order[start : start + prompts]
        rows = [p * n + k for p in chosen for k in range(n)]
        yield Portion(
            tuple(rollout.prompts[p] for p in chosen),
            tuple(rollout.answers[row] for row in rows),
            on_device(np.array(rows), device),
        )


class Players(NamedTuple):
    """Who takes part in a rollout.

    Args:
        sample: The policy answers prompts: n answers of each.
        decode: Tokens of an answer to its text.
        policy: Log-probabilities under the policy; None takes those that sampling gave.
        reference: The same under the reference; None without one.
        critic: Values of the states before the tokens; None without a critic.
        judge: Rewards of answers.
    """

    sample: Callable[[Sequence[EncodedPrompt]], list[list[Drawn]]]
    decode: Callable[[Sequence[int]], str]
    policy: TokenScorer | None
    reference: TokenScorer | None
    critic: TokenScorer | None
    judge: Callable[[Sequence[Episode]], Combined]


@torch.no_grad()
def collect(
    prompts: Sequence[EncodedPrompt], players: Players, microbatch: int, pad_token_id: int, device: torch.device
) -> Rollout:
    """Have the policy answer prompts, and judge the answers.

    Args:
        prompts: P prompts.
        players: Policy, reference, critic and rewards.
        microbatch: Prompts of one forward pass.
        pad_token_id: Id at padding.
        device: Where the models are.
    """
    # 1. answers
    drawn = [answer for group in players.sample(prompts) for answer in group]
    answers = [answer.ids for answer in drawn]
    samples = len(answers) // len(prompts)
    mask = mask_of(answers, device)

    # 2. log-probabilities and values, some prompts at a time
    scorers = {"policy": players.policy, "reference": players.reference, "critic": players.critic}
    found: dict[str, list[Tensor]] = {name: [] for name, scorer in scorers.items() if scorer is not None}
    for start in range(0, len(prompts), microbatch):
        stop = start + microbatch
        some = answers[start * samples : stop * samples]
        answered = lay_out(prompts[start:stop], some, mask.shape[1], pad_token_id, device)
        for name in found:
            scorer = scorers[name]
            assert scorer is not None
            found[name].append(scorer(answered))
    known = {name: torch.cat(values) for name, values in found.items()}
    if "policy" not in known:
        known["policy"] = _sampled_logprobs(drawn, mask)

    # 3. rewards
    owners = [prompt for prompt in prompts for _ in range(samples)]
    episodes = tuple(
        Episode(owner.record, players.decode(answer.ids), answer.ids, answer.finish == "stop", owner.media)
        for owner, answer in zip(owners, drawn, strict=True)
    )
    judged = players.judge(episodes)
    kept = torch.tensor([not total.reason for total in judged.totals], device=device)
    mask = mask & kept[:, None]
    return Rollout(
        tuple(prompts),
        tuple(answers),
        mask,
        known["policy"] * mask,
        known["reference"] * mask if "reference" in known else None,
        known["critic"] * mask if "critic" in known else None,
        torch.tensor([total.score for total in judged.totals], device=device).masked_fill(~kept, 0.0),
        _steps(judged.totals, mask),
        {name: torch.tensor(scores) for name, scores in judged.scores.items()},
        torch.tensor([episode.ended for episode in episodes]),
        episodes,
        tuple(total.reason for total in judged.totals),
    )


def _sampled_logprobs(drawn: Sequence[Drawn], mask: Tensor) -> Tensor:
    """(R, L) log-probabilities as sampling gave them."""
    values = torch.tensor([value for answer in drawn for value in answer.logprobs], device=mask.device)
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, values)


def _steps(totals: Sequence[Judgement], mask: Tensor) -> Tensor:
    """(R, L) rewards of steps, at the last token of each."""
    steps = torch.zeros(mask.shape)
    for row, total in enumerate(totals):
        for end, value in total.steps:
            steps[row, end] = value
    return steps.to(mask.device) * mask
