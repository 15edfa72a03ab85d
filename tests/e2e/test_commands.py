"""The main job through the installed commands, with the real model classes on builtin:tiny."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from easyanim_client import Client, Phase, Progress, Restarted, Video
from tests import video_reader
from tests.e2e.processes import BIN, ROOT, ServerCommand, client, eventually

PHOTOGRAPH = ROOT / "examples" / "coffee.jpg"
TINY = ("--model", "builtin:tiny", "--buckets", "64x96x13,96x64x13,64x64x5", "--log-format", "json")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerCommand]:
    with ServerCommand(*TINY) as command:
        assert client("health", "--address", command.address, "--wait", "60").returncode == 0
        yield command


@pytest.mark.parametrize("suffix", ["mp4", "webm", "mkv"])
def test_a_photograph_becomes_a_playable_video(server: ServerCommand, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"cat.{suffix}"
    made = client("generate", "a cat blinks", "--image", PHOTOGRAPH, "--out", out, "--steps", "2", "--fps", "10",
                  "--address", server.address)  # fmt: skip

    assert made.returncode == 0, made.stderr
    assert str(out) in made.stdout
    video = video_reader.read(out.read_bytes())
    assert video.frames.shape == (13, 64, 96, 3)
    assert video.fps == 10
    assert video.frames.std() > 5, "there is something to see"
    assert list(tmp_path.iterdir()) == [out], "no partial file is left"


def test_json_output_ends_in_a_receipt_that_repeats_the_video(server: ServerCommand, tmp_path: Path) -> None:
    arguments = ["generate", "a cat", "--steps", "2", "--bucket", "64x64", "--json", "--address", server.address]
    first = client(*arguments, "--out", tmp_path / "1.mp4")
    last = json.loads(first.stdout.splitlines()[-1])
    seed = last["receipt"]["parameters"]["seed"]
    again = client(*arguments, "--out", tmp_path / "2.mp4", "--seed", str(seed))

    assert again.returncode == 0, again.stderr
    assert (tmp_path / "1.mp4").read_bytes() == (tmp_path / "2.mp4").read_bytes()
    assert last["receipt"]["attention_mode"] == "original"


def test_the_five_lines_of_the_readme_work(server: ServerCommand, tmp_path: Path) -> None:
    with Client(server.address) as api:
        video = api.generate("a cat", start_image=PHOTOGRAPH, steps=2, save_to=tmp_path / "cat.mp4").result()
    assert video.path == tmp_path / "cat.mp4"
    assert video_reader.read(video.read()).frames.shape[0] == 13


def test_bad_input_exits_with_2_and_names_the_field(server: ServerCommand, tmp_path: Path) -> None:
    refused = client("generate", "a cat", "--steps", "0", "--address", server.address, "--out", tmp_path / "x.mp4")
    assert refused.returncode == 2
    assert "step_count" in refused.stderr
    assert "from 1 to 200" in refused.stderr


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Processes of this test can be interrupted, also where a shell runs the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_in_the_client_frees_the_server(server: ServerCommand, tmp_path: Path) -> None:
    command: list[str | Path] = [BIN / "easyanim-client", "generate", "a cat", "--steps", "200", "--json"]
    command += ["--address", server.address]
    with subprocess.Popen([*command, "--out", tmp_path / "x.mp4"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "DENOISE" in line.upper():
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    assert list(tmp_path.iterdir()) == []
    with Client(server.address) as api:
        eventually(lambda: api.info().jobs == 0, 5)


def test_a_worker_killed_in_mid_generation_costs_one_event_and_the_video_is_the_same(
    server: ServerCommand, tmp_path: Path
) -> None:
    with Client(server.address) as api:
        reference = api.generate("a cat", steps=60, seed=1).result()
        generation = api.generate("a cat", steps=60, seed=1, save_to=tmp_path / "cat.mp4")
        worker, killed, restarts = server.worker, False, []
        for event in generation:
            if isinstance(event, Restarted):
                restarts.append(event)
            elif not killed and isinstance(event, Progress) and event.phase is Phase.DENOISE and event.completed:
                worker.kill()
                killed = True
        assert [(item.attempt, item.reason) for item in restarts] == [(2, "WORKER_LOST")]
        assert generation.result().sha256 == reference.sha256
        assert hashlib.sha256((tmp_path / "cat.mp4").read_bytes()).hexdigest() == reference.sha256
        assert server.worker.pid != worker.pid
        assert not worker.is_running()


def test_the_front_never_loads_torch(server: ServerCommand) -> None:
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "libtorch" not in maps
    assert "libtorch" in Path(f"/proc/{server.worker.pid}/maps").read_text()


def test_fifty_cancelled_calls_leave_nothing_behind(server: ServerCommand) -> None:
    front = psutil.Process(server.process.pid)

    def cancel_some(count: int) -> None:
        for number in range(count):
            generation = api.generate("a cat", steps=200, start_image=PHOTOGRAPH)
            for seen, _ in enumerate(generation):
                if seen == 2 + number % 5:
                    break
            generation.cancel()

    def footprint() -> dict[str, float]:
        eventually(lambda: api.info().jobs == 0)
        return {
            "front": front.memory_info().rss / 2**20,
            "worker": server.worker.memory_info().rss / 2**20,
            "descriptors": front.num_fds(),
            "processes": len(front.children(recursive=True)),
            "shared memory": sum(not file.name.startswith("sem.mp-") for file in Path("/dev/shm").iterdir()),
        }

    with Client(server.address) as api:
        cancel_some(10)
        before = footprint()
        cancel_some(50)
        after = footprint()
    assert after["descriptors"] <= before["descriptors"]
    assert after["processes"] == before["processes"]
    assert after["shared memory"] == before["shared memory"]
    assert after["front"] < before["front"] + 10
    assert after["worker"] < before["worker"] + 40


def test_sigterm_in_mid_stream_lets_the_video_finish_and_leaves_no_process(tmp_path: Path) -> None:
    with ServerCommand(*TINY) as own:
        assert client("health", "--address", own.address, "--wait", "60").returncode == 0
        family = [own.process.pid, *(child.pid for child in psutil.Process(own.process.pid).children(recursive=True))]
        with Client(own.address) as api:
            events = iter(api.generate("a cat", steps=4))
            next(events)
            own.process.terminate()
            assert isinstance(list(events)[-1], Video)
        assert own.process.wait(60) == 0  # not by `stop`: a second signal may meet a process that handles none any more
        own.stop()
        eventually(lambda: not any(psutil.pid_exists(pid) for pid in family), 5)
        assert [json.loads(line)["event"] for line in own.log.splitlines()][-1] == "stopped"


def ended(process: psutil.Process) -> bool:
    """Whether it computes no more; its parent may not have heard of it yet."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_front_that_is_killed_takes_its_worker_along() -> None:
    with ServerCommand(*TINY) as own:
        assert client("health", "--address", own.address, "--wait", "60").returncode == 0
        worker = own.worker
        own.process.kill()
        own.process.wait()
        eventually(lambda: ended(worker))


def test_a_folder_that_export_wrote_serves_the_same_video(server: ServerCommand, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    subprocess.run([BIN / "easyanim-server", "export", folder], check=True, capture_output=True)
    same: dict[str, Any] = {"steps": 2, "seed": 1, "bucket": "64x64", "format": "mkv"}
    with Client(server.address) as api:
        builtin = api.generate("a cat", **same).result()
    with ServerCommand("--model", str(folder), *TINY[2:]) as own:
        assert client("health", "--address", own.address, "--wait", "60").returncode == 0
        with Client(own.address) as api:
            loaded = api.generate("a cat", **same).result()
    assert np.array_equal(video_reader.read(loaded.read()).frames, video_reader.read(builtin.read()).frames)
    assert loaded.receipt.model_fingerprint == builtin.receipt.model_fingerprint


SERVE: list[str | Path] = [BIN / "easyanim-server", "serve"]


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        (["--queue-size", "0"], {}, ["queue_size", "'0'", "greater than or equal to 1"]),
        (["--buckets", "100x100"], {}, ["100x100", "multiple of 16"]),
        (
            ["--model", "alibaba-pai/EasyAnimateV5.1-7b-zh-Control"],
            {},
            ["Control", "use alibaba-pai/EasyAnimateV5.1-7b-zh-InP"],
        ),
        (["--model", "builtin:huge"], {}, ["builtin:tiny"]),
        (["--model", "builtin:tiny", "--device", "cuda:99"], {}, ["cuda:99"]),
        ([], {"EASYANIM_TYPO": "1"}, ["EASYANIM_TYPO", "EASYANIM_QUEUE_SIZE"]),
        (["--config", "missing.toml"], {}, ["missing.toml"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_that_cannot_work_stop_the_start_with_a_sentence(
    flags: list[str], environment: dict[str, str], words: list[str]
) -> None:
    ended = subprocess.run([*SERVE, "--listen", "127.0.0.1:0", *flags], capture_output=True, text=True, timeout=60,
                           env={**os.environ, **environment})  # fmt: skip
    assert ended.returncode == 2
    last = ended.stderr.strip().splitlines()[-1]
    for word in words:
        assert word in last
    assert "Traceback" not in ended.stderr


def test_doctor_says_what_is_there() -> None:
    examined = subprocess.run(
        [BIN / "easyanim-server", "doctor", "--model", "builtin:tiny", "--listen", "127.0.0.1:0"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert examined.returncode == 0, examined.stdout
    for subject in ("GPU", "device", "model", "video codecs", "address"):
        assert subject in examined.stdout


def test_nothing_of_a_job_stays_in_the_temporary_folder(server: ServerCommand) -> None:
    before = set(Path(tempfile.gettempdir()).glob("easyanim*"))
    threads = []
    with Client(server.address) as api:
        for _ in range(3):
            threads.append(threading.Thread(target=lambda: api.generate("a cat", steps=2, bucket="64x64").result()))
            threads[-1].start()
        for thread in threads:
            thread.join()
    assert set(Path(tempfile.gettempdir()).glob("easyanim*")) == before
