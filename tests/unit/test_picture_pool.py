"""Decoders of pictures: limited, killed when nobody waits for them any more, replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import psutil
import pytest
from PIL import Image

from easyanim_server.domain.errors import InvalidArgument, PicturesBusy, ShuttingDown
from easyanim_server.domain.job import BLACK, Bucket, FitPolicy
from easyanim_server.media import picture, picture_pool, picture_process, picture_scan
from easyanim_server.media.picture_pool import Loaded, PicturePool
from tests.e2e.processes import eventually
from tests.pictures import COFFEE, encode, png, quarters, scans

PIXELS = 50_000_000
SLOW = scans(picture_scan.MAX_SCANS, 7000, 7000)
"""Small, allowed by every count, and some ten seconds of work."""
SMALL = encode(quarters())


@pytest.fixture
async def pool() -> AsyncIterator[PicturePool]:
    pool = PicturePool(2, max_pixels=PIXELS, max_file_bytes=32 * 2**20)
    yield pool
    await pool.close()


async def load(pool: PicturePool, data: bytes) -> Loaded:
    async with pool.claim() as decoder:
        return await decoder.load("start_image", data, BLACK)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


async def working(pool: PicturePool) -> tuple[asyncio.Task[Loaded], int]:
    """Somebody who waits for the slow picture, and the process that decodes it."""
    caller = asyncio.create_task(load(pool, SLOW))
    while not pool.working:
        await asyncio.sleep(0.001)
    (pid,) = pool.working
    while psutil.Process(pid).cpu_times().user < 0.2:  # by then it is in the picture, not in its own imports
        await asyncio.sleep(0.01)
    return caller, pid


@pytest.mark.parametrize("policy", FitPolicy)
async def test_a_decoder_gives_the_bits_that_decoding_here_gives(pool: PicturePool, policy: FitPolicy) -> None:
    clear = Image.new("RGBA", (300, 100), (9, 90, 200, 99))
    files = {"start_image": COFFEE.read_bytes(), "end_image": encode(clear)}
    bucket = Bucket.parse("96x160x49")

    async with pool.claim() as decoder:
        found = {field: await decoder.load(field, data, "#ff8800") for field, data in files.items()}
        for field, data in files.items():
            fitted = await decoder.fit(field, bucket, policy, "#ff8800", found[field].sha256)
            here = picture.load(data, field, max_pixels=PIXELS, background="#ff8800")
            assert (found[field].width, found[field].height) == here.size
            assert fitted.rgb == picture.fit(here, bucket, policy, "#ff8800").rgb
            assert fitted.source_sha256 == found[field].sha256 != ""


async def test_processes_are_started_at_need_and_used_again(pool: PicturePool) -> None:
    assert pool.pids == []
    for _ in range(3):
        await load(pool, SMALL)
    assert len(pool.pids) == 1
    await asyncio.gather(*(load(pool, SMALL) for _ in range(12)))
    assert len(pool.pids) <= 2


async def test_a_decoder_forgets_what_its_last_request_had(pool: PicturePool) -> None:
    await load(pool, SMALL)
    async with pool.claim() as decoder:
        with pytest.raises(RuntimeError, match="KeyError"):
            await decoder.fit("start_image", Bucket.parse("96x160x49"), FitPolicy.CROP, BLACK)


async def test_who_leaves_takes_the_work_along(pool: PicturePool) -> None:
    caller, pid = await working(pool)
    caller.cancel()
    await asyncio.wait([caller])

    assert pool.pids == []
    eventually(lambda: gone(pid), 5)
    assert (await load(pool, SMALL)).width == 64


async def test_a_picture_that_takes_too_long_is_refused(pool: PicturePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_pool, "CPU_SECONDS", 0.25)

    with pytest.raises(InvalidArgument, match=r"takes more than 0\.25 s of CPU time to decode"):
        await load(pool, SLOW)
    assert (await load(pool, SMALL)).width == 64


async def test_a_picture_that_takes_too_much_memory_is_refused(pool: PicturePool) -> None:
    pool.memory_bytes = 150 * 2**20
    data = png(7000, 7000, depth=1, colour=0, rows=bytes(7000 * 876))  # 47 MiB as grey, 187 as RGB

    with pytest.raises(InvalidArgument, match="takes more than the 150 MiB of memory that a picture may take"):
        await load(pool, data)
    assert (await load(pool, SMALL)).width == 64


async def test_a_process_that_is_killed_costs_its_own_caller_alone(pool: PicturePool) -> None:
    caller, pid = await working(pool)
    async with pool.claim() as decoder:
        await decoder.load("start_image", SMALL, BLACK)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(InvalidArgument, match=r"start_image: ended the process .* \(killed by signal 9\)"):
            await caller
        assert (await decoder.fit("start_image", Bucket.parse("96x160x49"), FitPolicy.CROP, BLACK)).width == 160
    assert (await load(pool, SMALL)).width == 64


async def test_a_process_that_died_between_two_requests_is_replaced(pool: PicturePool) -> None:
    await load(pool, SMALL)
    (pid,) = pool.pids
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    assert (await load(pool, SMALL)).width == 64
    assert pid not in pool.pids


async def stopped(pool: PicturePool) -> int:
    """The id of the pool's process, which stands still from now on."""
    await load(pool, SMALL)
    (pid,) = pool.pids
    os.kill(pid, signal.SIGSTOP)
    return pid


async def test_a_process_that_stands_still_is_killed_in_time(
    pool: PicturePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = await stopped(pool)
    monkeypatch.setattr(picture_pool, "ANSWER_SECONDS", 0.2)

    with pytest.raises(PicturesBusy):
        await load(pool, SMALL)
    eventually(lambda: gone(pid), 5)


async def test_the_loop_goes_on_while_a_large_file_is_handed_over(pool: PicturePool) -> None:
    await stopped(pool)  # so that its pipe is full after 64 KiB
    caller = asyncio.create_task(load(pool, bytes(30 * 2**20)))

    for _ in range(100):
        await asyncio.sleep(0)
    assert not caller.done()
    caller.cancel()


async def test_who_finds_no_decoder_is_told_to_come_back(pool: PicturePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_pool, "WAIT_SECONDS", 0.05)
    async with pool.claim(), pool.claim():
        with pytest.raises(PicturesBusy):
            await load(pool, SMALL)
    assert (await load(pool, SMALL)).width == 64


async def test_of_those_who_wait_the_first_is_served_first_and_who_leaves_takes_no_turn(pool: PicturePool) -> None:
    served: list[int] = []

    async def wait(number: int) -> None:
        async with pool.claim():
            served.append(number)

    async with pool.claim(), pool.claim():
        waiting = []
        for number in range(4):
            waiting.append(asyncio.create_task(wait(number)))
            await asyncio.sleep(0)
        waiting[1].cancel()
        await asyncio.wait([waiting[1]])
    await asyncio.wait(waiting)
    assert served == [0, 2, 3]
    async with pool.claim(), pool.claim():
        pass  # no turn was lost


async def test_closing_kills_what_works_and_refuses_who_waits(pool: PicturePool) -> None:
    pid = await stopped(pool)
    at_work, idle = asyncio.create_task(load(pool, SMALL)), pool.claim()
    await asyncio.sleep(0)
    await idle.__aenter__()
    waiting = asyncio.create_task(load(pool, SMALL))
    await asyncio.sleep(0)

    began = time.monotonic()
    await pool.close()

    assert time.monotonic() - began < 3
    for caller in (at_work, waiting):
        with pytest.raises(ShuttingDown):
            await caller
    assert gone(pid)
    assert await idle.__aexit__(None, None, None) is not True
    with pytest.raises(ShuttingDown):
        await load(pool, SMALL)


async def test_where_no_process_can_be_started_the_caller_may_come_back(
    pool: PicturePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_process, "get_executable", lambda: "/nowhere/python")

    with pytest.raises(PicturesBusy):
        await load(pool, SMALL)


def test_no_decoder_outlives_the_server() -> None:
    code = (
        "import asyncio, os, signal, sys\n"
        "from tests.unit.test_picture_pool import PIXELS, PicturePool, stopped\n"
        "async def main():\n"
        "    pool = PicturePool(2, max_pixels=PIXELS, max_file_bytes=2**20)\n"
        "    print(await stopped(pool), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as front:
        pid = int(front.communicate(timeout=60)[0])

    assert front.returncode == -signal.SIGKILL
    eventually(lambda: gone(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 5)


def test_a_decoder_is_light() -> None:
    code = "import sys; import easyanim_server.media.picture_child\n"
    code += "print({'grpc', 'numpy', 'pydantic', 'torch'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


async def test_decoders_cannot_write_files_or_hold_many(pool: PicturePool) -> None:
    await load(pool, SMALL)
    (pid,) = pool.pids

    limits = psutil.Process(pid)
    assert limits.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
    assert limits.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    assert limits.rlimit(psutil.RLIMIT_AS) == (pool.memory_bytes,) * 2
