"""Fixtures of the golden tests: numbers that the released code computed.

`LIT_IXC_GOLDEN` names a folder of the same layout as `data/`, which is the default. `pytest -v tests/golden` ends with
a table of the largest difference per case, `-vv` with one per tensor.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Compare = Callable[..., None]
DIRECTORY = Path(os.environ.get("LIT_IXC_GOLDEN", Path(__file__).parent / "data"))
TOLERANCE = 1e-4


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder with the goldens; absent, the tests fail."""
    if not DIRECTORY.is_dir():
        pytest.fail(f"LIT_IXC_GOLDEN={DIRECTORY} is no folder; unset it to use the copy in the repository")
    return DIRECTORY


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that asks for `tiny_dir` on every miniature model of the folder."""
    if "tiny_dir" in metafunc.fixturenames:
        folders = sorted(DIRECTORY.glob("tiny_seed*"))
        if not folders:
            raise pytest.UsageError(f"{DIRECTORY} holds no folder tiny_seed*; set LIT_IXC_GOLDEN to one that does")
        metafunc.parametrize("tiny_dir", folders, ids=lambda folder: folder.name, scope="module")


@pytest.fixture
def compare(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Compare:
    """Assert closeness at atol = rtol = 1e-4 and keep the largest absolute difference for the table."""

    def check(case: str, actual: torch.Tensor, expected: torch.Tensor) -> None:
        assert actual.shape == expected.shape, f"{case}: {tuple(actual.shape)} against {tuple(expected.shape)}"
        difference = float((actual - expected).abs().max())
        record_property("golden", [request.node.name, case, difference])
        torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=TOLERANCE, msg=lambda text: f"{case}: {text}")

    return check


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table of differences."""
    if config.get_verbosity() < 1:
        return
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    rows = [value for report in reports for name, value in getattr(report, "user_properties", []) if name == "golden"]
    table: dict[str, float] = {}
    for test, tensor, difference in rows:
        case = f"{test} {tensor}" if config.get_verbosity() > 1 else test
        table[case] = max(difference, table.get(case, 0.0))
    if table:
        terminalreporter.section("goldens: case, largest absolute difference")
        width = max(map(len, table))
        for case, difference in sorted(table.items()):
            terminalreporter.write_line(f"{case:<{width}}  {difference:.1e}")
