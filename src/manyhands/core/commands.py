"""What a command is: a plain value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Command"]


class Command(NamedTuple):
    """One program to start.

    Attributes:
        args: the program and its arguments, never empty. `bytes` are handed over as they are. There is no shell: a script is
            `("/bin/sh", "-c", script, "sh", *values)`, its values as positional parameters.
        cwd: the folder to start in; None: that of the parent.
        env: the whole environment; None: that of the parent.
        extra_env: laid over `env`.
        input: bytes for its standard input; None: the null device.
        capture: keep its standard output and standard error; False: they go where the parent's go.
    """

    args: tuple[str | bytes, ...]
    cwd: str | None = None
    env: Mapping[str, str] | None = None
    extra_env: Mapping[str, str] | None = None
    input: bytes | None = None
    capture: bool = True

    def replace(self, **changes: Any) -> Command:
        """The same command but for `changes`."""
        return self._replace(**changes)
