"""Plays one scenario in this process: `python -m faults.play MODULE.FUNCTION KIND`.

Exit status 0: all that it asserts is so, and nothing is left; 77: it cannot be played here, and standard output says why.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path

import leaks
from faults.scenarios import SCENARIOS, Unplayable

UNPLAYABLE = 77


def main(name: str, kind: str) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is inherited ignored by what runs in the background
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    importlib.import_module(f"faults.{name.partition('.')[0]}")
    folder = Path(os.environ["TMPDIR"])
    before = leaks.take_snapshot(folder)
    try:
        SCENARIOS[name].play(kind)
    except Unplayable as reason:
        print(reason)
        return UNPLAYABLE
    findings = leaks.leftovers(before, folder, descriptor_limit=before.descriptors + leaks.DESCRIPTOR_ALLOWANCE)
    assert not findings, findings
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
