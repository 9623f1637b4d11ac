"""What every test shares: one thread, fixed seeds, no network, and where the material outside the repository lies."""

import os

# Before torch is imported: workers of pytest-xdist share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

torch.set_num_threads(1)
# No deadline: a first call that compiles or allocates is slow on a shared core, and that is no failure.
settings.register_profile("lit_ixc", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("lit_ixc")


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The material beside the repository (``LIT_IXC_SHARED``, default ``../shared``).

    Absent, the test is skipped and says so; on CI (``CI=true``) the material must be there and its absence fails.
    """
    directory = Path(os.environ.get("LIT_IXC_SHARED", REPOSITORY.parent / "shared"))
    if not directory.is_dir():
        message = f"needs the material in {directory} (set LIT_IXC_SHARED to where it lies)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return directory
