"""The worker's side of logging: what a task logs travels to the parent, and is handled there.

A worker imports this module only when something in it has imported `logging`.
"""

from __future__ import annotations

import logging
import os
import pickle

from manyhands.transport import payloads
from manyhands.transport.frames import Kind

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds in each worker
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Levels", "Records", "forget_handlers", "levels"]

Levels = tuple[int, int, dict[str, int]]  # of the root logger; of `logging.disable`; of the loggers that have one of their own


def levels() -> Levels:
    """What is logged in this process."""
    manager = logging.root.manager
    loggers = list(manager.loggerDict.items())
    return (
        logging.root.level,
        manager.disable,
        {name: logger.level for name, logger in loggers if isinstance(logger, logging.Logger) and logger.level},
    )


def forget_handlers() -> None:
    """Take away what a fork has inherited: the parent handles each record."""
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()


class Records:
    """Sends what is logged in this process to the parent, unless it has handlers of its own at the root.

    Args:
        put: of the worker's `Uplink`.
        task: tells the running task, as (job, index).
        parents: the parent's levels, for loggers that have none of their own here.
    """

    def __init__(self, put: Callable[[int, int, bytes], None], task: Callable[[], Any], parents: Levels | None) -> None:
        self._put = put
        self._task = task
        self._pid = os.getpid()
        if not logging.root.handlers:
            _take_over(parents)
            logging.root.addHandler(_Forwarder(self._send))

    def _send(self, plain: bytes, others: bytes) -> bool:
        """Send the fields of a record; False in a fork that a task has made: the pipe is not for it."""
        if os.getpid() != self._pid:
            return False
        self._put(Kind.LOGGED, 0, pickle.dumps((self._task(), plain, others), payloads.PROTOCOL))
        return True


def _take_over(parents: Levels | None) -> None:
    """Log here what the parent logs."""
    if parents is not None:
        root_level, disabled, named = parents
        if logging.root.level == logging.WARNING:
            logging.root.setLevel(root_level)
        if not logging.root.manager.disable:
            logging.disable(disabled)
        for name, level in named.items():
            logger = logging.getLogger(name)
            if logger.level == logging.NOTSET:
                logger.setLevel(level)


class _Forwarder(logging.Handler):
    """Sends records to the parent."""

    def __init__(self, send: Callable[[bytes, bytes], bool]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if not self._send(*_packed(record)) and logging.lastResort is not None:
                logging.lastResort.handle(record)
        except Exception:
            self.handleError(record)


def _packed(record: logging.LogRecord) -> tuple[bytes, bytes]:
    """The fields of a record: those that are plain values, and a dict of those that are not, each pickled or else its `repr`."""
    fields: dict[str, Any] = dict(record.__dict__)
    if record.exc_info and not record.exc_text:
        fields["exc_text"] = logging.Formatter().formatException(record.exc_info)
    fields["exc_info"] = None  # a traceback cannot travel
    arguments = fields.pop("args")
    if type(record.msg) is not str or not _are_plain(arguments):
        fields["msg"], arguments = record.getMessage(), None  # as it is now, and whatever it takes to make it
    plain = {name: value for name, value in fields.items() if type(value) in payloads.SCALARS}
    plain["args"] = arguments
    others = {name: _packed_value(value) for name, value in fields.items() if name not in plain}
    return pickle.dumps(plain, payloads.PROTOCOL), pickle.dumps(others, payloads.PROTOCOL) if others else b""


def _are_plain(arguments: Any) -> bool:
    if type(arguments) is dict:
        return payloads.are_scalars([*arguments, *arguments.values()])
    return not arguments or (type(arguments) is tuple and payloads.are_scalars(list(arguments)))


def _packed_value(value: Any) -> bytes | str:
    try:
        return payloads.encode(value)
    except Exception:
        return repr(value)
