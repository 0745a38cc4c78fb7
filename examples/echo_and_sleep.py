"""Commands: `run` waits for the end; `start` gives a handle at once, and the program goes on with other work.

명령 실행: `run`은 끝날 때까지 기다리고, `start`는 바로 돌아와서 그동안 다른 일을 할 수 있습니다.
"""

from __future__ import annotations

import manyhands


def main() -> None:
    print("== run: echo")
    echoed = manyhands.run(["echo", "안녕하세요"])
    print(f"echo: {str(echoed.stdout).strip()!r}, 종료 상태 (exit status) {echoed.returncode}")

    print("== start: sleep, 그동안 다른 일 (and other work meanwhile)")
    sleeping = manyhands.start(["sleep", "0.5"])
    print(f"sleep: pid {sleeping.pid}, 끝났나요 (ended)? {sleeping.poll() is not None}")
    rounds = total = 0
    while sleeping.poll() is None:  # poll() does not wait
        total += sum(range(10_000))
        rounds += 1
    ended = sleeping.wait()
    print(f"부모는 그동안 더했습니다 (the parent added meanwhile): {'yes' if rounds > 1 else 'no'}")
    print(f"sleep: 종료 상태 (exit status) {ended.returncode}, {ended.duration_s:.1f} s")

    print("== 실패와 제한 시간 (failure and time-out)")
    failed = manyhands.run(["sh", "-c", "echo '문제가 있습니다' >&2; exit 3"])
    print(f"sh: 종료 상태 (exit status) {failed.returncode}, {str(failed.stderr).strip()!r}")
    try:
        manyhands.run(["sh", "-c", "echo 시작; sleep 60"], timeout=0.3)
    except manyhands.TaskTimeout as error:
        print(f"{error}; 그때까지의 출력 (its output until then): {error.completed.stdout.strip()!r}")


if __name__ == "__main__":
    main()
