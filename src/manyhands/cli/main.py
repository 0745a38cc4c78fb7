"""The command line: finds the subcommand, and turns what went wrong into a line and an exit status.

Each subcommand is a module that is imported when it is asked for: `manyhands run true` shall start faster than GNU parallel does.
"""

from __future__ import annotations

import os
import signal
import sys

from manyhands.cli.exit_status import INTERRUPTED, USAGE_ERROR
from manyhands.cli.output import OutputClosed, OutputFailed, complain, say
from manyhands.errors import ManyhandsError, UsageError
from manyhands.version import __version__

__all__ = ["main"]

HELP = """\
usage: manyhands run [options] COMMAND [::: VALUE ...]      a command line for each value, many at a time
       manyhands map [options] MODULE:FUNCTION [FILE ...]   a Python function for each record, JSON lines out
       manyhands explain [--input N] COMMAND [::: VALUE ...]   what run would run for one input, word by word

Each of them tells more with --help; --version tells the version.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns its exit status: 0 all succeeded, 1 some failed, 2 usage, 3 stopped early, 128 + signal."""
    words = sys.argv[1:] if arguments is None else arguments
    _open_what_is_closed()
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        # Whoever starts us may ignore it, and that is inherited; then the kernel would keep nobody's exit status.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        return _run(words)
    except UsageError as error:
        complain(str(error))
        return USAGE_ERROR
    except ManyhandsError as error:
        complain(str(error))
        return 1
    except OutputFailed as error:
        if not isinstance(error, OutputClosed):
            complain(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED


def _open_what_is_closed() -> None:
    """Whoever starts us may have closed descriptors 0 to 2 (`<&-`); what we open would get their numbers, and jobs' output."""
    # /dev/null opened for reading: to write to it fails, as writing to a closed standard output should.
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest number that is free: this one
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  # as long as the program lives
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _run(words: list[str]) -> int:
    name = words[0] if words else "--help"
    if name == "run":
        from manyhands.cli.run_command import main as run  # only what is asked for

        return run(words[1:])
    if name == "map":
        from manyhands.cli.map_command import main as map_records  # only what is asked for

        return map_records(words[1:])
    if name == "explain":
        from manyhands.cli.explain_command import main as explain  # only what is asked for

        return explain(words[1:])
    if name in ("-h", "--help", "help"):
        say(HELP)
        return 0
    if name in ("-V", "--version"):
        say(f"manyhands {__version__}\n")
        return 0
    raise UsageError(f"there is no subcommand {name!r}; write manyhands run, map or explain, or manyhands --help")


if __name__ == "__main__":
    sys.exit(main())
