"""The program under test: `python subject.py PEER CASE` runs one case on one peer, and tells what it sees in a file."""

from __future__ import annotations

import functools
import json
import os
import sys
from typing import Any


def tell(event: str, **values: Any) -> None:
    """Add an event to the report of the cell; the program alone tells, not a worker that happens to load this module again."""
    if os.environ.setdefault("FAULTS_PROGRAM", str(os.getpid())) == str(os.getpid()):  # workers inherit it
        os.write(report_descriptor(), (json.dumps({"event": event, **values}, default=repr) + "\n").encode())


@functools.cache
def report_descriptor() -> int:
    """Opened once, since some cases use up all descriptors."""
    return os.open(os.environ["FAULTS_REPORT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def tell_result(event: str, index: int, result: Any) -> None:
    """Tell how an item ended: `result` is a `peers.Result`."""
    if result.error is None:
        value = result.value
        shown = value if isinstance(value, int | str) else f"{type(value).__name__}"
        tell(event, index=index, ok=True, value=shown, attempts=result.attempts)
    else:
        tell(
            event,
            index=index,
            ok=False,
            error=type(result.error).__name__,
            text=str(result.error)[:500],
            attempts=result.attempts,
        )


def main() -> None:
    from all_cases import find_case  # each program loads its peer alone, and after it can be interrupted
    from peers import find_peer

    peer, case = find_peer(sys.argv[1]), find_case(sys.argv[2])
    assert case.body is not None
    tell("began")
    try:
        case.body(peer)
    except BaseException as error:
        tell("raised", error=type(error).__name__, text=str(error)[:500])
        raise
    tell("done")


if __name__ == "__main__":
    main()
