"""How much memory does PPO of a policy take, by what its four parts share? See README.md.

python experiments/alignment/memory.py --output DIR
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from our_worker import Data
from pace import peak_mb
from report import table

from lit_ixc.adapters import Lora
from lit_ixc.backbone import Miniature, Pretrained
from lit_ixc.batch import ChatProcessor, EncodedMedia, EncodedPrompt
from lit_ixc.critic import CriticFrom
from lit_ixc.head_files import save_head
from lit_ixc.heads import LastToken, LinearHead
from lit_ixc.ppo import PPOModule
from lit_ixc.processors import MiniatureProcessor, SavedProcessor
from lit_ixc.records import Comparison, Prompt, text_message
from lit_ixc.reward_signal import RewardSignal
from lit_ixc.rewards.learned import LearnedReward

SIZES = {"vocab_size": 1024, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12}
SIZES |= {"num_attention_heads": 8, "num_key_value_heads": 4, "vision_hidden_size": 64, "vision_layers": 2}
ADAPTERS = Lora(rank=16, alpha=16.0, dropout=0.0)
MODES = {
    "four": "policy, reference, critic, reward",
    "adapters": "adapters on the policy; critic, reward",
    "shared": "adapters on the policy and on the critic, whose backbone scores too",
}
PROMPTS, RESPONSE, STEPS = 4, 16, 2


def make_models(folder: Path) -> int:
    """Policy and reward model with random weights and their processor; gives the policy's parameters."""
    processor = MiniatureProcessor(str(folder / "processor"), vocab_size=SIZES["vocab_size"])
    processor.prepare(lambda: [" ".join(str(number) for number in range(2000))])
    policy = Miniature(seed=0, **SIZES).load(lm_head=True)
    reward = Miniature(seed=0, **SIZES).load(lm_head=False)
    torch.manual_seed(0)
    for name, model in (("policy", policy), ("reward", reward)):
        model.save_pretrained(folder / name)
        processor.processor.save_pretrained(folder / name)
    save_head(LinearHead(SIZES["hidden_size"], LastToken()), folder / "reward")
    return sum(parameter.numel() for parameter in policy.parameters())


def train(folder: Path, mode: str) -> float:
    """Two rollouts and their updates; gives the highest resident memory of this process in MB."""
    processor = cast(ChatProcessor, SavedProcessor(str(folder / "policy")))
    nothing = EncodedMedia((), {})
    prompts = []
    for index in range(PROMPTS * STEPS):
        prompt = Prompt((text_message("user", " ".join(str(index + step) for step in range(16))),))
        record = Comparison(str(index), prompt, ((text_message("assistant", "1"),),), (0,))
        prompts.append(EncodedPrompt(record, processor.encode_prompt(prompt, nothing), nothing, "numbers"))
    path = str(folder / "reward")
    module = PPOModule(
        Pretrained(str(folder / "policy")),
        processor,
        RewardSignal({"learned": LearnedReward(path, share_with_critic=mode == "shared")}),
        critic=CriticFrom(path, lora=ADAPTERS if mode == "shared" else None),
        lora=ADAPTERS if mode != "four" else None,
        max_new_tokens=RESPONSE,
        microbatch_prompts=PROMPTS,
        schedule="constant",
        warmup_ratio=0.0,
    )
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with tempfile.TemporaryDirectory() as root:
        trainer = L.Trainer(accelerator="cpu", max_steps=STEPS, max_epochs=-1, default_root_dir=root, **quiet)
        trainer.fit(module, datamodule=Data(prompts, PROMPTS, processor))
    return peak_mb()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each mode in a process of its own, write memory.json, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--output", type=Path, required=True, help="folder of memory.json")
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    models = args.output / "models"
    if args.mode:
        torch.set_num_threads(1)
        print(train(models, args.mode))
        return
    parameters = make_models(models)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    found = {}
    for mode in MODES:
        command = [sys.executable, __file__, "--output", str(args.output), "--mode", mode]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found[mode] = float(done.stdout.splitlines()[-1])
    (args.output / "memory.json").write_text(json.dumps({"parameters": parameters, "peak_mb": found}, indent=1) + "\n")
    print(f"{parameters / 1e6:.1f}M parameters in each model")
    print(table(["in memory", "peak MB"], [[MODES[mode], f"{mb:.0f}"] for mode, mb in found.items()]))


if __name__ == "__main__":
    main()
