"""What the golden tests of the input half share: synthetic pictures, run-length pairs, and the released tokenizer."""

import functools
import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lit_ixc.ixc25.tokenizer import IXC25Tokenizer, load_released

REPOSITORY = Path(__file__).resolve().parents[2]


def synthetic(width: int, height: int, frame: int = 0) -> Image.Image:
    """The picture of the goldens' ``image_formula``; frame k of a video adds 31 k."""
    x, y, c = np.arange(width)[None, :, None], np.arange(height)[:, None, None], np.arange(3)
    values = x * (3 + c) + y * (5 + 2 * c) + ((x * y) >> 3) * (1 + c) + 17 * c + 31 * frame
    return Image.fromarray((values % 256).astype(np.uint8))


def runs(values: Iterable[Any]) -> list[list[Any]]:
    """Run-length pairs [value, count]."""
    return [[value, len(list(group))] for value, group in itertools.groupby(values)]


@functools.cache
def released_tokenizer() -> IXC25Tokenizer:
    """The released tokenizer, at ``LIT_IXC_TOKENIZER`` or ``golden/tokenizer.model`` of the material.

    It is not committed. Absent, the test is skipped and says so; on CI (``CI=true``) it fails.
    """
    shared = Path(os.environ.get("LIT_IXC_SHARED", REPOSITORY.parent / "shared"))
    path = Path(os.environ.get("LIT_IXC_TOKENIZER", shared / "golden" / "tokenizer.model"))
    if not path.is_file():
        message = f"needs the released tokenizer.model, which is not at {path}: set LIT_IXC_TOKENIZER to its path"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return load_released(path)
