"""Evaluate the policies of one seed on held-out prompts; writes evaluation.json beside them. ``run.py`` starts it.

python experiments/alignment/evaluate.py --seed-folder DIR --heldout CORPUS/heldout --methods ppo dpo
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from answers import Examiner, load_policy
from summary import Answers, best_of, duels, mean, summarise
from transformers import PreTrainedModel

from datamodules.conversion import Options
from datamodules.corpus import open_sets
from lit_ixc.records import RecordError

SAMPLES, OF_SFT, ON_THE_WAY = 4, 16, 2  # answers of each prompt


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--seed-folder", type=Path, required=True, help="folder of the seed's stages")
    parser.add_argument("--heldout", type=Path, required=True, help="held-out part of the corpus")
    parser.add_argument("--methods", nargs="*", required=True, help="folders of the policies beside sft")
    parser.add_argument("--quick", action="store_true", help="few prompts")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    folder, prompts = args.seed_folder, 4 if args.quick else None
    examiner = Examiner(args.heldout, folder / "sft" / "export", folder / "reward" / "export", prompts)
    accuracy = reward_accuracy(examiner, folder / "heldout_pairs")
    result = {"reward model": accuracy, **policies(examiner, folder, args.methods)}
    (folder / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")


def policies(examiner: Examiner, folder: Path, methods: Sequence[str]) -> dict[str, Any]:
    """Every policy sampled and greedy, duels against SFT, best of N, and what the trainings passed through."""
    modalities = [row.record.modality for row in examiner.rows]
    sources = [row.source for row in examiner.rows]

    def described(answers: Answers, of_sft: Answers) -> dict[str, Any]:
        return summarise(answers, modalities, sources) | {"against sft": duels(answers, of_sft)}

    many = examiner.examine(examiner.sft, OF_SFT)
    sampled, greedy = [own[:SAMPLES] for own in many], examiner.examine(examiner.sft, 1, temperature=0)
    found: dict[str, Any] = {"sft": {"sampled": described(sampled, sampled), "greedy": described(greedy, greedy)}}
    found["sft"]["lengths"] = lengths(many)
    found["best of n"] = [best_of(many, n) for n in (1, 2, 4, 8, 16)]
    for name in methods:
        policy = load_policy(folder / name / "export")
        found[name] = {
            "sampled": described(examiner.examine(policy, SAMPLES), sampled),
            "greedy": described(examiner.examine(policy, 1, temperature=0), greedy),
            "curve": [
                {"step": step, **summarise(examiner.examine(policy, ON_THE_WAY), modalities, sources)}
                for step in loaded(policy, folder / name / "checkpoints")
            ],
        }
    return found


def lengths(answers: Answers) -> dict[str, float]:
    """Mean tokens of right and of wrong answers to the prompts that have both."""
    both = [own for own in answers if 0 < mean(own, lambda answer: answer.right) < 1]
    of = {
        name: [mean([a for a in own if a.right == right], lambda answer: answer.tokens) for own in both]
        for name, right in (("right", True), ("wrong", False))
    }
    return {name: sum(values) / max(1, len(values)) for name, values in of.items()}


def loaded(policy: PreTrainedModel, checkpoints: Path) -> Iterator[int]:
    """Put the weights of each checkpoint on the way into the policy, in order; gives their steps."""
    names = {path: re.search(r"step=(\d+)", path.name) for path in checkpoints.glob("*.ckpt")}
    found = {int(match[1]): path for path, match in names.items() if match}
    for step in sorted(found):
        state = torch.load(found[step], map_location="cpu", weights_only=True)["state_dict"]
        own = {name.removeprefix("model."): tensor for name, tensor in state.items() if name.startswith("model.")}
        policy.load_state_dict(own)
        yield step


def reward_accuracy(examiner: Examiner, pairs: Path) -> dict[str, float]:
    """Share of the held-out pairs in which the reward model prefers the right answer, by set."""
    right: dict[str, list[float]] = {}
    for name, rows in open_sets(pairs, None, None, Options()).items():
        comparisons = [rows.read_comparison(number) for number in range(len(rows))]
        for comparison, scores in zip(comparisons, examiner.scorer.scores(comparisons), strict=True):
            if isinstance(scores, RecordError):
                raise scores
            better, worse = (scores[comparison.ranks.index(rank)] for rank in (0, 1))
            right.setdefault(name.rpartition("/")[2], []).append((better > worse) + 0.5 * (better == worse))
    total = [value for own in right.values() for value in own]
    return {"all": sum(total) / len(total), "pairs": len(total)} | {n: sum(v) / len(v) for n, v in right.items()}


if __name__ == "__main__":
    main()
