"""The alignment study: its numbers by hand, its chain of commands, its pace."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def study(request: pytest.FixtureRequest) -> Iterator[dict[str, ModuleType]]:
    """The study's modules, which import one another as a script's neighbours."""
    folder = str(Path(__file__).resolve().parents[2] / "experiments" / "alignment")
    sys.path.insert(0, folder)
    names = ("answers", "summary", "chain", "report", "figure", "pace", "speed", "evaluate")
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(folder)
    for name in names:
        del sys.modules[name]


def _answers(study: dict[str, ModuleType], *rows: list[tuple[bool, int, float, float]]) -> list[list[Any]]:
    """Judged answers of (right, tokens, reward, log ratio), all ended by the policy."""
    judged = study["answers"].Judged
    return [[judged(right, tokens, True, reward, ratio) for right, tokens, reward, ratio in row] for row in rows]


def test_summary_by_hand(study: dict[str, ModuleType]) -> None:
    """Prompt 1 (text): right and wrong, prompt 2 (image): both right; an empty answer has no reward."""
    answers = _answers(
        study, [(True, 2, 1.0, 0.5), (False, 4, math.nan, 0.1)], [(True, 6, 3.0, 0.0), (True, 8, 5.0, 0.2)]
    )
    found = study["summary"].summarise(answers, ["text", "image"], ["a", "b"])
    assert found["truth"] == 0.75  # (1/2 + 1) / 2
    assert found["by modality"] == {"image": 1.0, "text": 0.5} and found["by set"] == {"a": 0.5, "b": 1.0}
    assert found["reward"] == 3.0  # (1 + 3 + 5) / 3
    assert found["kl"] == pytest.approx(0.2) and found["tokens"] == 5 and found["ended"] == 1
    assert found["empty"] == 0.25


def test_duels_count_ties_half(study: dict[str, ModuleType]) -> None:
    """Won, lost, both right, both wrong: won 1/4, lost 1/4, rate 1/2; against itself all ties."""
    ours = _answers(study, [(True, 1, 0.0, 0.0), (False, 1, 0.0, 0.0)], [(True, 1, 0.0, 0.0), (False, 1, 0.0, 0.0)])
    theirs = _answers(study, [(False, 1, 0.0, 0.0), (True, 1, 0.0, 0.0)], [(True, 1, 0.0, 0.0), (False, 1, 0.0, 0.0)])
    duels = study["summary"].duels
    assert duels(ours, theirs) == {"won": 0.25, "lost": 0.25, "rate": 0.5}
    assert duels(ours, ours) == {"won": 0.0, "lost": 0.0, "rate": 0.5}
    better = _answers(study, [(True, 1, 0.0, 0.0)] * 2, [(True, 1, 0.0, 0.0)] * 2)
    assert duels(better, theirs) == {"won": 0.5, "lost": 0.0, "rate": 0.75}


def test_best_of_n_by_hand(study: dict[str, ModuleType]) -> None:
    """Rewards 1, 2, 3, of which the second is right.

    n = 1: truth 1/3. n = 2: of the pairs (1, 2), (1, 3), (2, 3) the best are 2, 3, 3: truth 1/3, reward 8/3, tokens
    (20 + 30 + 30) / 3. n = 3: the third. An empty answer ranks below all.
    """
    answers = _answers(study, [(False, 30, 3.0, 0.0), (False, 10, 1.0, 0.0), (True, 20, 2.0, 0.0)])
    best_of = study["summary"].best_of
    one, two, three = (best_of(answers, n) for n in (1, 2, 3))
    assert one["truth"] == pytest.approx(1 / 3) and one["reward"] == pytest.approx(2.0) and one["kl"] == 0
    assert two["truth"] == pytest.approx(1 / 3) and two["reward"] == pytest.approx(8 / 3)
    assert two["tokens"] == pytest.approx(80 / 3) and two["kl"] == pytest.approx(math.log(2) - 0.5)
    assert three["truth"] == 0 and three["reward"] == 3
    empty = _answers(study, [(False, 1, math.nan, 0.0), (True, 3, -9.0, 0.0)])
    assert best_of(empty, 2)["truth"] == 1 and best_of(empty, 2)["reward"] == -9


def test_lengths_compare_answers_to_the_same_prompt(study: dict[str, ModuleType]) -> None:
    """A prompt without wrong answers says nothing; of the others right ones have 2 and 6 tokens, wrong ones 4 and 9."""
    answers = _answers(
        study,
        [(True, 50, 0.0, 0.0), (True, 60, 0.0, 0.0)],
        [(True, 2, 0.0, 0.0), (False, 4, 0.0, 0.0)],
        [(True, 6, 0.0, 0.0), (False, 9, 0.0, 0.0)],
    )
    assert study["evaluate"].lengths(answers) == {"right": 4.0, "wrong": 6.5}


def test_spread(study: dict[str, ModuleType]) -> None:
    assert study["summary"].spread([1.0, 2.0, 3.0]) == (2.0, 1.0)  # sqrt((1 + 0 + 1) / 2)
    assert study["summary"].spread([5.0]) == (5.0, 0.0)


def test_a_stage_runs_once_and_says_why_it_failed(study: dict[str, ModuleType], tmp_path: Path) -> None:
    stage = study["chain"].Stage("count", tmp_path, ["-c", f"open({str(tmp_path / 'n')!r}, 'a').write('x')"])
    stage.run(tmp_path)
    stage.run(tmp_path)
    assert (tmp_path / "n").read_text() == "x" and min(stage.seconds()) >= 0
    broken = study["chain"].Stage("broken", tmp_path, ["-c", "raise SystemExit('no such thing')"])
    with pytest.raises(RuntimeError, match="broken failed:\nno such thing"):
        broken.run(tmp_path)
    assert not broken.mark.exists()


def test_chain_trains_on_its_own_seed_and_never_on_heldout(study: dict[str, ModuleType], tmp_path: Path) -> None:
    chain = study["chain"].stages(tmp_path, 7, ("ppo", "dpo"))
    assert [stage.name for stage in chain] == ["sft", "pairs", "heldout_pairs", "reward", "ppo", "dpo", "evaluate"]
    for stage in chain:
        line = " ".join(stage.command)
        assert ("heldout" in line) == (stage.name in ("heldout_pairs", "evaluate")), stage.name
        assert str(tmp_path / "seed7") in line
        if "fit" in stage.command:
            assert line.count("--seed_everything 7") == 1


def _seed(number: float) -> dict[str, Any]:
    """An evaluation in the form of evaluation.json."""

    def policy(truth: float, tokens: float) -> dict[str, Any]:
        found = {
            "truth": truth,
            "by modality": {"image": truth, "text": truth, "video": truth},
            "by set": {"scenes": truth},
            "reward": number,
            "empty": 0.0,
            "kl": 0.5,
            "tokens": tokens,
            "ended": 1.0,
            "against sft": {"won": 0.3, "lost": 0.1, "rate": 0.6},
        }
        return {"sampled": found, "greedy": found, "curve": [{"step": 5, **found}]}

    best = [{"n": n, "truth": 0.7, "reward": 1.0, "tokens": 4.0, "kl": math.log(n) - (n - 1) / n} for n in (1, 8)]
    return {
        "seed": number,
        "seconds": {"sft": (10.0, 9.0), "ppo": (20.0, 19.0)},
        "reward model": {"all": 0.8, "pairs": 10, "scenes": 0.8},
        "best of n": best,
        "sft": policy(0.5 + number / 100, 4.0),
        "ppo": policy(0.62 + number / 100, 4.2),
    }


def test_report_says_what_was_reached(study: dict[str, ModuleType], tmp_path: Path) -> None:
    """Truth .50, .51, .52 and 12 points more; 4.2 tokens of 4 are 5 % more."""
    results = {"methods": ["ppo"], "seeds": [_seed(0), _seed(1), _seed(2)]}
    text = study["report"].report(results)
    assert "| SFT | 51.0 ± 1.0 |" in text and "| PPO | 63.0 ± 1.0 |" in text
    assert "| PPO | +12.0 | reached | +5.0 | reached |" in text
    assert "| clock | 10 | 20 | 30 |" in text
    study["figure"].draw(results, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_pace_counts_steps_and_parts(tmp_path: Path, repository: Path) -> None:
    """The process answers once for its facts and once for each command."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import time\nfrom pace import Pace\n"
        "pace = Pace(2, size=3)\nnap = pace.timed('nap', lambda: time.sleep(0.02))\n"
        "while True:\n    pace.boundary()\n    nap()\n    print('noise')\n"
    )
    environment = {"PYTHONPATH": str(repository / "experiments" / "alignment"), "PATH": ""}
    done = subprocess.run(
        [sys.executable, str(script)], input="go 2\ngo 1\n", capture_output=True, text=True, env=environment
    )
    first, two, one = map(json.loads, done.stdout.splitlines())
    assert first == {"size": 3} and done.returncode == 0
    assert two["parts"]["nap"] >= 0.04 and 0.02 <= one["parts"]["nap"] <= one["seconds"] and one["peak_mb"] > 1


def test_rates_by_hand(study: dict[str, ModuleType]) -> None:
    """32 answers of 32 tokens in 1 s, 4 epochs of 32 in 4 s, 8 s in all: 1024 tokens/s, 32 samples/s, 4 episodes/s."""
    run = {"seconds": 8.0, "parts": {"generation": 1.0, "update": 4.0}, "peak_mb": 100.0}
    found = study["speed"].rates([run], {"batch": 8, "samples": 4, "response": 32, "epochs": 4})
    assert (found["rollout_tokens_per_s"], found["update_samples_per_s"], found["episodes_per_s"]) == (1024, 32, 4)
    assert found["other_s"] == 3
