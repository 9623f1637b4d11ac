"""Log-probabilities of tokens under a policy, without the logits of a whole batch in memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lit_ixc.batch import ComparisonBatch


def token_logprobs(
    states: Tensor,
    head: nn.Module,
    ids: Tensor,
    temperature: float = 1.0,
    chunk: int = 4096,
    entropy: bool = False,
    entropy_gradient: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """``log softmax(head(state) / temperature)[id]`` in fp32.

    Where there are more than ``chunk`` tokens, the logits of so many at a time are held, and made again in the backward
    pass.

    Args:
        states: (N, H) hidden states from which the tokens are predicted.
        head: The language-model head, (N, H) -> (N, V).
        ids: (N,) the tokens.
        temperature: Divides the logits.
        chunk: Tokens whose logits (chunk, V) are held together.
        entropy: Also give the entropies of the distributions.
        entropy_gradient: With their gradient, which costs memory.

    Returns:
        (N,) log-probabilities, and (N,) entropies in nats or None.
    """

    def of_part(states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = head(states).float()  # (n, V)
        if temperature != 1.0:
            logits = logits / temperature
        total = logits.logsumexp(dim=-1)
        chosen = logits.gather(1, ids[:, None]).squeeze(1) - total
        if not entropy:
            return chosen, None
        with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
            # H = -sum p log p = log sum exp(z) - sum p z
            return chosen, total - ((logits - total[:, None]).exp() * logits).sum(dim=-1)

    if len(ids) <= chunk:
        return of_part(states, ids)
    again = torch.is_grad_enabled() and (states.requires_grad or any(p.requires_grad for p in head.parameters()))
    logprobs, entropies = [], []
    for part in zip(states.split(chunk), ids.split(chunk), strict=True):
        chosen, spread = checkpoint(of_part, *part, use_reentrant=False) if again else of_part(*part)
        logprobs.append(chosen)
        if spread is not None:
            entropies.append(spread)
    return torch.cat(logprobs), torch.cat(entropies) if entropy else None


class ResponseLogprobs(NamedTuple):
    """Log-probabilities of whole responses given their prompts.

    Args:
        sums: (C, K) sums over each response's tokens, fp32; 0 where a comparison has no k-th response.
        tokens: (C, K) how many they are.
    """

    sums: Tensor
    tokens: Tensor


def response_logprobs(
    hidden: Tensor, head: nn.Module, batch: ComparisonBatch, temperature: float = 1.0, chunk: int = 4096
) -> ResponseLogprobs:
    """Sum the log-probabilities of each response's supervised tokens (earlier answers of a dialogue are prompt).

    A token is read from the hidden state of the token before it in its own sequence; the first of a sequence has none
    and does not count. A token that responses share counts for each of them.

    Args:
        hidden: (B, T, H) final-norm hidden states.
        head: The language-model head.
        batch: The comparisons.
        temperature, chunk: As in :func:`token_logprobs`.
    """
    at = batch.target_rows  # (N,), flat
    parent = batch.parent.flatten()[at]
    before = at - at % hidden.shape[1] + parent
    counts = batch.response.flatten()[at] & (parent >= 0)
    states = hidden.flatten(0, 1)[before.clamp(min=0)]
    logprobs, _ = token_logprobs(states, head, batch.input_ids.flatten()[at], temperature, chunk)
    width = batch.ranks.shape[1] + 1
    group = batch.comparison.flatten()[at] * width + batch.segment.flatten()[at]

    def of_responses(values: Tensor) -> Tensor:
        """(C, K) sums of (N,) values: those of the shared prefix, and those of each continuation."""
        sums = values.new_zeros(batch.size * width).index_add(0, group, values).view(-1, width)
        return (sums[:, :1] + sums[:, 1:]).masked_fill(~batch.exists, 0)

    return ResponseLogprobs(of_responses(logprobs.masked_fill(~counts, 0.0)), of_responses(counts.long()))
