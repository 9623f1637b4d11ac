"""PPO on two processes: what one process comes to, the same with weights in shards, and no process waits for ever."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ppo_runs
import pytest
import torch
from bandits import Letters, copied, prompt
from torch import Tensor
from two_processes import run_two

from lit_ixc.answered import answer_logprobs, lay_out
from lit_ixc.backbone import Pretrained
from lit_ixc.ppo import PPOModule

SCRIPT = Path(ppo_runs.__file__)
# What differs from run to run, or says something of processes alone.
OWN = ("speed", "first_ratio")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    run_two(SCRIPT, out)
    return out


def found(folder: Path) -> list[dict[str, Any]]:
    """What each process has seen."""
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def assert_equal_weights(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, tensor in other.items():
        torch.testing.assert_close(one[name], tensor, atol=tolerance, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


def comparable(logged: dict[str, float]) -> dict[str, Any]:
    return {
        name: pytest.approx(value, rel=1e-3, abs=2e-5, nan_ok=True)
        for name, value in logged.items()
        if not any(word in name for word in OWN)
    }


@pytest.mark.parametrize("name", ppo_runs.JOINED)
def test_two_processes_do_what_one_does_with_the_prompts_of_both(name: str, runs: Path, tmp_path: Path) -> None:
    """Weights, KL coefficient, moments, the critic's units, and every number of the log, rollout by rollout."""
    policy, data = ppo_runs.JOINED[name](0, 1)
    ppo_runs.run(tmp_path, policy, data)
    one, two = torch.load(tmp_path / "0.pt"), found(runs / "joined" / name)
    assert_equal_weights(two[0]["weights"], two[1]["weights"], 0.0)
    assert_equal_weights(two[0]["weights"], one["weights"], 1e-6)
    for number, alone in enumerate(one["rollouts"]):
        halves = [process["rollouts"][number] for process in two]
        assert halves[0]["answers"] + halves[1]["answers"] == alone["answers"]
        assert [half["steps"] for half in halves] == [alone["steps"]] * 2
        for half in halves:
            logged = {key: value for key, value in half["logged"].items() if not any(word in key for word in OWN)}
            assert logged == comparable(alone["logged"])
    assert two[0]["val"] == pytest.approx(one["val"], rel=1e-4) and two[1]["val"] == two[0]["val"]


def test_these_runs_see_what_they_are_for(runs: Path) -> None:
    """Warm-up, an early stop, a process without one answer that counts, and state that has moved."""
    ppo, whole, holes = (found(runs / "joined" / name)[1] for name in ("ppo", "whole", "holes"))
    assert (
        "train/policy/loss" not in ppo["rollouts"][0]["logged"] and "train/policy/loss" in ppo["rollouts"][1]["logged"]
    )
    assert [one["steps"] for one in ppo["rollouts"]] == [4, 8, 12]
    assert [one["steps"] for one in whole["rollouts"]] == [2, 4, 6]  # of 3: the second step sees the first
    # second rollout: all 4 of the second process, of the first's 4 an empty one: 1 of 4 texts and 5 of 8
    assert holes["rollouts"][1]["logged"]["train/answers/left_out"] == pytest.approx(5 / 8)
    assert holes["rollouts"][1]["logged"]["train/left_out/table:unknown"] == pytest.approx(4 / 8)
    state = ppo["weights"]
    assert state["signal.kl.coefficient"] != 0.3 and state["critic.units"].tolist() != [0.0, 1.0]
    assert state["signal.moments.count"] == 3 * 8 - 3  # three empty answers


def test_the_table_of_a_test_is_printed_once_with_the_answers_of_all(runs: Path) -> None:
    """``h``: i, i (3, 3); ``jk``: la, empty (2, left out); ``lmn``: qq, d (2.5, 0.25); with their ends 13 tokens.

    The first process has two batches, the second one.
    """
    tables = [
        [
            line.split()
            for line in (runs / f"log{rank}").read_text().splitlines()
            if line.startswith(("made  ", "all  "))
        ]
        for rank in range(2)
    ]
    reward, tokens = f"{10.75 / 5:.3f}", f"{13 / 6:.3f}"
    assert [(line[0], line[1], line[3], line[-1]) for line in tables[0]] == [
        ("made", reward, tokens, reward), ("all", reward, tokens, reward),
    ]  # fmt: skip
    assert tables[1] == []


def test_processes_whose_clocks_differ_step_at_one_rate(runs: Path) -> None:
    """The schedule goes by the time that has passed, and the run ends behind the same rollout."""
    one, other = found(runs / "timed")
    assert len(one["rollouts"]) == len(other["rollouts"]) > 3 and one["rollouts"][-1]["steps"] < 1000
    assert_equal_weights(one["weights"], other["weights"], 0.0)


@pytest.mark.parametrize("name", ppo_runs.SAMPLED)
def test_sharded_weights_come_to_what_ddp_comes_to(name: str, runs: Path) -> None:
    """Real sampling, a process without images, unequal prompts, answers and held-out batches."""
    ddp, shards = found(runs / "ddp" / name), found(runs / "sharded" / name)
    for whole, parts in zip(ddp, shards, strict=True):
        for one, other in zip(whole["rollouts"], parts["rollouts"], strict=True):
            assert one["answers"] == other["answers"] and one["steps"] == other["steps"]
            assert len(one["answers"]) == 3 * 2  # the first process takes a prompt twice
            assert one["steps"] <= (9 if name == "whole" else 12)  # of 12: updates end early
            assert {n: v for n, v in other["logged"].items() if not any(w in n for w in OWN)} == comparable(
                one["logged"]
            )
        assert parts["val"] == pytest.approx(whole["val"], abs=1e-5) and "val/rewards/wanted/all" in parts["val"]
    lengths = [{len(answer) for one in process["rollouts"] for answer in one["answers"]} for process in ddp]
    assert len(lengths[0] | lengths[1]) > 2
    assert_equal_weights(shards[0]["weights"], shards[1]["weights"], 0.0)
    # DDP's process 0 has merged its adapters in place to export them
    assert_equal_weights(shards[0]["weights"], ddp[1]["weights"], 1e-5)
    for process in (*ddp, *shards):
        ours = [one["logged"] for one in process["rollouts"]]
        theirs = [one["logged"] for one in (ddp if process in ddp else shards)[0]["rollouts"]]
        assert ours == theirs


@pytest.mark.parametrize("kind", ["ddp", "sharded"])
@pytest.mark.parametrize("name", ppo_runs.SAMPLED)
def test_the_export_is_the_policy_that_was_trained(kind: str, name: str, runs: Path) -> None:
    """The same log-probabilities of answers to a prompt with an image, and the same critic."""
    policy: PPOModule = ppo_runs.sampled(1, **ppo_runs.SAMPLED[name])[0]
    policy.build()
    policy.load_state_dict(found(runs / kind / name)[1]["weights"])
    exported = Pretrained(str(runs / kind / name / "export")).load(lm_head=True)
    prompts, answers = [ppo_runs.with_image("lm", 0), prompt("pq")], [(7, 8, 2), (3, 2)]
    answered = lay_out(prompts, answers, 3, Letters.pad_token_id, torch.device("cpu"))
    with torch.no_grad():
        ours, theirs = (answer_logprobs(model.eval(), answered, 1.0)[0] for model in (policy.model, exported))
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
        if policy.critic is not None:
            critic = Pretrained(str(runs / kind / name / "export" / "critic")).load(lm_head=False)
            assert_equal_weights(copied(critic), copied(policy.critic.model), 1e-6)


@pytest.mark.parametrize("kind", ["ddp", "sharded"])
def test_a_run_goes_on_from_a_checkpoint(kind: str, runs: Path) -> None:
    """Two rollouts, a restart, two more: as four at a stretch, to the last bit, in both processes."""
    for straight, resumed in zip(found(runs / kind / "straight"), found(runs / kind / "resumed"), strict=True):
        assert [one["answers"] for one in resumed["rollouts"]] == [one["answers"] for one in straight["rollouts"][2:]]
        for one, other in zip(straight["rollouts"][2:], resumed["rollouts"], strict=True):
            for name in one["logged"]:
                value, again = one["logged"][name], other["logged"][name]
                assert "speed" in name or value == again or (math.isnan(value) and math.isnan(again)), name
        assert_equal_weights(resumed["weights"], straight["weights"], 0.0)
