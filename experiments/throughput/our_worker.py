"""``python our_worker.py SPEC``: steps of RewardModule under Lightning's Trainer on request, beside trl_worker.py."""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from typing import Any

import lightning as L
import torch
from pace import Pace, random_pairs
from torch.utils.data import DataLoader

from lit_ixc.backbone import RandomWeights
from lit_ixc.batch import EncodedComparison, EncodedMedia, EncodedSequence
from lit_ixc.layout import collate
from lit_ixc.reward import RewardModule


class Turns(L.Callback):
    """Hands every step's beginning to the pace."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """The batch is there, nothing of the step is computed."""
        self.pace.boundary()


def encode(prompt: list[int], chosen: list[int], rejected: list[int]) -> EncodedComparison:
    """A pair of token lists as the loader's comparison."""
    sequences = []
    for answer in (chosen, rejected):
        ids = prompt + answer
        sequences.append(EncodedSequence(ids, [False] * len(ids), [False] * len(ids), len(prompt), len(ids)))
    lengths = (len(chosen), len(rejected))
    return EncodedComparison(
        "pair", "general", "random", "text", sequences, EncodedMedia((), {}), (0, 1), None, lengths
    )


def main(spec: dict[str, Any]) -> None:
    """Train until the input ends.

    Args:
        spec: See ``peers.Worker``.
    """
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    module = RewardModule(
        RandomWeights({"model_type": "qwen2", **spec["model"]}), lr=spec["lr"], warmup_ratio=0.0, schedule="constant"
    )
    module.configure_model()
    pace = Pace(spec["threads"], version=L.__version__, parameters=sum(p.numel() for p in module.parameters()))
    tokens = spec["pairs"] * (spec["prompt"] + 2 * spec["response"])
    loader = DataLoader(
        [encode(*pair) for pair in random_pairs(spec)],  # type: ignore[arg-type]
        batch_size=spec["pairs"],
        shuffle=True,
        collate_fn=partial(collate, pad_token_id=0, row_tokens=tokens),
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="cpu",
            max_steps=10**6,
            max_epochs=-1,
            gradient_clip_val=1.0,  # as the peer's default
            log_every_n_steps=10,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[Turns(pace)],
        )
        trainer.fit(module, loader)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
