"""A pool under random work and random mishaps, every event of it checked. Run as a program, it tries one seed after another:

python tests/core/simulation.py --seeds 0-99
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from core.witness import JobSeen, Witness
from manyhands.core import events as ev
from manyhands.core.tasks import Backoff, RetryOn, Success, WorkerEnd
from manyhands.testing import ScriptedPool
from manyhands.testing.scripted import ScriptedWorker

SHORT_PAUSES_S = (0.0, 0.0001, 0.0003, 0.001)
LONG_PAUSES_S = (0.001, 0.003, 0.005, 0.02, 0.03, 0.06, 0.2, 1.2)


class Simulation:
    """One pool, from its opening to its end, as one seed wants it.

    Attributes:
        steps: how many random steps are made before the pool is closed and may finish.
    """

    def __init__(self, seed: int, *, steps: int = 400) -> None:
        self.chance = chance = random.Random(seed)
        self.steps = steps
        self.mishaps = chance.choice((0.0, 0.3, 1.0, 3.0))
        max_tasks = chance.choice((None, None, 1, 7, 40))
        self.pool = ScriptedPool(chance.randint(1, 4), can_stop=chance.random() < 0.6, max_tasks_per_worker=max_tasks)
        if chance.random() < 0.5:
            timers = self.pool.scheduler.timers
            timers._few = timers._many = 3  # stale ones are swept all the time
        self.witness = Witness(self.pool, max_tasks_per_worker=max_tasks)
        endings = (None, self.close, self.fail, self.curse, self.curse_the_new, self.starve)  # what happens late in its life
        self.ending = chance.choices(endings, (3, 1, 1, 1, 2, 1))[0]
        self.haste = chance.choice((0.95, 0.6, 0.2))  # how often little time passes, so that tasks look short
        self.moves = [
            (self.work, 40),
            (self.pass_time, 12),
            (self.wait_for_the_slowest, 2),
            (self.kill_the_slowest, self.mishaps / 3),
            (self.open_job, 2),
            (self.add, 10),
            (self.close_job, 2),
            (self.cancel_job, 0.6),
            (self.cancel_task, 2),
            (self.cancel_running, 1.5),
            (self.grow_too_large, 1),
            (self.wait_for_others, 4),
            (self.resize, 0.5),
            (self.dismiss, 0.8),
            (self.take, 6),
            (self.say_stale_things, 3),
        ]

    def run(self) -> Witness:
        """Live it all. Raises AssertionError (`InternalError` is one) when something is not as promised."""
        for step in range(self.steps):
            moves, weights = zip(*self.moves, strict=True)
            self.chance.choices(moves, weights)[0]()
            if step == self.steps * 3 // 4 and self.ending is not None:
                self.ending()
        self.pool.finish(self.chance)
        lost = {
            job_id: job.added - job.delivered
            for job_id, job in self.witness.jobs.items()
            if job.added != job.delivered or not job.ended
        }
        assert not lost, f"jobs that did not end, and how many of their tasks have no outcome: {lost}"
        return self.witness

    # ---- moves ------------------------------------------------------------------------------------------------------------

    def work(self) -> None:
        for _ in range(self.chance.randint(1, 12)):
            self.pool.workers.step(self.chance, mishaps=self.mishaps)

    def pass_time(self) -> None:
        self.pool.advance(self.chance.choice(SHORT_PAUSES_S if self.chance.random() < self.haste else LONG_PAUSES_S))
        self.witness.check_nobody_is_late()

    def wait_for_the_slowest(self) -> None:
        """Time passes until an item is past its time-out, if it has one; what waits behind it may be given back."""
        for worker in self._slowest():
            job_id = worker.running_load.job_id
            if self.chance.random() < 0.1:
                self.pool.feed(ev.JobCancelled(job_id, 0.01))
            timeout_s = self.witness.jobs[job_id].policy.timeout_s
            self.pool.advance(max(0.0, worker.since + (timeout_s or 0.0) - self.pool.clock()))
            if worker.is_recalled and self.chance.random() < 0.7:
                self.pool.workers.give_back(worker.id)
                self.pool.advance(0.011)
        self.witness.check_nobody_is_late()

    def kill_the_slowest(self) -> None:
        for worker in self._slowest():
            self.pool.workers.die(worker.id)

    def _slowest(self) -> list[ScriptedWorker]:
        """Whoever has been in its item for longest, if anybody is in one."""
        slow = [worker for worker in self.pool.workers.workers.values() if worker.is_in_item]
        return sorted(slow, key=lambda worker: worker.since)[:1]

    def open_job(self) -> None:
        chance = self.chance
        if self.pool.scheduler.closing:
            return
        self.pool.open_job(
            timeout_s=chance.choice((None, 0.002, 0.01, 0.05, 1.0)),
            retries=chance.choice((0, 1, 3)),
            retry_delay_s=chance.choice((0.0, 0.0, 0.004, 0.1)),
            priority=chance.choice((0, 0, 0, 1, -1)),
            grace_s=chance.choice((0.0, 0.5)),
            batch_size=chance.choice((None, None, None, 1, 3, 20)),
            window=chance.choice((None, None, 5, 60)),
            retry_on=chance.choice(
                (
                    None,
                    None,
                    RetryOn(),
                    RetryOn(("builtins.OSError",), timeout=False),
                    RetryOn(("builtins.Exception",), crash=False),
                )
            ),
            backoff=chance.choice((None, None, None, Backoff(0.003, most_s=0.01, jitter=0.5))),
            crash_retries=chance.choice((0, 0, 2)),
            depth=chance.choice((0, 0, 1, 2)),
        )

    def add(self) -> None:
        for job_id, job in self._some_job():
            if job_id not in self._open_jobs():
                return
            count = self.chance.choice((1, 1, 3, 20, 120))
            if job.policy.window is not None or self.chance.random() < 0.5:
                count = min(count, self.pool.scheduler.room(job_id, consumer_waits=self.chance.random() < 0.5))
            if count > 0:
                self.pool.add(job_id, count, payload_bytes=self.chance.choice((0, 10, 50_000)) * count)

    def close_job(self) -> None:
        for job_id, _ in self._some_job():
            self.pool.feed(ev.JobClosed(job_id))

    def cancel_job(self) -> None:
        for job_id, _ in self._some_job():
            self.pool.feed(ev.JobCancelled(job_id, self.chance.choice((None, 0.0, 0.01, 0.1))))

    def cancel_task(self) -> None:
        for job_id, job in self._some_job():
            if job.added:
                waiting = [index for index in range(job.added) if self.witness.is_waiting(job_id, index)] or [0]
                index = self.chance.choice(
                    (waiting[0], waiting[-1], self.chance.choice(waiting), self.chance.randrange(job.added))
                )
                is_waiting = self.witness.is_waiting(job_id, index)
                self.pool.feed(ev.TaskCancelled(job_id, index))
                outcome = self.pool.outcomes.get((job_id, index))
                assert not is_waiting or (outcome is not None and outcome.state == "cancelled"), (
                    f"task {index} waits, and goes on"
                )

    def cancel_running(self) -> None:
        for worker in self._running():
            load, at = worker.running_load, worker.at
            assert at is not None
            index = load.start + self.chance.randrange(at[1], len(load.items))  # the one that runs, or one behind it
            self.pool.feed(ev.TaskCancelled(load.job_id, index, stops=True))
            if self.chance.random() < 0.3:
                self.pool.advance(0.03)
                self.witness.check_nobody_is_late()

    def grow_too_large(self) -> None:
        for worker in self._running():
            load = worker.running_load
            offset, _ = self.pool.workers.progress(worker.id, load.id)
            has_gone_on = self.chance.random() < 0.2
            if has_gone_on:
                self.pool.workers.end(worker.id)
            self.pool.workers.flush(worker.id)
            self.witness.too_large.add((load.job_id, load.start + offset))
            self.pool.feed(ev.ItemOverLimit(load.id, offset))
            is_known = load.id in self.pool.scheduler.batches and not self.pool.scheduler.batches[load.id].abandoned
            assert has_gone_on or worker.is_stopped or not is_known or not self.pool.workers.can_stop, "a task grows and grows"

    def wait_for_others(self) -> None:
        for worker in self._running():
            if worker.waits:
                self.pool.workers.resume(worker.id)
            else:
                waiting = self.pool.scheduler.crew.waiting
                is_new = worker.id not in waiting
                self.pool.workers.wait(worker.id)
                is_seen = is_new and worker.id in waiting
                assert worker.is_recalled or not is_seen, f"what waits behind the waiting task of worker {worker.id} stays there"
                if self.chance.random() < 0.7 and worker.is_recalled:
                    self.pool.workers.give_back(worker.id)

    def resize(self) -> None:
        if self.pool.scheduler.closing:
            return
        limit = self.chance.randint(1, 5)
        self.witness.limit = limit
        self.pool.feed(ev.PoolResized(limit))

    def dismiss(self) -> None:
        """Somebody is worn out: whoever has done something ends after what it is at, and gives back the rest."""
        workers = list(self.pool.workers.workers.values())
        if workers:
            worker = self.chance.choice(workers)
            self.pool.feed(ev.WorkerDismissed(worker.id))
            if worker.is_recalled and self.chance.random() < 0.7:
                self.pool.workers.give_back(worker.id)

    def _running(self) -> list[ScriptedWorker]:
        """Somebody who is in an item, if anybody is."""
        running = [worker for worker in self.pool.workers.workers.values() if worker.is_in_item and not worker.is_stopped]
        return [self.chance.choice(running)] if running else []

    def take(self) -> None:
        for job_id, job in self._some_job():
            if job.untaken and not job.ended:
                self.pool.feed(ev.OutcomesTaken(job_id, self.chance.randint(1, job.untaken)))

    def say_stale_things(self) -> None:
        """Things about what is over: they change nothing, which the checked scheduler sees to."""
        batches = [batch_id for batch_id in self.witness.sent if batch_id not in self.pool.scheduler.batches][-5:]
        workers = [sent.worker_id for sent in self.witness.sent.values() if sent.worker_id not in self.pool.workers.workers][-5:]
        jobs = [job_id for job_id, job in self.witness.jobs.items() if job.ended][-5:]
        now = self.pool.clock()
        self.pool.feed(ev.TimePassed())  # what time alone would change has changed
        for batch_id in batches[:1]:
            self.pool.feed(ev.BatchProgressed(batch_id, [Success(1, [None], now, now)]))
            self.pool.feed(ev.BatchReturned(batch_id, 1), ev.ItemObserved(batch_id, 0, 0.0))
            self.pool.feed(ev.ItemOverLimit(batch_id, 0))
            for worker_id in list(self.pool.workers.workers):
                self.pool.feed(ev.WorkerWaits(worker_id, batch_id), ev.WorkerResumed(worker_id, batch_id))
        for worker_id in workers[:1]:
            self.pool.feed(ev.WorkerStarted(worker_id), ev.WorkerEnded(worker_id, WorkerEnd(signal=9), (batches[0], 0)))
        for job_id in jobs[:1]:
            self.pool.scheduler.handle(ev.JobClosed(job_id), now)
            self.pool.scheduler.handle(ev.JobCancelled(job_id, 0.0), now)
            self.pool.scheduler.handle(ev.TaskCancelled(job_id, 0), now)
            self.pool.scheduler.handle(ev.TaskCancelled(job_id, 0, stops=True), now)
            self.pool.scheduler.handle(ev.OutcomesTaken(job_id, 1), now)

    def fail(self) -> None:
        self.pool.feed(ev.PoolFailed(RuntimeError("the initializer raises")))
        for worker in list(self.pool.workers.workers.values()):
            if worker.is_up and self.chance.random() < 0.5:
                self.pool.workers.give_back(worker.id)

    def close(self) -> None:
        self.pool.close(cancel=self.chance.random() < 0.5)

    def curse(self) -> None:
        """All workers die, and so do all who are started in the next second."""
        for _ in range(80):
            for worker_id in list(self.pool.workers.workers):
                self.pool.workers.die(worker_id)
            self.pool.advance(0.05)
        assert self.pool.scheduler.start_failures < 8, "no worker can be started, and nobody gives up"

    def curse_the_new(self) -> None:
        """All who are not up die, and so do all who are started in the next second; the others may wait for them."""
        for worker in list(self.pool.workers.workers.values()):
            if worker.is_in_item and not worker.waits and self.chance.random() < 0.8:
                self.pool.workers.wait(worker.id)
                self.pool.workers.give_back(worker.id)
        is_stuck = True
        for _ in range(80):
            for worker in list(self.pool.workers.workers.values()):
                if worker.retires:
                    self.pool.workers.leave(worker.id)
                elif not worker.is_up:
                    self.pool.workers.die(worker.id)
            is_stuck &= bool(self.pool.scheduler.workload.turns) and self.pool.scheduler.crew.only_waits
            self.pool.advance(0.05)
        assert not is_stuck, "all wait for tasks that no worker is left to run, and nobody gives up"

    def starve(self) -> None:
        """All workers die, and for a while the machine has nothing left for new ones: tasks wait for better times, none fails."""
        failed = self.witness.seen["failed for want of workers"]
        self.open_job()
        job_id = max(self.witness.jobs)
        self.pool.add(job_id, min(20, self.pool.scheduler.room(job_id, consumer_waits=True)))
        for worker_id in list(self.pool.workers.workers):
            self.pool.workers.die(worker_id)
        for _ in range(80):
            for worker in list(self.pool.workers.workers.values()):
                if not worker.is_up:
                    self.pool.workers.die(worker.id, end=WorkerEnd(reason="no descriptors left", lacks_resources=True))
                    self.witness.seen["could not be started"] += 1
            self.pool.advance(0.05)
        assert self.witness.seen["failed for want of workers"] == failed, "what is scarce for a moment fails the tasks for good"

    def _open_jobs(self) -> set[int]:
        return {job_id for job_id, job in self.pool.scheduler.jobs.items() if not job.closed}

    def _some_job(self) -> list[tuple[int, JobSeen]]:
        """One of the last few jobs, or none when there are none."""
        jobs = [item for item in list(self.witness.jobs.items())[-6:] if not item[1].ended]
        return [self.chance.choice(jobs)] if jobs else []


def run_seeds(seeds: range, *, steps: int = 400) -> Counter[str]:
    """Live one simulation for each seed; tells what has happened in all of them. A failure says its seed."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        try:
            seen += Simulation(seed, steps=steps).run().seen
        except BaseException as error:
            error.add_note(f"to see it again: python tests/core/simulation.py --seeds {seed}-{seed} --steps {steps}")
            raise
    return seen


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0-49")
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    first, last = options.seeds.split("-")
    print(dict(run_seeds(range(int(first), int(last) + 1), steps=options.steps)))


if __name__ == "__main__":
    main()
