"""How many tasks travel together: pure arithmetic on measured durations.

A round trip costs some tens of microseconds, so tiny tasks must share it; but a task that waits behind a slow one in the same
batch has lost a free worker. So batches aim at a few milliseconds, grow step by step from one, are bounded by bytes, and shrink
towards the end of the work. What still goes wrong is mended by recall (see `Scheduler`): a batch that is late gives back what it
has not begun.
"""

from __future__ import annotations

__all__ = ["BatchSizer"]

TARGET_S = 0.004  # below this a round trip (0.05 to 0.1 ms) starts to show; above it, stragglers do
GROWTH = 8  # from 1 to 4096 in four steps, so that one lucky measurement does not make a huge batch
LARGEST = 4096
LARGEST_BYTES = 1 << 18  # a pipe takes 64 KiB to 1 MiB; more in one batch only adds latency
SHORT_S = 0.003  # an item shorter than this may wait behind another: the next batch is sent ahead
ENOUGH = 8  # tasks: what was measured of fewer may be the import of modules by the first one
DOUBTFUL_S = 1.0
FORGET = 0.6  # weight of what was measured before the last report


class BatchSizer:
    """Chooses batch sizes for one job from the durations that its workers report."""

    __slots__ = ("_bytes", "_count", "_largest_measured", "_measured", "_seconds", "fixed")

    def __init__(self, fixed: int | None = None) -> None:
        """Use `fixed` as the size of every batch, or choose it when None."""
        self.fixed = fixed
        self._count = 0.0
        self._seconds = 0.0
        self._bytes = 0.0
        self._largest_measured = 0
        self._measured = 0

    def record(self, count: int, seconds: float, payload_bytes: int = 0) -> None:
        """`count` tasks took `seconds` together, one after the other, and their results have `payload_bytes`."""
        self._count = self._count * FORGET + count
        self._seconds = self._seconds * FORGET + seconds
        self._bytes = self._bytes * FORGET + payload_bytes
        self._largest_measured = max(self._largest_measured, count)
        self._measured += count

    @property
    def item_s(self) -> float | None:
        """Mean duration of a task, the last ones counting most; None before the first report."""
        return self._seconds / self._count if self._count else None

    def full_size(self, bytes_each: float = 0.0) -> int:
        """Tasks in one batch while there is plenty of work. `bytes_each`: size of an argument; that of a result is measured."""
        if self.fixed is not None:
            return self.fixed
        item_s = self.item_s
        if item_s is None:
            return 1
        size = LARGEST if item_s * LARGEST <= TARGET_S else int(TARGET_S / item_s)
        size = min(size, self._largest_measured * GROWTH)
        bytes_each = max(bytes_each, self._bytes / self._count)
        if bytes_each * size > LARGEST_BYTES:
            size = int(LARGEST_BYTES / bytes_each)
        return max(size, 1)

    def size(self, *, ready: int, workers: int, bytes_each: float = 0.0) -> int:
        """Tasks in the next batch when `ready` wait for `workers`: each worker shall get several batches of what is left."""
        if self.fixed is not None:
            return self.fixed
        return min(self.full_size(bytes_each), max(1, ready // (2 * workers)))

    @property
    def is_short(self) -> bool:
        """True when tasks are known to be so short that one may wait behind another."""
        item_s = self.item_s
        return item_s is not None and item_s < SHORT_S

    def late_after_s(self, count: int) -> float:
        """Seconds after which a batch of `count` tasks is later than one expects."""
        late_s = max(0.02, 4.0 * count * (self.item_s or 0.0))  # 20 ms: longer than a busy machine's usual hiccup
        return late_s if self._measured >= ENOUGH else min(late_s, DOUBTFUL_S)
