"""The command line over a real channel, against a scripted service: output, exit codes, signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from google.rpc import code_pb2
from typer.testing import CliRunner

from easyanim.v1 import video_pb2 as pb
from easyanim_client import cli
from easyanim_client.commands import EPILOG, app
from tests.rpc.command import MAIN, Command
from tests.rpc.scripted import (
    ACCEPTED,
    BROKEN,
    DENOISE,
    INVALID,
    PATIENCE,
    QUEUE_FULL,
    QUEUED,
    RESTARTED,
    UNTIL_CANCELLED,
    ScriptedVideoService,
    chunks,
    completed,
    failure,
    success,
)

pytest_plugins = ("tests.rpc.callers",)

DATA = os.urandom(4_321)


def test_generate_saves_the_video_and_sums_it_up_in_one_line(run: Command, scripted: ScriptedVideoService) -> None:
    scripted.script = success(DATA)
    Path("cat.png").write_bytes(b"picture")

    result = run("generate", "a cat", "--image", "cat.png", "--out", "cat.webm", "--steps", "5", "--fit", "pad")

    assert result.exit_code == 0
    assert result.stdout == "cat.webm: 4.3 kB, 50.0 s, seed 42\n"
    assert Path("cat.webm").read_bytes() == DATA
    sent = scripted.requests[0]
    assert (sent.start_image, sent.step_count, sent.fit_policy) == (b"picture", 5, pb.FIT_POLICY_PAD)
    assert sent.output_mime_type == "video/webm"


def test_every_option_of_generate_reaches_the_server(run: Command, scripted: ScriptedVideoService) -> None:
    scripted.script = success(DATA)
    Path("a.png").write_bytes(b"first")
    Path("b.png").write_bytes(b"last")

    run(
        *("generate", "a cat", "--image", "a.png", "--end-image", "b.png", "--bucket", "384x672", "--frames", "25"),
        *("--guidance", "1.5", "--seed", "7", "--fps", "16", "--fit", "stretch", "--negative", ""),
        *("--background", "#ffee00"),
    )

    assert scripted.requests == [
        pb.GenerateRequest(
            prompt="a cat",
            start_image=b"first",
            end_image=b"last",
            negative_prompt="",
            bucket="384x672",
            frame_count=25,
            fit_policy=pb.FIT_POLICY_STRETCH,
            background_color="#ffee00",
            guidance_scale=1.5,
            seed=7,
            frame_rate_fps=16,
            output_mime_type="video/mp4",
        )
    ]


def test_progress_goes_to_stderr_and_quiet_keeps_only_the_summary(run: Command, scripted: ScriptedVideoService) -> None:
    scripted.script = success(DATA)

    told = run("generate", "a cat")
    assert "seed 42" in told.stderr
    assert told.stderr.splitlines()[1:] == ["queued, 2 ahead", "denoising"]

    quiet = run("generate", "a cat", "--quiet", "--out", "out.mp4", "--force")
    assert (quiet.stdout, quiet.stderr) == (told.stdout, "")


def test_json_has_one_object_per_event_and_the_receipt_in_the_last(
    run: Command, scripted: ScriptedVideoService
) -> None:
    scripted.script = success(DATA)

    result = run("generate", "a cat", "--json")

    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["accepted", "queued", "progress", *["chunk"] * 5, "completed"]
    assert events[2]["phase"] == "denoise"
    assert events[4] == {"event": "chunk", "offset": 1000, "length": 1000}
    assert (events[-1]["path"], events[-1]["size"]) == ("out.mp4", len(DATA))
    assert events[-1]["receipt"]["parameters"]["seed"] == 42
    assert events[-1]["timings"]["total_seconds"] == 50
    assert "data" not in events[-1]


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        pytest.param([INVALID], 2, "Error: the request is invalid", id="invalid"),
        pytest.param([failure(code_pb2.UNAVAILABLE, "gone")], 3, "Error: gone", id="unavailable"),
        pytest.param([QUEUE_FULL], 4, "  try again in 12.5 s", id="queue-full"),
        pytest.param([failure(code_pb2.DEADLINE_EXCEEDED, "a proxy's limit")], 5, "Error: a proxy's", id="deadline"),
        pytest.param([BROKEN], 6, "  the server's log has more under error id e-77", id="server-failed"),
        pytest.param([*chunks(DATA), completed(b"")], 6, "Error: 4321 bytes arrived", id="corrupt"),
    ],
)
def test_every_failure_has_its_exit_code_and_leaves_no_file(
    run: Command, scripted: ScriptedVideoService, script: list[object], code: int, said: str
) -> None:
    scripted.script = [ACCEPTED, *script]

    result = run("generate", "a cat")

    assert result.exit_code == code
    assert said in result.stderr
    assert result.stdout == ""
    assert os.listdir() == []


def test_field_violations_are_printed_one_per_line(run: Command, scripted: ScriptedVideoService) -> None:
    scripted.script = [INVALID]

    result = run("generate", "a cat", "--quiet")

    assert result.stderr.splitlines() == [
        "Error: the request is invalid",
        "  frame_count (--frames): 50 is not 4k+1",
        "  seed (--seed): -1 is negative",
    ]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--out", "cat.avi"], id="format"),
        pytest.param(["--image", "missing.png"], id="no-picture"),
        pytest.param(["--bucket", "384x672", "--aspect", "16:9"], id="two-sizes"),
        pytest.param(["--fit", "squeeze"], id="fit"),
        pytest.param(["--steps", "99999999999"], id="too-wide"),
        pytest.param(["--out", "missing/cat.mp4"], id="no-folder"),
        pytest.param(["--unheard-of"], id="option"),
        pytest.param(["--timeout", "0"], id="no-time"),
        pytest.param(["--receipt", "missing/cat.json"], id="no-folder-for-the-receipt"),
        pytest.param(["--out", "-", "--json"], id="two-things-on-stdout"),
        pytest.param(["--out", "-", "--receipt", "cat.json"], id="receipt-of-stdout"),
    ],
)
def test_wrong_usage_exits_with_2_and_sends_nothing(
    run: Command, scripted: ScriptedVideoService, words: list[str]
) -> None:
    assert run("generate", "a cat", *words).exit_code == 2
    assert scripted.requests == []


def test_a_folder_that_is_not_there_is_said_of_the_file_that_was_asked_for(run: Command) -> None:
    result = run("generate", "a cat", "--out", "missing/cat.mp4", "--quiet")

    assert result.stderr == "Error: missing/cat.mp4: the folder does not exist\n"


def test_a_restart_is_said_once_and_the_rest_is_shown_anew(run: Command, scripted: ScriptedVideoService) -> None:
    scripted.script = [ACCEPTED, DENOISE, *chunks(b"void" * 999), RESTARTED, QUEUED, *success(DATA)[2:]]

    told = run("generate", "a cat")
    assert told.stderr.splitlines()[1:] == [
        "denoising",
        "restarted, run 2: the worker process ended (killed by signal 9); the video is made anew with the same seed",
        "queued, 2 ahead",
        "denoising",
    ]
    assert Path("out.mp4").read_bytes() == DATA

    lines = run("generate", "a cat", "--json").stdout.splitlines()
    (restarted,) = [event for event in map(json.loads, lines) if event["event"] == "restarted"]
    assert (restarted["attempt"], restarted["reason"]) == (2, "WORKER_LOST")
    assert run("generate", "a cat", "--out", "-").stdout_bytes == DATA


def test_with_a_dash_the_video_alone_goes_to_stdout(run: Command, scripted: ScriptedVideoService) -> None:
    scripted.script = success(DATA)

    result = run("generate", "a cat", "--out", "-")

    assert (result.exit_code, result.stdout_bytes) == (0, DATA)
    assert result.stderr.splitlines()[-1] == "stdout: 4.3 kB, 50.0 s, seed 42"
    assert scripted.requests[0].output_mime_type in ("", "video/mp4")
    assert os.listdir() == []


def test_the_timeout_ends_the_work_on_the_server(run: Command, scripted: ScriptedVideoService) -> None:
    scripted.script = [ACCEPTED, UNTIL_CANCELLED]

    for timeout in ("0.2", "2", str(PATIENCE)):
        assert run("generate", "a cat", "--timeout", timeout).exit_code == 5
        if scripted.requests:  # a busy machine may not get it to the server in time
            break
    assert scripted.cancelled.wait(PATIENCE)


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        pytest.param(signal.SIGINT, 130, "Cancelled; the server was told to stop.", id="ctrl-c"),
        pytest.param(signal.SIGTERM, 143, "", id="sigterm"),
    ],
)
def test_a_signal_cancels_on_the_server_and_leaves_no_file(
    scripted: ScriptedVideoService, tmp_path: Path, number: int, code: int, said: str
) -> None:
    scripted.script = [ACCEPTED, chunks(DATA)[0], UNTIL_CANCELLED]
    words = ["generate", "a cat", "--json", "--address", scripted.address]
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert [json.loads(process.stdout.readline())["event"] for _ in range(2)] == ["accepted", "chunk"]
        assert len(os.listdir(tmp_path)) == 1
        process.send_signal(number)
        _, stderr = process.communicate(timeout=PATIENCE)

    assert process.returncode == code
    assert stderr.strip() == said
    assert scripted.cancelled.wait(PATIENCE)
    assert os.listdir(tmp_path) == []


def test_ctrl_c_while_the_command_is_still_being_loaded_ends_it_quietly(tmp_path: Path) -> None:
    slow = tmp_path / "grpc" / "__init__.py"
    slow.parent.mkdir()
    slow.write_text(f"import time; print('loading', flush=True); time.sleep({PATIENCE})")
    project = (Path(__file__).parents[2] / "client" / "pyproject.toml").read_text()
    scripts = re.search(r'^easyanim-client = "(.+):(.+)"$', project, re.MULTILINE)
    assert scripts is not None
    # As the installed script does; a process that a shell started in the background ignores SIGINT.
    begin = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import sys; from {scripts[1]} "
    program = f"{begin}import {scripts[2]}; sys.exit({scripts[2]}())"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", program, "--help"],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=PATIENCE)

    assert (process.returncode, *said) == (130, "", "")


def test_info_is_told_in_lines_or_as_json(run: Command, scripted: ScriptedVideoService) -> None:
    scripted.info = pb.GetServerInfoResponse(
        version="0.1.0",
        model=pb.Model(name="builtin:tiny"),
        buckets=[pb.Bucket(name="96x160", width_px=160, height_px=96, frame_counts=[13, 25])],
        limits=pb.Limits(max_queued_count=8),
        state=pb.STATE_STARTING,
        state_detail="loading the model",
    )

    lines = run("info").stdout.splitlines()
    assert lines[1:3] == ["model     builtin:tiny", "          not loaded yet"]
    assert lines[0] == "easyanim  0.1.0, starting (loading the model), 0 of 8 places in the queue taken"
    assert lines[-1] == "bucket    96x160, frames 13, 25"

    told = json.loads(run("info", "--json").stdout)
    assert (told["state"], told["buckets"][0]["frame_counts"]) == ("starting", [13, 25])


def test_a_terminal_without_unicode_gets_what_it_can_show(scripted: ScriptedVideoService) -> None:
    scripted.info = pb.GetServerInfoResponse(model=pb.Model(name="modèle"), state=pb.STATE_SERVING)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}

    command = [sys.executable, "-c", MAIN, "top", "--once", "--address", scripted.address]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "mod\\xe8le" in shown.stdout


def test_the_version_is_an_option() -> None:
    result = CliRunner().invoke(app, ["--version"])

    assert (result.exit_code, result.stdout) == (0, f"{version('easyanim-client')}\n")


def test_the_exit_codes_of_the_help_are_the_ones_of_the_module() -> None:
    documented = [line.strip() for line in (cli.__doc__ or "").splitlines()]

    for line in EPILOG.splitlines()[1:]:
        assert line in documented
    assert "143  SIGTERM" in CliRunner().invoke(app, ["generate", "--help"]).stdout


def test_without_its_extra_the_command_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    for module in [name for name in sys.modules if name.startswith("easyanim_client.commands")]:
        monkeypatch.delitem(sys.modules, module)

    with pytest.raises(SystemExit) as caught:
        cli.main()

    assert caught.value.code == 2
    assert "pip install '.[cli]' in a clone of easyanim" in capsys.readouterr().err
