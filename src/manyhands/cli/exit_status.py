"""With which exit status the program ends; 0: all succeeded, 1: some failed, 128 + signal: a signal has ended it."""

from __future__ import annotations

__all__ = ["CLOSED_OUTPUT", "INTERRUPTED", "STOPPED_EARLY", "USAGE_ERROR"]

USAGE_ERROR = 2
STOPPED_EARLY = 3
INTERRUPTED = 130
CLOSED_OUTPUT = 141  # 128 + SIGPIPE: what a shell reports of a program that SIGPIPE has ended
