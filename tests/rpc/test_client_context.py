"""Where a client cannot work it says so at once: after a fork, in another event loop, under gevent."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import easyanim_client as ea
from tests.rpc.scripted import ScriptedVideoService, success

pytest_plugins = ("tests.rpc.callers",)

DATA = os.urandom(2_000)

FORKED = """
import os, signal, sys
import easyanim_client as ea

def in_child(act):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # one that hangs is ended, and then says nothing
        try:
            said = act()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, str(said).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader) as file:
        print(file.read(), flush=True)

def size(client):
    return client.generate("a cat").result().size

address = sys.argv[1]
"""


@pytest.fixture
def program(scripted: ScriptedVideoService, tmp_path: Path) -> Callable[..., list[str]]:
    """Runs a program against the scripted service; the lines that it printed."""
    scripted.script = success(DATA)

    def run(text: str, **environment: str) -> list[str]:
        ended = subprocess.run(
            [sys.executable, "-c", text, scripted.address],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()

    return run


def test_after_a_fork_the_childs_copy_and_a_new_client_say_what_to_do_and_the_parent_goes_on(
    program: Callable[..., list[str]], tmp_path: Path
) -> None:
    copy, new, going_on, cancelled, left, parent, closed = program(
        FORKED
        + """
client = ea.Client(address)
size(client)
in_child(lambda: size(client))
in_child(lambda: size(ea.Client(address)))
generation = client.generate("a cat", save_to="cat.mp4")
events = iter(generation)
next(events)
in_child(lambda: next(events))
in_child(generation.cancel)
in_child(client.close)
print(generation.result().path)
client.close()
in_child(lambda: size(ea.Client(address)))
"""
    )

    assert copy.startswith("UnusableClient: the client was made in process ")
    assert copy.endswith("make a client in each process, after the fork")
    assert new.startswith("UnusableClient: this process was forked from one that had made a client, closed or not")
    assert 'multiprocessing.get_context("spawn")' in new
    assert going_on.startswith("UnusableClient: the client was made in process ")
    assert (cancelled, left) == ("None", "None")
    assert (parent, (tmp_path / "cat.mp4").read_bytes()) == ("cat.mp4", DATA)
    assert closed == new, "gRPC's threads outlive a client that was closed"


def test_with_grpcs_own_support_of_forks_a_new_client_works_in_the_child(program: Callable[..., list[str]]) -> None:
    said = program(
        FORKED
        + """
client = ea.Client(address)
size(client)
in_child(lambda: size(client))
for _ in range(3):
    in_child(lambda: size(ea.Client(address)))
print(size(client))
""",
        GRPC_ENABLE_FORK_SUPPORT="1",
    )

    assert said[0].startswith("UnusableClient: the client was made in process ")
    assert said[1:] == [str(len(DATA))] * 4


def test_a_client_of_another_event_loop_says_so(scripted: ScriptedVideoService) -> None:
    scripted.script = success(DATA)
    here, there = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def make() -> ea.AsyncClient:
        return ea.AsyncClient(scripted.address)

    async def size(client: ea.AsyncClient) -> int:
        return (await client.generate("a cat").result()).size

    try:
        client = here.run_until_complete(make())
        for use in (size(client), client.health(), client.info()):
            with pytest.raises(ea.UnusableClient, match=r"another event loop.*AsyncClient in each loop"):
                there.run_until_complete(use)
        assert here.run_until_complete(size(client)) == len(DATA)
        here.run_until_complete(client.close())
    finally:
        here.close()
        there.close()


GEVENT = """
import signal, sys
from gevent import monkey
monkey.patch_all()
signal.alarm(60)
import easyanim_client as ea
import gevent
"""


def test_under_gevent_a_client_says_what_to_call(program: Callable[..., list[str]]) -> None:
    blocking, asynchronous = program(
        GEVENT
        + """
import asyncio
async def make():
    ea.AsyncClient(sys.argv[1])
for use in (lambda: ea.Client(sys.argv[1]), lambda: asyncio.run(make())):
    try:
        use()
    except ea.UnusableClient as error:
        print(error)
"""
    )

    assert "grpc.experimental.gevent.init_gevent() after monkey.patch_all() and before the first client" in blocking
    assert "use Client, after grpc.experimental.gevent.init_gevent()" in asynchronous


def test_under_gevent_that_grpc_knows_of_greenlets_share_a_client(program: Callable[..., list[str]]) -> None:
    said = program(
        GEVENT
        + """
import grpc.experimental.gevent
grpc.experimental.gevent.init_gevent()
with ea.Client(sys.argv[1]) as client:
    greenlets = [gevent.spawn(lambda: client.generate("a cat").result().size) for _ in range(4)]
    gevent.joinall(greenlets)
    print([greenlet.value for greenlet in greenlets])
"""
    )

    assert said == [str([len(DATA)] * 4)]


def test_gevent_that_patched_nothing_changes_nothing(program: Callable[..., list[str]]) -> None:
    said = program("import sys, gevent.monkey, easyanim_client as ea; print(ea.Client(sys.argv[1]).health())")

    assert said == ["True"]


def test_the_docs_name_each_of_these_places() -> None:
    page = (Path(__file__).parents[2] / "docs" / "concepts.md").read_text(encoding="utf-8")

    for word in ("UnusableClient", "init_gevent", "GRPC_ENABLE_FORK_SUPPORT", "spawn", "AsyncClient"):
        assert word in page
