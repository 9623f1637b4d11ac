"""Answers sampled from a policy: the same ones for a prompt whatever else is sampled beside it or before it.

Shapes: P prompts, n answers of each, R = P * n rows (those of one prompt side by side), T tokens of the longest prompt,
V pieces of the vocabulary, A axes of positions.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_ixc.backbone import family_of, refusal
from lit_ixc.batch import ChatProcessor, EncodedMedia, EncodedSequence
from lit_ixc.decoding import Decoding, choose, uniforms
from lit_ixc.kv_cache import empty_cache
from lit_ixc.lockstep import Lockstep
from lit_ixc.prompting import Answerable, left_padded, next_position, prompt_features
from lit_ixc.records import Prompt, RecordError, UserError

#: Attention functions that take a mask (R, 1, 1, S), so that a step need not make one.
_TAKE_MASKS = ("sdpa", "prefix_tree")


class Drawn(NamedTuple):
    """One sampled answer as tokens.

    Args:
        ids: Its tokens, the one that ends it included.
        logprobs: The log-probability of each under softmax(logits / temperature) over all tokens, fp32. Temperature 0
            counts as 1.
        finish: ``stop`` if the model ended it, ``length`` if ``max_new_tokens`` did.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Literal["stop", "length"]


class Sampled(NamedTuple):
    """One sampled answer as text.

    Args:
        text: The answer without special tokens and without white space around it.
        tokens: Its tokens, the one that ends it included.
        logprob: Log-probability of these tokens under the model, at temperature 1 and with all tokens allowed.
        finish: ``stop`` if the model ended it, ``length`` if ``max_new_tokens`` did.
    """

    text: str
    tokens: int
    logprob: float
    finish: str


class _Open(NamedTuple):
    """A prompt of :func:`sample`."""

    sequence: EncodedSequence
    media: EncodedMedia


def check_length(model: nn.Module, sequence: EncodedSequence, decoding: Decoding) -> None:
    """Refuse a prompt that is too long, or whose answers may pass what the model can hold.

    Raises:
        RecordError: ``prompt_too_long``, with the numbers.
    """
    tokens, longest = len(sequence.ids), decoding.max_prompt_tokens
    if longest is not None and tokens > longest:
        remedy = f"max_prompt_tokens = {longest}; raise it or leave the row out"
        raise RecordError("prompt_too_long", "prompt", f"{tokens} tokens", remedy)
    window = family_of(model).window(model)
    if window is not None and next_position(sequence) + decoding.max_new_tokens > window:
        remedy = (
            f"with max_new_tokens = {decoding.max_new_tokens} it passes the model's {window} positions; lower "
            "max_new_tokens or leave the row out"
        )
        raise RecordError("prompt_too_long", "prompt", f"{tokens} tokens", remedy)


def sample(
    model: PreTrainedModel,
    processor: ChatProcessor,
    prompts: Sequence[tuple[str, Prompt]],
    n: int,
    decoding: Decoding,
    seed: int,
) -> list[list[Sampled] | RecordError]:
    """Sample n answers to each prompt, as :func:`draw` does, and give their texts.

    Args:
        model: The policy.
        processor: Its processor.
        prompts: Name, for the seed, and prompt.
        n: Answers of each prompt.
        decoding: How they are sampled.
        seed: Any whole number.

    Returns:
        For each prompt its n answers, or why it cannot be answered.
    """
    encoded = [_encode(model, processor, prompt, decoding) for _, prompt in prompts]
    names = [name for (name, _), one in zip(prompts, encoded, strict=True) if isinstance(one, _Open)]
    able = [one for one in encoded if isinstance(one, _Open)]
    answers = iter(draw(model, processor, able, names, n, decoding, seed, logprob_temperature=1.0) if able else ())
    return [
        one if isinstance(one, RecordError) else [_sampled(processor, answer) for answer in next(answers)]
        for one in encoded
    ]


@torch.no_grad()
def draw(
    model: PreTrainedModel,
    processor: ChatProcessor,
    prompts: Sequence[Answerable],
    names: Sequence[str],
    n: int,
    decoding: Decoding,
    seed: int,
    lockstep: Lockstep | None = None,
    logprob_temperature: float | None = None,
) -> list[list[Drawn]]:
    """Sample n answers to each prompt, all of them together.

    Answer k of a prompt draws from a generator of its own, seeded by ``seed``, the prompt's name and k. What is sampled
    beside it changes it only where a rounding error of the logits (about 1e-6 in fp32) reaches across a draw; the same
    batch gives the same answers.

    Each prompt, with its images, is computed once for its n answers, and rows that have ended leave the batch. Ids that
    are no text are never drawn. The model runs in evaluation mode and is left in the mode that it was in.

    Args:
        model: The policy, with its language-model head.
        processor: Its processor.
        prompts: At least one.
        names: P names, for the seed; equal names have equal draws.
        n: Answers of each prompt.
        decoding: How they are sampled.
        seed: Any whole number.
        lockstep: Told of every forward pass; None where ranks need not keep step.
        logprob_temperature: Temperature of the log-probabilities; None: that of the decoding, 1 where it is greedy.

    Raises:
        UserError: The model cannot be sampled from, or its logits are not numbers.
        RecordError: A prompt is too long for the model.
    """
    reason = refusal(model)
    if reason is not None:
        raise UserError(f"policy: a {type(model).__name__} cannot be sampled from here: {reason}; choose another model")
    for prompt in prompts:
        check_length(model, prompt.sequence, decoding)
    temperature = (decoding.temperature or 1.0) if logprob_temperature is None else logprob_temperature
    uniform = torch.stack([uniforms(seed, name, k, decoding.max_new_tokens) for name in names for k in range(n)])
    with _as_policy(model):
        rows = _Rows(model, processor, prompts, n, lockstep)
        rows.answer(uniform.to(model.device), decoding, temperature)
    ids, logprobs = rows.ids.tolist(), rows.logprobs.tolist()
    stops = frozenset(processor.stop_ids)
    drawn = [_drawn(own, numbers, stops) for own, numbers in zip(ids, logprobs, strict=True)]
    return [drawn[start : start + n] for start in range(0, len(drawn), n)]


def steps_per_question(device: torch.device) -> int:
    """Steps between two looks at which rows have ended: for that the host waits for an accelerator."""
    return 1 if device.type == "cpu" else 8


class _Rows:
    """R answers on their way; those that have ended leave from time to time.

    Args:
        ids: (R, most tokens) tokens of each answer, -1 behind its end.
        logprobs: (R, most tokens) their log-probabilities.
    """

    ids: Tensor
    logprobs: Tensor

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ChatProcessor,
        prompts: Sequence[Answerable],
        n: int,
        lockstep: Lockstep | None,
    ) -> None:
        self.model, self.family, self.lockstep = model, family_of(model), lockstep
        self.stops = torch.tensor(processor.stop_ids, device=model.device)
        config = cast(PreTrainedModel, self.family.parts(model).decoder).config
        self.cache = empty_cache(config)
        prefix = left_padded(prompts, processor.pad_token_id, model.device)
        features = prompt_features(model, prompts)
        logits = self.step(prefix.ids, prefix.position, prefix.mask, prefix.visual_rows, features)
        self.refused = processor.unwritable(logits.shape[1]).nonzero().squeeze(1).to(model.device)
        if n > 1:
            self.cache.batch_repeat_interleave(n)
        self.logits = logits.repeat_interleave(n, dim=0)  # (R, V)
        self.position = prefix.next.repeat_interleave(n, dim=-2)  # (R, 1) or (A, R, 1)
        self.mask = None if prefix.full else prefix.mask.repeat_interleave(n, dim=0)  # (R, T)
        sliding = any(getattr(layer, "is_sliding", False) for layer in self.cache.layers)
        self.ready_mask = config._attn_implementation in _TAKE_MASKS and not sliding

    def step(
        self,
        ids: Tensor,
        position: Tensor,
        mask: Tensor | None,
        visual_rows: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, V), fp32, of what follows the last of the tokens (B, T)."""
        hidden = self.family.step(self.model, ids, position, mask, self.cache, visual_rows, features)
        logits = self.model.get_output_embeddings()(hidden[:, -1]).float()
        if self.lockstep is not None:
            self.lockstep.passed()
        return logits

    def answer(self, uniform: Tensor, decoding: Decoding, temperature: float) -> None:
        """Draw with the numbers (R, most tokens) until every answer has ended."""
        most = decoding.max_new_tokens
        self.ids = torch.full(uniform.shape, -1, device=uniform.device)
        self.logprobs = torch.zeros(uniform.shape, dtype=torch.float32, device=uniform.device)
        self.uniform, self.own = uniform, torch.arange(len(uniform), device=uniform.device)
        self.done = torch.zeros(len(uniform), dtype=torch.bool, device=uniform.device)
        if self.mask is not None:
            self.mask = nn.functional.pad(self.mask, (0, most), value=1)  # (R, T + most)
            self.mask = self.mask.bool()[:, None, None] if self.ready_mask else self.mask
        width = self.cache.get_seq_length()
        for step in range(most):
            token = self.pick(step, decoding, temperature)
            if step + 1 == most:
                return
            if (step + 1) % steps_per_question(uniform.device) == 0:
                ended = int(self.done.sum())
                if ended == len(self.done):
                    return
                if 4 * ended >= len(self.done):
                    kept = (~self.done).nonzero().squeeze(1)
                    token = token[kept]
                    self.keep(kept)
            mask = None if self.mask is None else self.mask[..., : width + step + 1]
            self.logits = self.step(token[:, None], self.position + step, mask)

    def pick(self, step: int, decoding: Decoding, temperature: float) -> Tensor:
        """Draw the next token (rows,) of each answer and write it down with its log-probability."""
        scaled = self.logits if temperature == 1 else self.logits / temperature
        logprob = scaled.log_softmax(dim=-1)
        token = choose(self.logits.index_fill_(1, self.refused, -torch.inf), self.uniform[:, step], decoding)
        self.ids[self.own, step] = token.where(~self.done, -1)
        self.logprobs[self.own, step] = logprob.gather(1, token[:, None]).squeeze(1)
        self.done = self.done | torch.isin(token, self.stops)
        return token

    def keep(self, kept: Tensor) -> None:
        """Go on with some of the rows."""
        self.cache.batch_select_indices(kept)
        self.uniform, self.own, self.done = self.uniform[kept], self.own[kept], self.done[kept]
        self.position = self.position.index_select(-2, kept)
        self.mask = None if self.mask is None else self.mask[kept]


@contextlib.contextmanager
def _as_policy(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, its layers not compiled: a cache that grows would have them compiled again."""
    training = [module for module in model.modules() if module.training]
    compiled = any(module._compiled_call_impl is not None for module in model.modules())
    model.eval()
    try:
        with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
            yield
    finally:
        for module in training:
            module.training = True
        torch.clear_autocast_cache()  # weights that autocast has cast here have no gradient


def _drawn(ids: list[int], logprobs: list[float], stops: frozenset[int]) -> Drawn:
    """The answer of one row; -1 stands behind its end."""
    own = tuple(token for token in ids if token >= 0)
    numbers = tuple(logprobs[: len(own)])
    if any(math.isnan(number) for number in numbers):
        raise UserError("policy: its logits are not numbers (NaN), so that nothing can be drawn; check its weights")
    return Drawn(own, numbers, "stop" if own[-1] in stops else "length")


def _sampled(processor: ChatProcessor, answer: Drawn) -> Sampled:
    return Sampled(processor.decode(answer.ids), len(answer.ids), round(math.fsum(answer.logprobs), 4), answer.finish)


def _encode(
    model: PreTrainedModel, processor: ChatProcessor, prompt: Prompt, decoding: Decoding
) -> _Open | RecordError:
    try:
        media = processor.encode_media(prompt.media)
        sequence = processor.encode_prompt(prompt, media)
        check_length(model, sequence, decoding)
    except RecordError as error:
        return error
    return _Open(sequence, media)
