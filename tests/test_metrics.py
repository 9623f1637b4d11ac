"""Metrics on cases computed by hand, and the same numbers when the data are split over ranks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import tensor

from lit_ixc.metrics import (
    GroupMean,
    PreferenceMetric,
    expected_calibration_error,
    pack_names,
    preference_table,
    unpack_names,
)

CPU = torch.device("cpu")


def test_names_travel_as_bytes() -> None:
    assert unpack_names(pack_names(["general", "文字", ""], CPU)) == ["general", "文字", ""]
    assert unpack_names(pack_names(["x" * 100], CPU)) == ["x" * 64]


def test_group_mean() -> None:
    metric = GroupMean()
    assert metric.compute() == {}
    metric.update(tensor([1.0, 3.0, 5.0]), ["a", "b", "a"], tensor([1.0, 1.0, 3.0]))
    # a: (1*1 + 3*5) / 4 = 4, b: 3, all: (1 + 3 + 15) / 5 = 3.8
    assert {name: value.item() for name, value in metric.compute().items()} == pytest.approx(
        {"a": 4.0, "b": 3.0, "all": 3.8}
    )


def test_a_group_without_weight_has_no_mean() -> None:
    metric = GroupMean()
    metric.update(tensor([1.0, 9.0, 5.0]), ["a", "a", "b"], tensor([2, 0, 0]))
    assert {name: value.item() for name, value in metric.compute().items()} == {"a": 1.0, "all": 1.0}
    metric.reset()
    metric.update(tensor([1.0]), ["a"], tensor([0]))
    assert metric.compute() == {}


def filled(rows: slice = slice(None)) -> PreferenceMetric:
    """Four comparisons: right by 2, wrong by 1, an equal score (wrong), and a ranking of three with one pair wrong."""
    scores = tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [3.0, 1.0, 2.0]])
    ranks = tensor([[0, 1, -1], [0, 1, -1], [1, 0, -1], [0, 1, 2]])
    lengths = tensor([[9, 5, 0], [9, 5, 0], [4, 4, 0], [1, 2, 3]])
    sources, domains = ["s", "s", "t", "t"], ["math", "math", "general", "general"]
    metric = PreferenceMetric()
    modalities = ["text", "image", "text", "text"]
    metric.update(scores[rows], ranks[rows], lengths[rows], sources[rows], domains[rows], modalities[rows])
    return metric


def test_pairs_by_group() -> None:
    tables = filled().tables()
    s, t = tables["source"]["s"], tables["source"]["t"]
    assert (s.pairs, s.accuracy, s.margin, s.longer) == (2, 0.5, 0.5, 1.0)  # margins 2, -1
    # t: the tie 1-1 is wrong; the ranking has gaps 3-1, 3-2, 1-2 = 2, 1, -1; the better answer is never the longer one
    assert (t.pairs, t.accuracy, t.margin, t.longer) == (4, 0.5, 0.5, 0.0)
    assert tables["modality"]["image"].accuracy == 0.0 and tables["modality"]["text"].pairs == 5
    assert tables["all"]["all"].accuracy == 0.5
    lines = preference_table(tables).splitlines()
    assert lines[1].split() == ["s", "2", "0.500", "1.000", "0.500"]
    assert lines[-1].split() == ["all", "6", "0.500", "0.333", "0.500"]


def test_scalars() -> None:
    values = filled().compute()
    assert values["accuracy/domain/math"] == 0.5 and values["longer/all"] == pytest.approx(1 / 3)
    assert PreferenceMetric().compute() == {} and PreferenceMetric().tables() == {}
    metric = PreferenceMetric()
    metric.update(tensor([[1.0, 2.0]]), tensor([[1, 0]]), tensor([[10, 20]]), ["s"], ["d"], ["text"])
    assert metric.compute()["length_correlation"].item() == pytest.approx(1.0)


def test_calibration_error() -> None:
    # four pairs of margin log 3: confidence 0.75 each, three right: error 0; with one right: |0.75 - 0.25| = 0.5
    even = tensor([1.0, 1.0, 1.0, -1.0]) * math.log(3)
    assert expected_calibration_error(even).item() == pytest.approx(0.0, abs=1e-6)
    assert expected_calibration_error(-even).item() == pytest.approx(0.5, abs=1e-6)


def test_split_over_ranks_gives_the_same() -> None:
    """Ranks share what they were given: also what no one has asked for yet."""
    whole, first, second = filled(), filled(slice(0, 1)), filled(slice(1, None))
    second.settle()
    theirs = iter([torch.cat(getattr(second, name)) for name in ("margins", "gaps", "groups", "scores", "lengths")])
    first.sync(dist_sync_fn=lambda own, group: [own, next(theirs)], distributed_available=lambda: True)
    assert first.tables() == whole.tables()
    first.unsync()
    assert first.tables()["all"]["all"].pairs == 1


def test_what_was_kept_is_forgotten_with_the_rest() -> None:
    metric = filled()
    metric.reset()
    assert metric.compute() == {}
    metric = filled()
    assert metric.all_margins().tolist() == [2.0, -1.0, 0.0, 2.0, 1.0, -1.0]  # settles
    metric.update(tensor([[0.5, 0.0]]), tensor([[0, 1]]), tensor([[1, 1]]), ["u"], ["math"], ["text"])
    assert metric.all_margins().tolist() == [2.0, -1.0, 0.0, 2.0, 1.0, -1.0, 0.5]
    assert set(metric.tables()["source"]) == {"s", "t", "u"}
