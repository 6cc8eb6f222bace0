"""Who is next, who is dropped, who is refused: with a renderer that the test holds still."""

import asyncio
import threading
import time

import numpy as np
import pytest

from serving.runtime.batcher import Batcher
from serving.runtime.errors import DeadlineExceeded, Overloaded, ServingError, Unavailable


class HeldRenderer:
    """Renders `value / 127.5 - 1` pictures of one pixel, so that pixel = value; waits for `go` before each batch."""

    def __init__(self, held=True):
        self.rows = []
        self.go = threading.Semaphore(0 if held else 10**6)
        self.batches = []
        self.entered = 0
        self.fail = False

    def render(self, rows, worker=0):
        self.entered += 1
        self.go.acquire()
        self.rows.append(rows)
        values = rows["motion"][:, 0]
        self.batches.append(values.astype(int).tolist())
        if self.fail:
            raise RuntimeError("out of memory")
        return (values / 127.5 - 1).astype(np.float32).reshape(-1, 1, 1, 1)


def rows(*values):
    return {"motion": np.array(values, np.float32)[:, None]}


async def until(condition):
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen")


def with_batcher(test, renderer=None, **options):
    """Runs `test(batcher, renderer)` on an event loop and closes the batcher."""
    renderer = renderer or HeldRenderer()
    batcher = Batcher(renderer, **options)
    try:
        asyncio.run(asyncio.wait_for(test(batcher, renderer), 20))
    finally:
        renderer.go.release(10**6)
        batcher.close()


def test_requests_share_a_batch_and_get_their_own_frames():
    async def test(batcher, renderer):
        first = asyncio.create_task(batcher.submit(rows(1)))
        await until(lambda: renderer.entered)  # It is being rendered; the next three gather behind it.
        others = [asyncio.create_task(batcher.submit(rows(*values))) for values in ((2, 3), (4,), (5, 6, 7))]
        await until(lambda: batcher.queued_frames == 6)
        renderer.go.release(2)
        jobs = await asyncio.gather(first, *others)
        assert renderer.batches == [[1], [2, 3, 4, 5, 6, 7]]
        assert [job.out[:, 0, 0, 0].tolist() for job in jobs] == [[1], [2, 3], [4], [5, 6, 7]]
        assert all(job.out.dtype == np.uint8 for job in jobs)

    with_batcher(test)


def test_every_input_of_a_batch_is_each_requests_own():
    def with_content(*values):
        return {"motion": np.array(values, np.float32)[:, None], "content": np.array(values, np.float32)[:, None] + 100}

    async def test(batcher, renderer):
        first = asyncio.create_task(batcher.submit(with_content(1)))
        await until(lambda: renderer.entered)
        others = [asyncio.create_task(batcher.submit(with_content(*values))) for values in ((2, 3), (4,))]
        await until(lambda: batcher.queued_frames == 3)
        renderer.go.release(2)
        await asyncio.gather(first, *others)
        for rows in renderer.rows:
            assert sorted(rows) == ["content", "motion"]
            np.testing.assert_array_equal(rows["content"], rows["motion"] + 100)

    with_batcher(test)


def test_a_small_request_does_not_wait_for_a_large_one():
    async def test(batcher, renderer):
        first = asyncio.create_task(batcher.submit(rows(0)))
        await until(lambda: renderer.entered)
        large = asyncio.create_task(batcher.submit(rows(*[1] * 160)))
        await until(lambda: batcher.queued_frames == 160)
        small = asyncio.create_task(batcher.submit(rows(*[2] * 16)))
        await until(lambda: batcher.queued_frames == 176)
        renderer.go.release(2)
        await asyncio.gather(first, small)
        assert not large.done()
        renderer.go.release(100)
        assert (await large).out.shape == (160, 1, 1, 1)

    with_batcher(test, max_batch_frames=32)


def test_a_client_that_went_away_is_dropped_before_its_turn():
    async def test(batcher, renderer):
        first = asyncio.create_task(batcher.submit(rows(1)))
        await until(lambda: renderer.entered)
        gone = asyncio.create_task(batcher.submit(rows(2)))
        stays = asyncio.create_task(batcher.submit(rows(3)))
        await until(lambda: batcher.queued_frames == 2)
        gone.cancel()
        await until(lambda: batcher.queued_frames == 1)
        renderer.go.release(2)
        await asyncio.gather(first, stays)
        assert renderer.batches == [[1], [3]]

    with_batcher(test)


def test_a_deadline_ends_the_wait_and_the_job():
    async def test(batcher, renderer):
        first = asyncio.create_task(batcher.submit(rows(1)))
        await until(lambda: renderer.entered)
        begin = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(rows(2), deadline=begin + 0.1)
        assert 0.09 < time.monotonic() - begin < 1
        assert batcher.queued_frames == 0
        renderer.go.release(1)
        await first
        assert renderer.batches == [[1]]

    with_batcher(test)


def test_admission_is_bounded_in_frames_and_says_when_to_return():
    async def test(batcher, renderer):
        with batcher.admit(1000):  # Larger than the bound, but alone.
            with pytest.raises(Overloaded) as refused:
                with batcher.admit(1):
                    pass
            assert refused.value.retry_after >= 1
        with batcher.admit(60), batcher.admit(40):
            assert batcher.admitted_frames == 100
            with pytest.raises(Overloaded):
                with batcher.admit(1):
                    pass
        assert batcher.admitted_frames == 0

    with_batcher(test, max_queue_frames=100)


def test_a_refusal_says_to_return_when_the_foreseen_wait_is_over():
    async def test(batcher, renderer):
        with batcher.admit(64), batcher.admit(64):
            for seconds_per_frame, expected in ((0.0, 1), (0.01, 1), (0.1, 4), (1.0, 32)):
                batcher.seconds_per_frame = seconds_per_frame
                with pytest.raises(Overloaded) as caught, batcher.admit(16):  # Behind 16 frames of each of the two.
                    pass
                assert caught.value.retry_after == expected
                assert batcher.refusal().retry_after == expected

    with_batcher(test, max_queue_frames=128)


def refused(batcher, num_frames, seconds=100.0):
    try:
        with batcher.admit(num_frames, time.monotonic() + seconds):
            return False
    except Overloaded:
        return True


def test_work_that_cannot_be_done_in_time_is_refused_at_once():
    async def test(batcher, renderer):
        batcher.seconds_per_frame = 0.01
        with batcher.admit(160), batcher.admit(160):
            # Of each of the two it waits for as many frames as its own, which is 0.32 s, and then takes 0.16 s itself.
            assert refused(batcher, 16, 0.4) and not refused(batcher, 16, 0.6)
            assert refused(batcher, 160, 4.0) and not refused(batcher, 160, 6.0)

    with_batcher(test, max_queue_frames=1000)


def test_a_foreseen_wait_that_is_too_long_is_refused_at_once():
    async def test(batcher, renderer):
        with batcher.admit(160), batcher.admit(160), batcher.admit(160):
            batcher.seconds_per_frame = 0.01
            assert not refused(batcher, 16)  # 0.48 s behind the three.
            with batcher.admit(16):
                assert refused(batcher, 16)
            assert refused(batcher, 32)

    with_batcher(test, max_queue_frames=10_000, max_wait_seconds=0.5)


def test_under_lasting_overload_the_wait_is_bounded_more_tightly_until_it_is_over(monkeypatch):
    monkeypatch.setattr("serving.runtime.batcher.PATIENCE", 0.05)

    async def test(batcher, renderer):
        with batcher.admit(16):
            batcher.seconds_per_frame = 0.01
            assert not refused(batcher, 16)  # 0.16 s behind one: calm.
            with batcher.admit(16):
                assert not refused(batcher, 16)  # 0.32 s behind two: a burst.
                time.sleep(0.06)
                assert refused(batcher, 16)  # Still: it lasts.
            assert not refused(batcher, 16)  # Room for one again,
            with batcher.admit(16):
                assert refused(batcher, 16)  # but not for more,
            time.sleep(0.06)
            assert not refused(batcher, 16)  # until no request was refused for a while:
            with batcher.admit(16):
                assert not refused(batcher, 16)  # the next burst may wait.

    with_batcher(test, max_queue_frames=10_000, max_wait_seconds=0.5)


def test_a_failing_engine_fails_its_requests_and_then_says_that_it_is_dead():
    async def test(batcher, renderer):
        renderer.fail = True
        for _ in range(3):
            assert batcher.alive
            with pytest.raises(ServingError, match="The model failed"):
                await batcher.submit(rows(1))
        assert not batcher.alive
        renderer.fail = False
        assert (await batcher.submit(rows(9))).out[0, 0, 0, 0] == 9
        assert batcher.alive

    with_batcher(test, HeldRenderer(held=False))


SHORT_OF_MEMORY = [
    MemoryError(),
    RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 1024"),
]


@pytest.mark.parametrize("error", SHORT_OF_MEMORY, ids=["NumPy's", "ONNX Runtime's"])
def test_a_batch_without_memory_is_one_line_and_its_clients_may_come_back(error, caplog, monkeypatch):
    async def test(batcher, renderer):
        monkeypatch.setattr(renderer, "render", lambda *_: (_ for _ in ()).throw(error))
        with pytest.raises(Unavailable, match="short of memory"):
            await batcher.submit(rows(1))

    with_batcher(test)
    (record,) = caplog.records
    assert record.exc_info is None and record.error == "out of memory"


def test_a_failure_after_the_batch_ends_its_requests_too(monkeypatch):
    """They waited for their deadline."""

    def refuse(*args, **options):
        raise MemoryError

    async def test(batcher, renderer):
        monkeypatch.setattr("serving.runtime.batcher.to_uint8", refuse)
        with pytest.raises(Unavailable, match="short of memory"):
            await batcher.submit(rows(1))

    with_batcher(test, HeldRenderer(held=False))


def test_closing_finishes_what_is_queued_and_refuses_the_rest():
    async def test(batcher, renderer):
        jobs = [asyncio.create_task(batcher.submit(rows(0)))]
        await until(lambda: renderer.entered)
        jobs += [asyncio.create_task(batcher.submit(rows(i))) for i in range(1, 40)]
        await until(lambda: batcher.queued_frames == 39)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await until(lambda: batcher._closing)
        with pytest.raises(Unavailable):
            await batcher.submit(rows(1))
        renderer.go.release(100)
        assert [int(job.out[0, 0, 0, 0]) for job in await asyncio.gather(*jobs)] == list(range(40))
        await closing

    with_batcher(test, max_batch_frames=8)


def test_an_idle_worker_waits_for_a_batch_to_fill_only_so_long():
    async def test(batcher, renderer):
        begin = time.monotonic()
        await batcher.submit(rows(1))
        assert 0.15 < time.monotonic() - begin < 1
        await asyncio.gather(*[batcher.submit(rows(i)) for i in range(4)])
        assert [len(batch) for batch in renderer.batches] == [1, 4]

    with_batcher(test, HeldRenderer(held=False), max_batch_frames=4, wait_seconds=0.2)


def test_many_random_requests_all_get_their_own_frames():
    async def test(batcher, renderer):
        rng = np.random.default_rng(0)
        wanted = [rng.integers(0, 256, rng.integers(1, 70)) for _ in range(150)]
        tasks = [asyncio.create_task(batcher.submit(rows(*values))) for values in wanted]
        cancelled = set(rng.choice(150, 40, replace=False).tolist())
        await asyncio.sleep(0)
        for index in cancelled:
            tasks[index].cancel()
        for index, task in enumerate(tasks):
            if index in cancelled:
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                assert (await task).out[:, 0, 0, 0].tolist() == wanted[index].tolist()
        assert batcher.queued_frames == 0 and not batcher._queue

    with_batcher(test, HeldRenderer(held=False), workers=3, max_batch_frames=24)
