"""Pools with the names and signatures of the standard ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from manyhands.pools import Pool

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext

__all__ = ["ProcessPool", "SerialPool", "ThreadPool"]


class ThreadPool(Pool, ThreadPoolExecutor):  # type: ignore[misc, override]  # two private attributes of the base are ours here
    """A `Pool` of threads.

    It counts as a `ThreadPoolExecutor`, so that `loop.set_default_executor` takes it, but shares no code with it.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        super().__init__("thread", max_workers, initializer=initializer, initargs=initargs, thread_name_prefix=thread_name_prefix)


class ProcessPool(Pool):
    """A `Pool` of processes, with the signature of `ProcessPoolExecutor`."""

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        worker_memory_limit: int | str | None = None,
        pool_memory_limit: int | str | None = None,
        start_timeout: float | None = 300.0,
    ) -> None:
        super().__init__(
            "process",
            max_workers,
            initializer=initializer,
            initargs=initargs,
            max_tasks_per_child=max_tasks_per_child,
            mp_context=mp_context,
            worker_memory_limit=worker_memory_limit,
            pool_memory_limit=pool_memory_limit,
            start_timeout=start_timeout,
        )


class SerialPool(Pool):
    """A `Pool` without workers: each task runs in the thread that waits for it."""

    def __init__(self) -> None:
        super().__init__("serial")
