import asyncio

import pytest

from lmfast.inference.batching import Sequence
from lmfast.inference.sampling import Sampling
from lmfast.serving.scheduler import Job, QueueFull, Scheduler
from tests.inference.test_batching import CountingDecoder, expected


def sequence(prompt, max_tokens=5, **options) -> Sequence:
    return Sequence(list(prompt), max_tokens, Sampling(0.0), **options)


class Paused(CountingDecoder):
    """Waits in `step` until it is released."""

    def __init__(self, **options):
        super().__init__(**options)
        self.gate = __import__("threading").Semaphore(0)

    def step(self, slots, parts=()):
        assert self.gate.acquire(timeout=30)
        return super().step(slots, parts)


async def ended(job: Job) -> None:
    async with asyncio.timeout(30):
        while not job.finished:
            await job.changed.wait()
            job.changed.clear()


def run(work, decoder=None, max_queue=100):
    """Runs `work(scheduler)` in an event loop, then closes the scheduler."""

    async def main():
        scheduler = Scheduler(decoder or CountingDecoder(), max_queue)
        scheduler.start()
        try:
            await work(scheduler)
        finally:
            if isinstance(decoder, Paused):
                decoder.gate.release(10_000)
            scheduler.close()
        return scheduler

    return asyncio.run(main())


def test_jobs_get_their_ids():
    async def work(scheduler):
        jobs = [Job([sequence([i, 1], 3 + i), sequence([i], 2)], str(i % 3), i % 2 == 0) for i in range(20)]
        for job in jobs:
            scheduler.submit(job)
        for job in jobs:
            await ended(job)
            assert not job.failed and job.first_id is not None
            for s in job.sequences:
                assert s.ids == expected(s.prompt, s.max_tokens)
        assert scheduler.waiting == 0 and not scheduler.jobs

    scheduler = run(work)
    assert scheduler.running == 0


def test_a_streamed_job_is_reported_before_it_ends():
    async def work(scheduler):
        job = Job([sequence([1, 2], 50)], "a", True)
        scheduler.submit(job)
        scheduler.decoder.gate.release()
        async with asyncio.timeout(30):
            await job.changed.wait()
        assert len(job.sequences[0].ids) == 1 and not job.finished
        scheduler.decoder.gate.release(49)
        await ended(job)

    run(work, Paused())


def test_a_cancelled_job_ends_before_the_next_step():
    async def work(scheduler):
        running = [Job([sequence([i], 50)], "a", False) for i in range(4)]
        queued = Job([sequence([9], 50), sequence([8], 50)], "a", False)
        for job in (*running, queued):
            scheduler.submit(job)
        scheduler.decoder.gate.release(3)
        while len(running[0].sequences[0].ids) < 3:
            await asyncio.sleep(0.001)
        scheduler.cancel(running[0])
        scheduler.cancel(queued)
        scheduler.decoder.gate.release(1)  # the step under way
        await ended(running[0])
        await ended(queued)
        assert [s.finish for s in (*running[0].sequences, *queued.sequences)] == ["cancelled"] * 3
        assert len(running[0].sequences[0].ids) <= 4 and queued.sequences[0].ids == []
        assert scheduler.waiting == 0

    run(work, Paused())


def test_the_queue_has_a_limit():
    async def work(scheduler):
        jobs = [Job([sequence([i], 5)], "a", False) for i in range(7)]
        scheduler.submit(jobs[0])
        while scheduler.running == 0:
            await asyncio.sleep(0.001)
        for job in jobs[1:6]:  # three slots are free, two may wait
            scheduler.submit(job)
        with pytest.raises(QueueFull):
            scheduler.submit(jobs[6])
        scheduler.decoder.gate.release(1000)
        for job in jobs[:6]:
            await ended(job)
        scheduler.submit(jobs[6])
        await ended(jobs[6])

    run(work, Paused(), max_queue=2)


def test_a_failing_decoder_ends_the_running_jobs_only(capfd):
    async def work(scheduler):
        lost = [Job([sequence([i], 5)], "a", False) for i in range(4)]
        queued = Job([sequence([7], 5)], "a", False)
        with scheduler.ordered:  # the thread takes all at once
            for job in (*lost, queued):
                scheduler.submit(job)
        while scheduler.running < 4:
            await asyncio.sleep(0.001)
        scheduler.decoder.failing = True
        scheduler.decoder.gate.release(1)
        for job in lost:
            await ended(job)
            assert job.failed
        scheduler.decoder.failing = False
        scheduler.decoder.gate.release(100)
        await ended(queued)
        assert not queued.failed and queued.sequences[0].ids == expected([7], 5)

    run(work, Paused())
    assert "the device is lost" in capfd.readouterr().err


def test_a_job_that_ends_in_the_step_that_fails_is_reported(capfd):
    def broken(token):
        raise ValueError("no such token")

    async def work(scheduler):
        ends, fails = sequence([1], 1), sequence([2], 5, stops=broken)
        jobs = [Job([ends], "a", False), Job([fails], "a", False)]
        with scheduler.ordered:  # the thread takes both at once
            for job in jobs:
                scheduler.submit(job)
        scheduler.decoder.gate.release()
        for job in jobs:
            async with asyncio.timeout(30):
                await job.changed.wait()
            assert job.failed
        assert not scheduler.jobs and scheduler.running == 0

    run(work, Paused())
    assert "no such token" in capfd.readouterr().err


def test_a_scheduler_that_was_not_started_can_be_closed():
    Scheduler(CountingDecoder(), 1).close()


def test_closing_ends_all_jobs():
    async def work(scheduler):
        scheduler.jobs_seen = [Job([sequence([i], 300)], "a", False) for i in range(9)]
        for job in scheduler.jobs_seen:
            scheduler.submit(job)

    scheduler = run(work, Paused())
    assert all(job.finished for job in scheduler.jobs_seen)
