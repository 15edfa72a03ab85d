"""No file is replaced unless that was asked for, however late it appears."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

import easyanim_client as ea
from easyanim.v1 import video_pb2 as pb
from easyanim_client import saving
from tests.rpc.callers import Caller
from tests.rpc.command import Command
from tests.rpc.scripted import ACCEPTED, ScriptedVideoService, chunks, completed, success

pytest_plugins = ("tests.rpc.callers",)

DATA = os.urandom(2_000)
OLD = b"an older video"


async def test_a_file_that_is_there_is_refused_before_anything_is_sent(
    caller: Caller, scripted: ScriptedVideoService, tmp_path: Path
) -> None:
    target = tmp_path / "cat.mp4"
    target.write_bytes(OLD)
    scripted.script = success(DATA)

    with pytest.raises(FileExistsError, match="exists already"):
        await caller.result(caller.client.generate("a cat", save_to=target))
    assert (scripted.requests, target.read_bytes()) == ([], OLD)

    beside = await caller.result(caller.client.generate("a cat", save_to=target, overwrite="number"))
    assert (beside.path, beside.read(), target.read_bytes()) == (tmp_path / "cat-2.mp4", DATA, OLD)
    replaced = await caller.result(caller.client.generate("a cat", save_to=target, overwrite=True))
    assert (replaced.path, target.read_bytes()) == (target, DATA)
    assert sorted(os.listdir(tmp_path)) == ["cat-2.mp4", "cat.mp4"]


@pytest.mark.parametrize("links", [True, False], ids=["with hard links", "without"])
async def test_a_file_that_appears_meanwhile_is_kept_and_so_is_the_video(
    caller: Caller, scripted: ScriptedVideoService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")  # what FAT says

        monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "cat.mp4"
    goes_on = threading.Barrier(2)
    scripted.script = [ACCEPTED, goes_on, *chunks(DATA), completed(DATA)]
    generation = caller.client.generate("a cat", save_to=target)

    def appear() -> None:
        while not scripted.requests:
            time.sleep(0.005)
        target.write_bytes(OLD)
        goes_on.wait(10)

    other = threading.Thread(target=appear)
    other.start()
    video = await caller.result(generation)
    other.join()

    assert (video.path, video.read(), target.read_bytes()) == (tmp_path / "cat-2.mp4", DATA, OLD)
    assert sorted(os.listdir(tmp_path)) == ["cat-2.mp4", "cat.mp4"]


def test_the_default_name_is_numbered_and_one_that_is_given_is_refused(
    run: Command, scripted: ScriptedVideoService
) -> None:
    scripted.script = success(DATA)

    assert [run("generate", "a cat").stdout.partition(":")[0] for _ in range(3)] == [
        "out.mp4",
        "out-2.mp4",
        "out-3.mp4",
    ]
    assert json.loads(run("generate", "a cat", "--json").stdout.splitlines()[-1])["path"] == "out-4.mp4"
    sent = len(scripted.requests)

    refused = run("generate", "a cat", "--out", "out.mp4", COLUMNS="200")
    assert refused.exit_code == 2
    assert "--out: 'out.mp4' exists already; --force replaces it" in refused.stderr
    assert len(scripted.requests) == sent
    assert run("generate", "a cat", "--out", "out.mp4", "--force").stdout.startswith("out.mp4: ")


def test_a_receipt_is_not_replaced_either(run: Command, scripted: ScriptedVideoService) -> None:
    scripted.script = success(DATA)
    Path("cat.json").write_text("{}")

    refused = run("generate", "a cat", "--receipt", "cat.json", COLUMNS="200")

    assert refused.exit_code == 2
    assert "--receipt: 'cat.json' exists already; --force replaces it" in refused.stderr
    assert (scripted.requests, os.listdir()) == ([], ["cat.json"])


def test_a_second_draft_leaves_the_first_one(run: Command, scripted: ScriptedVideoService) -> None:
    scripted.script = success(DATA)
    size = pb.Bucket(name="384x672", width_px=672, height_px=384, frame_counts=[49])
    scripted.info = pb.GetServerInfoResponse(buckets=[size])
    words = ("generate", "a cat", "--draft-first", "--out", "cat.mp4")

    assert [run(*words).exit_code, run(*words).exit_code] == [8, 8]

    assert sorted(os.listdir()) == ["cat.draft-2.mp4", "cat.draft.mp4"]


def test_the_names_of_concurrent_saves_are_all_different(tmp_path: Path) -> None:
    def save(number: int) -> None:
        partial = tmp_path / f".{number}.part"
        partial.write_text(str(number))
        saving.move_into_place(partial, tmp_path / "cat.mp4", "number")

    threads = [threading.Thread(target=save, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    saved = sorted(tmp_path.iterdir())
    assert sorted(int(file.read_text()) for file in saved) == list(range(16))


def test_replay_refuses_an_out_that_is_there(run: Command, scripted: ScriptedVideoService) -> None:
    for name in ("cat.mp4", "again.mp4"):
        Path(name).write_bytes(OLD)

    refused = run("replay", "cat.mp4", "--out", "again.mp4", COLUMNS="200")

    assert refused.exit_code == 2
    assert "--out: 'again.mp4' exists already; --force replaces it" in refused.stderr
    assert Path("again.mp4").read_bytes() == OLD


async def test_an_interrupted_numbered_save_leaves_nothing(
    caller: Caller, scripted: ScriptedVideoService, tmp_path: Path
) -> None:
    scripted.script = [ACCEPTED, chunks(DATA)[0]]

    with pytest.raises(ea.CorruptVideo):
        await caller.result(caller.client.generate("a cat", save_to=tmp_path / "cat.mp4", overwrite="number"))

    assert os.listdir(tmp_path) == []
