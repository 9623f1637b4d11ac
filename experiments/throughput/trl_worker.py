"""``python trl_worker.py SPEC``: steps of TRL's RewardTrainer on request, in the peer's own environment.

It imports nothing of lit_ixc. The README says how to make the environment.
"""

from __future__ import annotations

import json
import sys
import tempfile
from typing import Any

import torch
from datasets import Dataset
from pace import Pace, random_pairs
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForSequenceClassification, TrainerCallback
from trl import RewardConfig, RewardTrainer
from trl import __version__ as trl_version


class Turns(TrainerCallback):
    """Hands every step's beginning to the pace."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """The batch is there, nothing of the step is computed."""
        self.pace.boundary()


def main(spec: dict[str, Any]) -> None:
    """Train until the input ends.

    Args:
        spec: See ``peers.Worker``.
    """
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    model = Qwen2ForSequenceClassification(Qwen2Config(**spec["model"], num_labels=1))
    # Pretokenised rows never reach it; the trainer asks it for the id at padding.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1}, "<pad>")), pad_token="<pad>", eos_token="<eos>"
    )
    pairs = random_pairs(spec)
    rows = {"chosen_ids": [p + c for p, c, _ in pairs], "rejected_ids": [p + r for p, _, r in pairs]}
    pace = Pace(spec["threads"], version=trl_version, parameters=sum(p.numel() for p in model.parameters()))
    with tempfile.TemporaryDirectory() as folder:
        options = RewardConfig(
            output_dir=folder,
            per_device_train_batch_size=spec["pairs"],
            max_steps=10**6,
            bf16=False,
            gradient_checkpointing=False,
            learning_rate=spec["lr"],
            weight_decay=0.1,
            adam_beta2=0.95,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            logging_steps=10,
        )
        trainer = RewardTrainer(
            model, options, train_dataset=Dataset.from_dict(rows), processing_class=tokenizer, callbacks=[Turns(pace)]
        )
        trainer.train()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
