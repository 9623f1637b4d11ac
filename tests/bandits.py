"""A policy and prompts of a few tokens, on which what a method must learn is known beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_ixc.backbone import BackboneSource, Miniature, freeze
from lit_ixc.batch import ComparisonBatch, EncodedMedia, EncodedPrompt, EncodedSequence, PromptBatch
from lit_ixc.controllers import FixedKL
from lit_ixc.critic import Critic, CriticFrom
from lit_ixc.engines import RolloutEngine
from lit_ixc.generation import Drawn
from lit_ixc.heads import LastToken, LinearHead
from lit_ixc.modes import without_dropout
from lit_ixc.ppo import Estimates, PPOModule
from lit_ixc.records import Comparison, MediaPart, Message, Prompt, text_message
from lit_ixc.reward_signal import RewardSignal
from lit_ixc.rewards.interface import Episode, Judgement, Reward, Step, unjudged
from lit_ixc.rollout import Rollout

VOCABULARY, STOP = 24, 2
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vision_hidden_size": 32,
    "vision_layers": 1,
}


class Letters:
    """A processor whose text is the ids themselves, written as letters: id 7 is ``h``; b, c and g are no text."""

    pad_token_id, image_token_id, stop_ids, media_settings = 2, 6, (STOP,), ""

    def encode_media(self, media: Sequence[MediaPart]) -> EncodedMedia:
        return EncodedMedia((), {})

    def encode_prompt(self, prompt: Prompt, media: EncodedMedia) -> EncodedSequence:
        ids = [1, *(ord(letter) - 97 for letter in prompt.messages[-1].text)]
        return EncodedSequence(ids, [False] * len(ids), [False] * len(ids), len(ids), len(ids))

    def encode_conversation(
        self, prompt: Prompt, response: Sequence[Message], media: EncodedMedia, ending: str
    ) -> EncodedSequence:
        start = self.encode_prompt(prompt, media)
        ids = [*start.ids, *(ord(letter) - 97 for letter in response[-1].text), STOP]
        length, before = len(ids), len(start.ids)
        return EncodedSequence(ids, [False] * length, [at >= before for at in range(length)], before, length - 1)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(97 + token) for token in ids if token not in (STOP, 1, 6))

    def unwritable(self, vocabulary: int) -> Tensor:
        return torch.isin(torch.arange(vocabulary), torch.tensor([1, 6]))

    def save_pretrained(self, folder: Any) -> None:
        pass


class Wanted(Reward):
    """1 for an answer that begins with the letter behind the prompt's last one, else 0."""

    def __call__(self, episodes: Sequence[Episode]) -> list[Judgement]:
        return [Judgement(float(self.right(episode))) for episode in episodes]

    def right(self, episode: Episode) -> bool:
        return episode.text[:1] == chr(ord(episode.record.prompt.messages[-1].text[-1]) + 1)


def prompt(text: str) -> EncodedPrompt:
    """A prompt of letters."""
    record = Comparison(
        text, Prompt((text_message("user", text),)), ((text_message("assistant", "h"),),), (0,), source="made"
    )
    return EncodedPrompt(
        record, Letters().encode_prompt(record.prompt, EncodedMedia((), {})), EncodedMedia((), {}), "made"
    )


class Prompts(L.LightningDataModule):
    """The same prompts in every batch."""

    max_length = test_max_length = 64

    @property
    def processor(self) -> Any:
        """The policy's, whatever it is."""
        return self.trainer.lightning_module.processor

    def __init__(
        self,
        texts: Sequence[str],
        batches: int,
        held_out: Sequence[str] = (),
        demonstrations: ComparisonBatch | None = None,
    ) -> None:
        super().__init__()
        self.texts, self.batches, self.held_out, self.batch_size = texts, batches, held_out, len(texts)
        self.demonstrations = demonstrations

    def train_dataloader(self) -> Any:
        batch = self.batch(self.texts)
        batch.demonstrations = self.demonstrations
        return DataLoader([batch] * self.batches, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return DataLoader([self.batch(self.held_out)], batch_size=None) if self.held_out else []  # type: ignore[arg-type]

    @staticmethod
    def batch(texts: Sequence[str]) -> PromptBatch:
        return PromptBatch(prompts=tuple(map(prompt, texts)), demonstrations=None)


class Small(Miniature):
    """A policy of a few thousand weights."""

    def __init__(self, seed: int = 0, **sizes: Any) -> None:
        super().__init__(seed, **SIZES | sizes)


class Table(Reward):
    """The score of each answer by its text, with the rewards of its steps; texts that are missing are not judged."""

    def __init__(self, scores: dict[str, float], steps: dict[str, Sequence[Step]] | None = None) -> None:
        super().__init__()
        self.scores, self.steps = scores, steps or {}

    def __call__(self, episodes: Sequence[Episode]) -> list[Judgement]:
        return [
            Judgement(self.scores[one.text], "", tuple(self.steps.get(one.text, ())))
            if one.text in self.scores
            else unjudged("unknown")
            for one in episodes
        ]


class Scripted(RolloutEngine):
    """Gives the same answers in every rollout: words of letters, each ended by the stop token unless it ends in ``…``.

    Args:
        groups: The answers to each prompt.
    """

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        self.groups = groups

    def generate(self, model: Any, processor: Any, prompts: Any, names: Any, n: int, *rest: Any) -> list[list[Drawn]]:
        return [[drawn(word) for word in group] for group in self.groups[: len(prompts)]]


def drawn(word: str) -> Drawn:
    """A sampled answer with invented log-probabilities."""
    cut = word.endswith("…")
    ids = tuple(ord(letter) - 97 for letter in word.removesuffix("…")) + (() if cut else (STOP,))
    return Drawn(ids, (0.0,) * len(ids), "length" if cut else "stop")


class NewCritic(CriticFrom):
    """A critic that has learned nothing yet, of the policy's size or on a given miniature of width 32."""

    def __init__(self, lr: float = 3e-3, source: BackboneSource | None = None) -> None:
        super().__init__("unused", backbone=source or Small(seed=1), lr=lr)

    def load(self, attention: Any = "auto") -> Critic:
        assert self.backbone is not None
        model = self.backbone.load(lm_head=False)
        freeze(model, vision=True, projector=True, language=False)
        without_dropout(model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return Critic(model, LinearHead(32, LastToken()), "unused", attention)

    def check(self, policy: Any) -> None:
        pass  # there is no folder to compare with


class Watch(L.Callback):
    """Keeps the weights before and the gradients at each optimizer step, the rollouts and what is known of them."""

    def __init__(self) -> None:
        self.before: list[dict[str, Tensor]] = []
        self.gradients: list[dict[str, Tensor | None]] = []
        self.rollouts: list[Rollout] = []
        self.estimates: list[Estimates] = []
        self.logged: list[dict[str, float]] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, module: Any, optimizer: Any) -> None:
        self.before.append(copied(module))
        named = module.named_parameters()
        self.gradients.append({name: None if p.grad is None else p.grad.clone() for name, p in named})

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *rest: Any) -> None:
        self.rollouts.append(module.last[0])
        self.estimates.append(module.last[1])
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def copied(module: torch.nn.Module) -> dict[str, Tensor]:
    """Copies of a module's weights and buffers."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def ppo(**options: Any) -> PPOModule:
    """A small policy that learns the letters' bandit, unless the options say otherwise."""
    signal = options.pop("signal", None) or RewardSignal({"wanted": Wanted()}, kl=FixedKL(0.0))
    defaults: dict[str, Any] = {"lr": 5e-3, "schedule": "constant", "warmup_ratio": 0.0, "max_new_tokens": 2}
    backbone, processor = options.pop("backbone", None) or Small(), options.pop("processor", None) or Letters()
    return PPOModule(backbone, processor, signal, **defaults | options)


def trainer(folder: Path, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    """A trainer of one epoch that writes nothing."""
    defaults: dict[str, Any] = {"max_epochs": 1, "enable_checkpointing": False, "logger": False}
    return L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **defaults | options,
    )


def fit(
    policy: PPOModule, folder: Path, texts: Sequence[str], rollouts: int = 1, *callbacks: L.Callback, **options: Any
) -> Watch:
    """Train on the same prompts in every rollout."""
    watch = Watch()
    trainer(folder, watch, *callbacks, **options).fit(policy, Prompts(texts, rollouts))
    return watch


def rollout_of(
    words: Sequence[str], samples: int, scores: Sequence[float] = (), steps: Tensor | None = None, **tensors: Any
) -> Rollout:
    """A rollout of given words; NaN scores stand for answers that were left out. Log-probabilities default to 0."""
    answers = [drawn(word) for word in words]
    longest = max(len(one.ids) for one in answers)
    mask = torch.tensor([[at < len(one.ids) for at in range(longest)] for one in answers])
    values = torch.tensor(scores or [0.0] * len(words))
    prompts = tuple(prompt("h") for _ in range(len(words) // samples))
    owners = [one for one in prompts for _ in range(samples)]
    episodes = tuple(
        Episode(owner.record, Letters().decode(one.ids), one.ids, one.finish == "stop", owner.media)
        for owner, one in zip(owners, answers, strict=True)
    )
    defaults: dict[str, Any] = {"logprobs": torch.zeros(mask.shape), "reference": None, "values": None, "parts": {}}
    return Rollout(
        prompts=prompts,
        answers=tuple(one.ids for one in answers),
        mask=mask & ~values.isnan()[:, None],
        scores=values.nan_to_num(),
        steps=torch.zeros(mask.shape) if steps is None else steps,
        ended=torch.tensor([one.finish == "stop" for one in answers]),
        episodes=episodes,
        reasons=tuple("unknown" if math.isnan(value) else "" for value in values.tolist()),
        **defaults | tensors,
    )
