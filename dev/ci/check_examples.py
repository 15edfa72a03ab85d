"""Builds the examples in Go and TypeScript and runs them, and README's grpcurl lines, against a live server."""

from __future__ import annotations

import argparse
import filecmp
import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from dev.load.servers import ROOT, LoadedServer

PHOTOGRAPH = ROOT / "examples" / "coffee.jpg"
GO = ROOT / "examples" / "go"
NODE = ROOT / "examples" / "node"
V5 = ROOT / "tests" / "fixtures" / "upstream" / "models" / "v5-t2v"
"""A small EasyAnimate V5 in its authors' layout, which makes videos from text alone."""
CALLS_OF_V5 = {"ddim": [], "unipc": ["--solver", "unipc", "--guidance-rescale", "0.3"]}
"""Solvers, the published one first, with what asks for each."""
README_ADDRESS = "localhost:50051"
SECONDS = 120
"""Longest time of any one command."""


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--tools", type=Path, required=True, help="folder with grpcurl and Go's protobuf plugins")
    options.add_argument("--buf", type=Path, required=True, help="the program")
    chosen = options.parse_args()
    # The plugins and grpcurl are found by name, as they are by whoever follows a README.
    environment = {**os.environ, "PATH": f"{chosen.tools.resolve()}:{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        check_go_stubs(chosen.buf.resolve(), folder, environment)
        examples = {"Go": build_go(folder), "Node": build_node()}
        with LoadedServer("--buckets", "32x32x5,384x672x1") as server:
            for name, example in examples.items():
                for check in (check_video, check_refusal, check_cancel):
                    check([*example, "--address", server.address], folder / name.lower(), server)
                print(f"the {name} example generates, explains and cancels")
            count = run_readme(server.address, environment)
            print(f"{count} grpcurl lines of README.md work")
        with LoadedServer("--buckets", "48x48x9", model=str(V5)) as server:
            for name, example in examples.items():
                check_v5([*example, "--address", server.address], folder / f"{name.lower()}-v5")
                print(f"the {name} example makes a video with EasyAnimate V5")
    return 0


def check_go_stubs(buf: Path, folder: Path, environment: dict[str, str]) -> None:
    generate: list[str | Path] = [
        buf,
        "generate",
        "proto",
        "--template",
        GO / "buf.gen.yaml",
        "--output",
        folder / "stubs",
    ]
    subprocess.run(generate, cwd=ROOT, env=environment, check=True)
    for fresh in (folder / "stubs").rglob("*.go"):
        committed = GO / fresh.relative_to(folder / "stubs")
        if not committed.exists() or not filecmp.cmp(fresh, committed, shallow=False):
            sys.exit(f"{committed.relative_to(ROOT)} is stale: run 'make examples-stubs'")


def build_go(folder: Path) -> list[str]:
    program = folder / "go-example"
    subprocess.run(["go", "vet", "."], cwd=GO, check=True)
    subprocess.run(["go", "build", "-o", program, "."], cwd=GO, check=True)
    return [str(program)]


def build_node() -> list[str]:
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=NODE, check=True)
    subprocess.run(["npm", "run", "--silent", "build"], cwd=NODE, check=True)
    return ["node", str(NODE / "dist" / "main.js")]


def check_video(example: list[str], folder: Path, server: LoadedServer) -> None:
    """It makes a video of a photograph, shows every phase, and the file is the one that it names."""
    folder.mkdir()
    video = folder / "coffee.mp4"
    said = run([*example, "--image", PHOTOGRAPH, "--bucket", "32x32", "--steps", "3", "--out", video], 0).stdout
    data = video.read_bytes()
    require(data[4:8] == b"ftyp", f"{video.name} does not begin like an MP4 file: {data[:12]!r}", said)
    require(hashlib.sha256(data).hexdigest() in said, "the file has another SHA-256", said)
    for progress in ("text_encode 2/2", "image_encode 5/5", "denoise 3/3", "decode 5/5"):
        require(progress in said, f"progress {progress!r} was not shown", said)
    require(list(folder.iterdir()) == [video], f"files were left behind: {list(folder.iterdir())}", said)


def check_v5(example: list[str], folder: Path) -> None:
    """It makes a video with the published solver and with another one, and says that the model takes no picture."""
    folder.mkdir()
    for solver, options in CALLS_OF_V5.items():
        video = folder / f"{solver}.mp4"
        said = run([*example, *options, "--bucket", "48x48", "--steps", "3", "--out", video], 0).stdout
        require(hashlib.sha256(video.read_bytes()).hexdigest() in said, "the file has another SHA-256", said)
        require(f", {solver}, seed " in said, f"the solver was not {solver}", said)
        introduced = "easyanimate-v5: makes videos from text; solvers ddim, unipc, dpmpp_2m; bert reads 77 tokens; t5"
        require(introduced in said, "it does not say what the model is", said)
    said = run([*example, "--image", PHOTOGRAPH, "--out", folder / "none.mp4"], 1).stderr
    refusal = r"^  start_image has \d+ bytes; must be left out: the model's tasks are text"
    require(re.search(refusal, said, re.MULTILINE) is not None, "a picture was not refused by its field", said)


def check_refusal(example: list[str], folder: Path, server: LoadedServer) -> None:
    """It says of every wrong field what is wrong with it."""
    said = run([*example, "--prompt", "", "--steps", "500", "--out", folder / "none.mp4"], 1).stderr
    for violation in (r"^  prompt is empty; must say", r"^  step_count is 500; must be from 1 to 200"):
        require(re.search(violation, said, re.MULTILINE) is not None, f"no line is like {violation!r}", said)
    require(not (folder / "none.mp4").exists(), "there is a file of a request that was refused", said)


def check_cancel(example: list[str], folder: Path, server: LoadedServer) -> None:
    """Ctrl-C ends it and frees the server."""
    command = [*example, "--bucket", "32x32", "--steps", "200", "--out", str(folder / "none.mp4")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        started = any(re.match(r"denoise [1-9]\d*/200", line) for line in running.stdout)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=SECONDS)
    require(started, "it ended before it was cancelled", said)
    require(running.returncode == 1, f"it ended with {running.returncode}", said)
    require("the server was told to stop" in said, "it does not say that it was cancelled", said)
    server.wait_until_idle()
    require([file.name for file in folder.iterdir()] == ["coffee.mp4"], "files were left behind", said)


def run_readme(address: str, environment: dict[str, str]) -> int:
    """Run README's lines that begin with grpcurl; returns how many."""
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("grpcurl ")]
    require(len(lines) > 0, "README.md has no grpcurl lines", "")
    for line in lines:
        require(README_ADDRESS in line, f"does not name {README_ADDRESS}", line)
        command: list[str | Path] = ["bash", "-c", line.replace(README_ADDRESS, address)]
        said = run(command, 0, environment).stdout
        if line.endswith("/Generate"):
            require('"completed"' in said and '"chunk"' in said, "no video came", line)
    return len(lines)


def run(
    command: list[str | Path], code: int, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    require(ended.returncode == code, f"{command} ended with {ended.returncode}", ended.stdout[-2000:] + ended.stderr)
    return ended


def require(condition: bool, problem: str, said: str) -> None:
    if not condition:
        sys.exit(f"examples: {problem}\n{said}")


if __name__ == "__main__":
    raise SystemExit(main())
