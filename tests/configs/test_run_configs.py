"""Every run config parses, and the CPU ones train: two steps of both stages on a small corpus, then a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_ixc.cli import main

RUNS = sorted(Path(__file__).parents[2].glob("configs/run/*.yaml"))
MIXES = sorted(Path(__file__).parents[2].glob("configs/data/*.yaml"))
OVERLAYS = sorted(Path(__file__).parents[2].glob("configs/model/*.yaml"))
TRAINERS = sorted(Path(__file__).parents[2].glob("configs/trainer/*.yaml"))
CALLBACKS = [path for path in TRAINERS if "callbacks+" in path.read_text()]
SMALL = [
    "--trainer.max_steps=2",
    "--trainer.val_check_interval=2",
    "--trainer.limit_val_batches=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--data.init_args.batch_size=4",
    "--data.init_args.samples_per_epoch=16",
]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_run_config_is_valid(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The parser accepts it, references resolve, and an override of the root reaches the places that refer to it."""
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(path), "--trainer.default_root_dir", "elsewhere", "--print_config"])
    assert stop.value.code == 0
    assert "save_dir: elsewhere" in capsys.readouterr().out


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_that_keeps_its_best_state_keeps_its_last_one_too(path: Path) -> None:
    """ModelCheckpoint with a monitor writes ``save_last`` only beside a new best (lightning 2.6)."""
    callbacks = yaml.safe_load(path.read_text())["trainer"].get("callbacks", [])
    savers = [one["init_args"] for one in callbacks if one["class_path"].endswith("ModelCheckpoint")]
    if any("monitor" in saver for saver in savers):
        assert ["last"] == [saver["filename"] for saver in savers if "monitor" not in saver]
    assert not any("save_last" in saver for saver in savers)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_model_overlay_stacks_on_a_reward_run(overlay: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = next(path for path in RUNS if path.stem == "reward_real_cpu")
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(run), "--config", str(overlay), "--print_config"])
    assert stop.value.code == 0
    wanted = re.findall(r"class_path: (\S+)|rank: (\d+)", overlay.read_text())
    printed = capsys.readouterr().out
    assert wanted and all((name or f"rank: {rank}") in printed for name, rank in wanted)


@pytest.mark.parametrize("overlay", CALLBACKS, ids=lambda path: path.stem)
def test_callback_overlay_adds_to_those_of_a_run(overlay: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = next(path for path in RUNS if path.stem == "quickstart_reward")
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(run), "--config", str(overlay), "--print_config"])
    assert stop.value.code == 0
    printed = [entry["class_path"] for entry in yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]]
    own = [entry["class_path"] for entry in yaml.safe_load(run.read_text())["trainer"]["callbacks"]]
    assert printed == [*own, *re.findall(r"class_path: (\S+)", overlay.read_text())]


@pytest.mark.parametrize("overlay", sorted({*TRAINERS} - {*CALLBACKS}), ids=lambda path: path.stem)
def test_trainer_overlay_stacks_on_a_run(overlay: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = next(path for path in RUNS if path.stem == "reward_ixc25_7b")
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(run), "--config", str(overlay), "--print_config"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in re.findall(r"class_path: (\S+)", overlay.read_text()))


def test_the_feature_cache_changes_no_number(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs without it, with an empty one, and with what that run left there: the same losses, bit for bit."""
    configs = Path(__file__).parents[2] / "configs"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)  # the tiny model's processor is kept under runs/
    cache = ["--config", str(configs / "trainer" / "cache_features.yaml")]
    losses, hits = [], []
    for name, callback in (("without", []), ("empty", cache), ("filled", cache)):
        run = [str(configs / "run" / "quickstart_reward.yaml"), "--config", str(configs / "model" / "reward_tiny.yaml")]
        options = ["--trainer.default_root_dir", name, "--data.init_args.data_root", str(corpus / "train"), *SMALL]
        more = ["--trainer.max_steps=8", "--trainer.max_epochs=2", "--trainer.val_check_interval=4"]
        assert main(["fit", "--config", *run, *callback, *options, *more]) == 0
        board = EventAccumulator(str(tmp_path / name / "reward" / "version_0"))
        board.Reload()
        losses.append([event.value for event in board.Scalars("train/loss")])
        tags = board.Tags()["scalars"]
        hits.append(board.Scalars("features/hit_rate")[-1].value if "features/hit_rate" in tags else None)
    assert len(losses[0]) == 8 and losses[0] == losses[1] == losses[2]
    assert hits[0] is None and hits[1] < 1 and hits[2] == 1


@pytest.mark.parametrize("mix", MIXES, ids=lambda path: path.stem)
def test_data_mix_takes_the_place_of_a_runs(mix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mix is complete: nothing of the run's own data is left beside it."""
    run = next(path for path in RUNS if path.stem == "reward_real_cpu")
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(run), "--data", str(mix), "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)["data"]
    wanted = yaml.safe_load(mix.read_text())
    assert printed["class_path"] == wanted["class_path"]
    assert {name: printed["init_args"][name] for name in wanted["init_args"]} == wanted["init_args"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    assert main(["synthesize", "--output", str(folder), "--rows", "140", "--heldout-rows", "42"]) == 0
    return folder


@pytest.mark.parametrize("family", ["quickstart", "real_cpu"])
def test_both_stages_and_the_test_run(
    family: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    configs = {path.stem: str(path) for path in RUNS}
    root = ["--trainer.default_root_dir", str(tmp_path / "run")]
    names = ("quickstart_sft", "quickstart_reward") if family == "quickstart" else ("sft_real_cpu", "reward_real_cpu")
    sets = [] if family == "quickstart" else ["--data.init_args.sets=null"]
    data = ["--data.init_args.data_root", str(corpus / "train"), *sets]
    for name in names:
        assert main(["fit", "--config", configs[name], *root, *data, *SMALL]) == 0
    for stage in ("sft", "reward"):
        assert (tmp_path / "run" / stage / "checkpoints" / "last.ckpt").is_file()
        assert (tmp_path / "run" / stage / "checkpoints" / "best.ckpt").is_file()
        assert (tmp_path / "run" / stage / "export" / "model.safetensors").is_file()
    board = EventAccumulator(str(tmp_path / "run" / "reward" / "version_0"))
    board.Reload()
    tags = board.Tags()
    assert tags["images"] == ["val/samples"] and tags["histograms"] == ["val/margins"]
    assert "custom_scalars__config__" in tags["tensors"]
    assert {"train/loss", "train/accuracy/all", "val/longer/all", "val/ece", "val/length_correlation"} <= set(
        tags["scalars"]
    )
    capsys.readouterr()
    checkpoint = str(tmp_path / "run" / "reward" / "checkpoints" / "last.ckpt")
    heldout = ["--data.init_args.data_root", str(corpus / "heldout")]
    assert main(["test", "--config", configs[names[1]], *root, *heldout, *sets, "--ckpt_path", checkpoint]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    table = {words[0]: words[1:] for words in lines if len(words) == 5 and re.fullmatch(r"0\.\d{3}|1\.000", words[2])}
    assert int(table["all"][0]) == sum(int(row[0]) for name, row in table.items() if name != "all") == 42
