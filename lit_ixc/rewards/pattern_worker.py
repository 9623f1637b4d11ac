"""A process of its own that matches a regular expression, so that a hopeless one can be ended from outside.

``rules.py`` starts this file by its path. In: one JSON object ``{"pattern": ..., "texts": [...], "seconds": ...}``;
out: ``true`` or ``false`` for each text, a line each. The alarm has no handler: when a text has used up its processor
time, the kernel ends the process.
"""

from __future__ import annotations

import json
import re
import signal
import sys


def main() -> None:
    """Match each text."""
    request = json.load(sys.stdin)
    pattern = re.compile(request["pattern"], re.DOTALL)
    for text in request["texts"]:
        signal.setitimer(signal.ITIMER_VIRTUAL, request["seconds"])
        match = pattern.fullmatch(text) is not None
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        print(json.dumps(match), flush=True)


if __name__ == "__main__":
    main()
