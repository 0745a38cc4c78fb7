"""Data parallelism: one function, many items. Task parallelism: different functions at once. Both on one pool.

데이터 병렬성: 함수 하나를 여러 항목에. 작업 병렬성: 서로 다른 일을 동시에. 둘 다 풀 하나로 합니다.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from concurrent.futures import as_completed

from manyhands import Pool

TEXT = "하늘과 바람과 별과 시\n나무와 구름과 강과 산\n" * 2000


def count_words(lines: list[str]) -> Counter[str]:
    return Counter(word for line in lines for word in line.split())


def compressed_size(text: str) -> int:
    return len(zlib.compress(text.encode(), 9))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def longest_line(text: str) -> int:
    return max(map(len, text.splitlines()))


def main() -> None:
    lines = TEXT.splitlines()
    with Pool("process") as pool:
        print("== 데이터 병렬성 (data parallelism): count_words, 여덟 조각 (eight pieces)")
        step = -(-len(lines) // 8)
        pieces = [lines[start : start + step] for start in range(0, len(lines), step)]
        total: Counter[str] = Counter()
        for counted in pool.map(count_words, pieces):
            total += counted
        print(f"조각 {len(pieces)}개, 낱말 (words) {total.total()}, 가장 흔한 낱말 (most common) {total.most_common(1)}")
        print(f"차례대로 센 것과 같음 (the same as one by one): {total == count_words(lines)}")

        print("== 작업 병렬성 (task parallelism): 서로 다른 함수 셋 (three functions)")
        tasks = {pool.submit(function, TEXT): function.__name__ for function in (compressed_size, digest, longest_line)}
        results = {tasks[future]: future.result() for future in as_completed(tasks)}
    for name in sorted(results):
        print(f"{name}: {results[name]}")


if __name__ == "__main__":
    main()
