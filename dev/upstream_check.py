"""Holds the engine to what EasyAnimate's own modules computed: ``python -m dev.upstream_check DIR``.

A folder of fixtures has a checkpoint for each model in ``models/`` and a folder for each case: ``request.json``,
pictures, ``text.safetensors`` and ``expected.safetensors``; tests/fixtures/README.md describes them. Every case runs
with the noise given there, in float32 on the CPU, and has one row: the largest differences of text, of what is given of
the video, of timesteps, of one forward, of latents and of frames.

Ends with 1 where a difference is beyond its tolerance or a case fails, or where no case can be run. Cases that ask for
what the server cannot do yet are named and change nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from easyanim_server.config.settings import Settings
from easyanim_server.domain.execution import Backend
from easyanim_server.domain.job import Bucket, Job, Picture
from easyanim_server.domain.profiles import Acceleration, Solver
from easyanim_server.engine import loop
from easyanim_server.engine.engine import Engine, unobserved
from easyanim_server.engine.families.runtime import Condition, resident
from easyanim_server.engine.sampling import NEGATIVE_PROMPT, PROMPT, Sampling

TOLERANCES = {"text": 2e-4, "given": 1e-4, "times": 1e-3, "forward": 1e-4, "latents": 1e-3, "frames": 1e-3}
"""Largest differences that are allowed, by column."""

TASKS = ("i2v", "t2v")

BEYOND = ("lora", "mask", "camera", "strength", "segments", "ref_image", "control")
"""Keys of requests that ask for what the server cannot do."""

LINK_BYTES = 200
"""Most that a file with the target of a link has: what a checkout without links holds in its place."""


@dataclass
class Case:
    """One folder of fixtures.

    Args:
        folder: With its files.
    """

    folder: Path
    request: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.request = json.loads((self.folder / "request.json").read_text(encoding="utf-8"))

    @property
    def model(self) -> Path:
        """Its checkpoint."""
        return Path(os.path.normpath(self.folder / self.request["model"]))

    @property
    def beyond(self) -> str:
        """What it asks for that the server cannot do; empty where it can."""
        wanted = [key for key in BEYOND if self.request.get(key) is not None]
        if self.request["task"] not in TASKS:
            wanted.insert(0, f"task {self.request['task']}")
        return ", ".join(wanted)

    def expected(self) -> dict[str, Tensor]:
        """All tensors, by the names in the files."""
        return load_file(_real(self.folder / "expected.safetensors")) | load_file(
            _real(self.folder / "text.safetensors")
        )

    def job(self) -> Job:
        """The request."""
        request = self.request
        solver = Solver.DDIM if request["family"] == "v5" else Solver.EULER
        return Job(
            id="1",
            prompt=request["prompt"],
            negative_prompt=request.get("negative_prompt") or "",
            bucket=Bucket(request["height"], request["width"], request["frames"]),
            steps=request["steps"],
            guidance=request["guidance_scale"],
            seed=0,
            start=self._picture("start"),
            end=self._picture("end"),
            acceleration=Acceleration(solver),
            guidance_rescale=request.get("guidance_rescale") or 0.0,
        )

    def _picture(self, key: str) -> Picture | None:
        if not self.request.get(key):
            return None
        image = Image.open(self.folder / self.request[key]).convert("RGB")
        return Picture(image.width, image.height, image.tobytes())


def cases(folder: Path) -> list[Case]:
    """All cases of a folder of fixtures, by name."""
    return [Case(file.parent) for file in sorted(folder.glob("*/request.json"))]


def compare(case: Case, engine: Engine) -> dict[str, float]:
    """Run one case; the largest differences by column."""
    job, expected = case.job(), case.expected()
    names = [PROMPT, NEGATIVE_PROMPT] if job.guidance > 1 else [PROMPT]
    texts = {name: engine.pipeline.encode_text(getattr(job, name), resident) for name in names}
    found = {"text": max(_text_errors(texts, expected))}
    noise = {"latents": expected["noise.latents"].float()}
    if "noise.picture" in expected:
        noise["pictures"] = expected["noise.picture"][0].float()
    sampling = loop.begin(engine.pipeline, job, texts, resident, unobserved, noise=noise)
    found["times"] = _error(sampling.schedule.timesteps, expected["schedule.timesteps"])
    if "forward.inpaint_latents" in expected and sampling.inputs:
        found["given"] = _error(sampling.inputs["inpaint"], expected["forward.inpaint_latents"])
    with torch.no_grad():
        first = engine.predictor.predict(sampling.network_inputs(), sampling.prompts[::-1])
    found["forward"] = _error(torch.cat(first), expected["forward.output"])
    found["latents"] = max(_latent_errors(engine, sampling, expected))
    frames = torch.cat(list(engine.pipeline.decode(sampling.latents, resident)), dim=2)
    found["frames"] = _error((frames * 0.5 + 0.5).clamp(0, 1), expected["video_u16"].to(torch.int32) / 65535)
    return found


def beyond_tolerance(found: Mapping[str, float]) -> list[str]:
    """Columns whose difference is too large, or is no number."""
    return [name for name, error in found.items() if not error <= TOLERANCES[name]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each case; see the module."""
    parser = argparse.ArgumentParser(prog="python -m dev.upstream_check", description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder of fixtures")
    folder = parser.parse_args(arguments).folder
    found = cases(folder)
    if not found:
        print(f"{folder} has no case: no folder in it has a request.json", file=sys.stderr)
        return 1
    print(f"{'case':24}" + "".join(f"{name:>10}" for name in TOLERANCES))
    print(f"{'tolerance':24}" + "".join(f"{tolerance:>10.0e}" for tolerance in TOLERANCES.values()))
    passed = [_row(case) for case in found]
    ran = [each for each in passed if each is not None]
    print(f"{sum(ran)} of {len(ran)} cases within the tolerances; {len(passed) - len(ran)} not supported")
    return 0 if ran and all(ran) else 1


def _row(case: Case) -> bool | None:
    """Run one case and print it; None where it is not supported."""
    name = f"{case.folder.name:24}"
    if case.beyond:
        print(f"{name}not supported: {case.beyond}")
        return None
    try:
        with _whole(case.model) as model:
            differences = compare(case, open_engine(model, case.request.get("noise_aug_strength")))
    except Exception as error:  # the other cases are still to be run
        print(f"{name}failed: {type(error).__name__}: {error}")
        return False
    cells = "".join(f"{differences[key]:>10.1e}" if key in differences else f"{'-':>10}" for key in TOLERANCES)
    wrong = beyond_tolerance(differences)
    print(name + cells + (f"  beyond: {', '.join(wrong)}" if wrong else ""))
    return not wrong


def open_engine(model: Path, noise: float | None = None) -> Engine:
    """An engine with a checkpoint, eager in float32 on the CPU; with the model's own noise on pictures by default."""
    given: dict[str, Any] = {} if noise is None else {"noise_augmentation": noise}
    settings = Settings(model=str(model), device="cpu", dtype="float32", backend=Backend.EAGER, **given)
    return Engine.from_settings(settings)


@contextmanager
def _whole(model: Path) -> Iterator[Path]:
    """A checkpoint's folder, or a copy for the time being where a checkout has files in place of links."""
    files = [file for file in sorted(model.rglob("*")) if file.is_file()]
    if all(_real(file) == file for file in files):
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="upstream-") as place:
        for file in files:
            copy = Path(place) / file.relative_to(model)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_real(file), copy)
        yield Path(place)


def _real(file: Path) -> Path:
    """The file itself, or what the path that it holds leads to."""
    while file.stat().st_size < LINK_BYTES and (content := file.read_bytes()).startswith(b"../"):
        target = file.parent / content.decode().strip()
        if not target.is_file():
            break
        file = target
    return file


def _text_errors(texts: Mapping[str, Condition], expected: Mapping[str, Tensor]) -> Iterator[float]:
    for prompt, condition in texts.items():
        stored = f"text.{'prompt' if prompt == PROMPT else 'negative'}_embeds"
        for name, embedding in condition.items():
            yield _error(embedding, expected[stored if name == "text" else f"{stored}_2"])


def _latent_errors(engine: Engine, sampling: Sampling, expected: Mapping[str, Tensor]) -> Iterator[float]:
    """Of every step whose latents are known; takes all of them."""
    while not sampling.done:
        engine.step(sampling)
        if (name := f"latents.{sampling.index:02}") in expected:
            yield _error(sampling.latents, expected[name])


def _error(result: Tensor, expected: Tensor) -> float:
    """Largest difference; infinite where shapes differ."""
    if result.shape != expected.shape:
        return float("inf")
    return float((result - expected).abs().max())


if __name__ == "__main__":
    sys.exit(main())
