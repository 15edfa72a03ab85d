"""Runs the Dockerfile's own steps where there is no container engine: each stage in a clean Debian root, with chroot.

Needs root, debootstrap and a free port 50051. What is built is then used: the server starts as the image's user on the
built-in model, the image's health check must pass, and a client must get a video. GPUs, volumes and the base image that
FROM names are not tried.

    sudo python3 dev/ci/check_image.py [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTION = "bookworm"
HOST_FILES = (
    "etc/resolv.conf", "etc/hosts", "etc/pip.conf", "etc/apt/apt.conf.d", "etc/apt/sources.list.d", "etc/ssl/certs",
    "usr/share/ca-certificates", "usr/local/share/ca-certificates",
)  # fmt: skip
"""How this machine reaches package indexes."""
TOOLS = ("gcc", "cc", "g++", "make", "ld", "pip", "pip3", "git")
"""What the server's stage must not have."""
HEALTHY_SECONDS = 300


@dataclass(frozen=True)
class Stage:
    """A root folder with what the Dockerfile said about it."""

    root: Path
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin"}
    )
    user: str = "root"
    folder: str = "/"
    healthcheck: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def argv(self, words: list[str], **environment: str) -> list[str]:
        """`words` as the stage's user, in its folder, with its environment and nothing else of ours."""
        given = {"HOME": f"/home/{self.user}" if self.user != "root" else "/root", **self.environment, **environment}
        passed = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
        assignments = [f"{name}={value}" for name, value in {**passed, **given}.items()]
        inner = f"cd {shlex.quote(self.folder)} && exec {shlex.join(words)}"
        user = ["--userspec", f"{self.user}:{self.user}"] if self.user != "root" else []
        return ["chroot", *user, str(self.root), "/usr/bin/env", "-i", *assignments, "/bin/sh", "-c", inner]

    def run(self, words: list[str]) -> None:
        """Run `words` to their end, which must be good."""
        subprocess.run(self.argv(words), check=True)


class Builder:
    """Follows a Dockerfile's instructions."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clean = folder / "clean"
        self.stages: dict[str, Stage] = {}

    def build(self, dockerfile: Path, target: str) -> Stage:
        """Follow everything up to the end of the stage `target`."""
        name = ""
        for instruction, rest in instructions(dockerfile.read_text()):
            if instruction == "FROM":
                if name == target:
                    break
                base, _, name = rest.partition(" AS ")
                print(f"== stage {name}", flush=True)
                self.stages[name] = self._begin(base, name)
            elif name:
                print(f"-- {instruction} {rest}", flush=True)
                self.stages[name] = self._follow(self.stages[name], instruction, rest)
        return self.stages[target]

    def _begin(self, base: str, name: str) -> Stage:
        if base in self.stages:
            source = self.stages[base]
        else:
            if not self._clean.exists():
                subprocess.run(["debootstrap", "--variant=minbase", DISTRIBUTION, self._clean], check=True)
                for file in HOST_FILES:
                    self._copy(Path("/") / file, self._clean / file)
            source = Stage(self._clean)
        root = self._folder / name
        subprocess.run(["cp", "-a", source.root, root], check=True)
        return replace(source, root=root)

    def _follow(self, stage: Stage, instruction: str, rest: str) -> Stage:
        if instruction == "RUN":
            stage.run(["/bin/sh", "-ec", rest])
        elif instruction == "COPY":
            *sources, target = shlex.split(rest)
            root = ROOT
            if sources[0].startswith("--from="):
                root = self.stages[sources.pop(0).removeprefix("--from=")].root
            for source in sources:
                into = Path(stage.folder) / target / (source if target in (".", "./") else "")
                self._copy(root / source.lstrip("/"), stage.root / str(into).lstrip("/"))
        elif instruction == "ENV":
            pairs = dict(word.partition("=")[::2] for word in shlex.split(rest))
            known = stage.environment
            values = {name: re.sub(r"\$(\w+)", lambda match: known.get(match[1], ""), pairs[name]) for name in pairs}
            return replace(stage, environment={**known, **values})
        elif instruction == "WORKDIR":
            (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            return replace(stage, folder=rest)
        elif instruction == "USER":
            return replace(stage, user=rest)
        elif instruction == "HEALTHCHECK":
            return replace(stage, healthcheck=json.loads(rest.partition(" CMD ")[2]))
        elif instruction == "ENTRYPOINT":
            return replace(stage, entrypoint=json.loads(rest))
        elif instruction == "CMD":
            return replace(stage, command=json.loads(rest))
        elif instruction not in ("VOLUME", "EXPOSE"):
            raise SystemExit(f"the Dockerfile uses {instruction}, which this script does not know")
        return stage

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        if not source.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)


def instructions(text: str) -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined; a global ARG is left out."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    found = [line.partition(" ")[::2] for line in joined.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, rest in found if word != "ARG"]


@contextmanager
def mounted(root: Path) -> Iterator[None]:
    """What an engine mounts for every container, and processors cannot be counted without."""
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", root / "proc"], check=True)


def use(stage: Stage, folder: Path) -> None:
    """Start what was built, ask for its health as the image does, and make a video."""
    found = [tool for tool in TOOLS if any((stage.root / place / tool).exists() for place in ("usr/bin", "bin"))]
    assert not found, f"the server's stage has build tools: {found}"
    assert not (stage.root / "opt/easyanim/bin/pip").exists(), "the server's stage has pip"
    assert stage.user != "root", "the server runs as root"
    with mounted(stage.root), open(folder / "server.log", "w") as log:
        argv = stage.argv(stage.entrypoint + stage.command, EASYANIM_MODEL="builtin:tiny", EASYANIM_BUCKETS="64x96x13")
        server = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            until = time.monotonic() + HEALTHY_SECONDS
            while subprocess.run(stage.argv(stage.healthcheck), capture_output=True).returncode:
                assert server.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < until, f"not healthy after {HEALTHY_SECONDS} s"
                time.sleep(1)
            print("healthy", flush=True)
            stage.run(["easyanim-client", "generate", "a cat", "--steps", "2", "--out", "/tmp/cat.mp4", "--quiet"])
            scrape = (
                "import urllib.request as r; print(len(r.urlopen('http://127.0.0.1:9464/metrics').read()), 'bytes')"
            )
            stage.run(["python3", "-c", scrape])
        finally:
            server.terminate()
            assert server.wait(60) == 0, "the server did not drain"
    print("the image's steps work", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="build here and leave it; default: a temporary folder")
    keep = parser.parse_args().keep
    folder = keep or Path(tempfile.mkdtemp(prefix="easyanim-image-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        use(Builder(folder).build(ROOT / "Dockerfile", "server"), folder)
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
