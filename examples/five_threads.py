"""Five threads, twenty items, one queue: the classic loop, written by hand and with `WorkQueue`.

다섯 스레드가 큐 하나에서 항목 스무 개를 꺼내 처리합니다. 손으로 짠 루프와 `WorkQueue`를 나란히 보여 줍니다.
"""

from __future__ import annotations

import re
import sys
import threading
import time

import manyhands

WORKERS = 5
ITEMS = 20
WHOLE_LINE = re.compile(r"스레드 \d: 처리 완료 \d+")

# The loop as it stands in many textbooks. `print` writes each of its pieces by itself, so lines of several threads run
# together; it shows where output is not buffered (`python -u`, PYTHONUNBUFFERED=1). If `handle` raised, `task_done` would be
# missed, a thread would be gone, and `join` would wait for ever. The same `print` in `handle` below writes whole lines.
BY_HAND = f"""
import queue, threading, time

def handle(number, item):
    time.sleep(0.005)
    print("스레드 ", number, ": 처리 완료 ", item, sep="")

def work(number):
    while True:
        item = items.get()
        if item is None:
            return
        handle(number, item)
        items.task_done()

items = queue.Queue()
threads = [threading.Thread(target=work, args=(number,)) for number in range(1, {WORKERS} + 1)]
for thread in threads:
    thread.start()
for item in range({ITEMS}):
    items.put(item)
items.join()
for _ in threads:
    items.put(None)  # one sentinel for each thread, or the program never ends
for thread in threads:
    thread.join()
"""


def handle(item: int) -> None:
    time.sleep(0.005)
    number = int(threading.current_thread().name.rpartition("_")[2]) + 1
    print("스레드 ", number, ": 처리 완료 ", item, sep="")


def main() -> None:
    print("== 손으로 짠 루프 (by hand)")
    written = manyhands.run([sys.executable, "-u", "-X", "utf8", "-c", BY_HAND], check=True).stdout
    lines = str(written).splitlines()
    print(written, end="")
    torn = [line for line in lines if not WHOLE_LINE.fullmatch(line)]
    print(f"-- 찢어지거나 섞인 줄 (torn or mixed lines): {len(torn)}/{len(lines)}\n")

    print("== WorkQueue", flush=True)
    with manyhands.WorkQueue(handle, workers=WORKERS) as queue:
        for item in range(ITEMS):
            queue.put(item)
    # Leaving the block waits for all items; had some failed, their errors would be raised here.
    print(f"-- 처리한 항목 (items done): {queue.done}/{ITEMS}")


if __name__ == "__main__":
    main()
