"""``python trl_worker.py SPEC``: steps of TRL's experimental PPOTrainer on request, in the peer's own environment.

It imports nothing of lit_ixc. The README says how to make the environment.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
from datasets import Dataset
from pace import GENERATION, UPDATE, Pace, random_prompts
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    TrainerCallback,
)
from trl import __version__ as trl_version
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


class Turns(TrainerCallback):
    """Hands the beginning of every step to the pace, and the time from its first forward pass with gradients on."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.update: float | None = None

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is computed yet."""
        self.pace.boundary()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """The weights are new, the metrics logged."""
        self.pace.add(UPDATE, self.pace.now() - self.update)
        self.update = None
        self.pace.boundary()

    def watch(self, forward: Any) -> Any:
        """The trainer's forward pass; the first one of a step that records gradients begins the update."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled() and self.update is None:
                self.update = self.pace.now()
            return forward(*args, **kwargs)

        return call


def check_lengths(generate: Any, response: int) -> Any:
    """The trainer's generation, which must not stop early."""

    def call(*args: Any, **kwargs: Any) -> Any:
        sequences, logits = generate(*args, **kwargs)
        if logits.shape[1] != response:
            raise RuntimeError(f"{logits.shape[1]} new tokens in place of {response}")
        return sequences, logits

    return call


def main(spec: dict[str, Any]) -> None:
    """Train until the input ends.

    Args:
        spec: See ``speed.Worker``.
    """
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    language, scorer = Qwen2Config(**spec["model"]), Qwen2Config(**spec["model"], num_labels=1)
    policy, reference = Qwen2ForCausalLM(language), Qwen2ForCausalLM(language)
    reference.load_state_dict(policy.state_dict())
    reward, value = Qwen2ForSequenceClassification(scorer), Qwen2ForSequenceClassification(scorer)
    # Pretokenised prompts never reach it; the trainer asks it for padding.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1}, "<pad>")),
        pad_token="<pad>",
        eos_token="<eos>",
        padding_side="left",
    )
    sizes = {
        name: sum(p.numel() for p in model.parameters()) for name, model in (("policy", policy), ("reward", reward))
    }
    pace = Pace(spec["threads"], version=trl_version, **sizes)
    turns = Turns(pace)
    ppo_trainer.batch_generation = pace.timed(GENERATION, check_lengths(ppo_trainer.batch_generation, spec["response"]))
    ppo_trainer.forward = turns.watch(ppo_trainer.forward)
    prompts = random_prompts(8 * spec["batch"], spec["prompt"], spec["model"]["vocab_size"])
    with tempfile.TemporaryDirectory() as folder:
        options = PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=spec["batch"],
            num_mini_batches=1,
            num_ppo_epochs=spec["epochs"],
            total_episodes=10**6 * spec["batch"],
            response_length=spec["response"],
            learning_rate=spec["lr"],
            kl_coef=0.05,
            bf16=False,
            gradient_checkpointing=False,
            num_sample_generations=0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            logging_steps=10**6,
        )
        trainer = PPOTrainer(
            args=options,
            processing_class=tokenizer,
            model=policy,
            ref_model=reference,
            reward_model=reward,
            value_model=value,
            train_dataset=Dataset.from_dict({"input_ids": prompts}),
            callbacks=[turns],
        )
        trainer.train()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
