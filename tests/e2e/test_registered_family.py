"""The installed command serves a family of another distribution, registered by its entry point, to the client."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from easyanim_client import Client, InvalidRequest, State, Video
from tests.conftest import encode_picture
from tests.e2e.processes import BIN, ROOT, ServerCommand, eventually
from tests.fakes import second_family

PICTURE = encode_picture("PNG", (24, 16))


def distribution(folder: Path, value: str) -> Mapping[str, str]:
    """Install a distribution that registers a family; returns the environment that sees it."""
    facts = folder / "second_family-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: second-family\nVersion: 1.0\n", encoding="utf-8")
    (facts / "entry_points.txt").write_text(f"[easyanim_server.families]\nsecond = {value}\n", encoding="utf-8")
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


@dataclass
class Served:
    """A server of the second family, and how it was started."""

    client: Client
    model: Path
    environment: Mapping[str, str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("second")
    environment = distribution(folder / "site", "tests.fakes.second_family:SecondFamily")
    second_family.write(folder / "model")
    flags = ("--model", str(folder / "model"), "--device", "cpu", "--backend", "eager")
    command = ServerCommand(*flags, "--cache-dir", str(folder / "cache"), environment=environment)
    with command as server, Client(server.address) as client:
        eventually(lambda: client.info().state is State.SERVING, 180)
        yield Served(client, folder / "model", environment)


def test_the_client_learns_what_the_model_can_be_asked_for(served: Served) -> None:
    info = served.client.info()

    assert info.tasks == ("text",)
    assert [(bucket.name, bucket.frame_counts) for bucket in info.buckets] == [("16x24", (7,)), ("20x12", (3,))]
    assert info.defaults is not None
    assert (info.defaults.guidance, info.defaults.steps, info.defaults.frames) == (3.0, 4, 7)
    assert {profile.solver for profile in info.profiles} <= {"euler", "dpmpp_2m"}
    assert [profile.name for profile in info.profiles if profile.is_default] == ["exact"]


def test_a_video_is_made_with_the_models_own_defaults(served: Served) -> None:
    first, again, other = (served.client.generate("a cat", seed=seed, format="mkv").result() for seed in (1, 1, 2))

    assert isinstance(first, Video)
    parameters = first.receipt.parameters
    assert (parameters.width, parameters.height, parameters.frames) == (24, 16, 7)
    assert (parameters.steps, parameters.guidance, parameters.solver) == (4, 3.0, "euler")
    assert first.receipt.model == str(served.model)
    assert first.receipt.latents_sha256 == again.receipt.latents_sha256 != other.receipt.latents_sha256
    assert first.data is not None
    assert first.data[:4] == b"\x1a\x45\xdf\xa3", "a Matroska file begins so"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"start_image": PICTURE},
            f"start_image: has {len(PICTURE)} bytes; must be left out: the model's tasks are text",
        ),
        ({"solver": "unipc"}, "acceleration.solver: is 'unipc'; must be one of euler, dpmpp_2m"),
        ({"frames": 9}, "frame_count: is 9; this server offers 3, 7"),
        ({"frames": 4}, "frame_count: is 4; must be 2k+1, from 1 to 15, and this server offers 3, 7"),
        ({"bucket": "384x672"}, "bucket: is '384x672'"),
    ],
    ids=lambda given: "-".join(given) if isinstance(given, dict) else "",
)
def test_what_the_model_cannot_do_is_refused_by_name(served: Served, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        served.client.generate("a cat", **arguments).result()  # type: ignore[arg-type]

    assert said in str(refused.value)


def examined(model: str | Path, environment: Mapping[str, str]) -> str:
    """What the doctor says of a model, as one line."""
    words: list[str | Path] = [BIN / "easyanim-server", "doctor", "--model", model, "--device", "cpu"]
    words += ["--listen", "127.0.0.1:0"]
    surroundings = {**os.environ, **environment}
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120, env=surroundings)
    return " ".join(f"{ended.stdout} {ended.stderr}".split())


def test_the_doctor_knows_the_family_too(served: Served) -> None:
    assert "ok placement auto means full here" in examined(served.model, served.environment)


def test_the_doctor_refuses_what_the_family_refuses(served: Served, tmp_path: Path) -> None:
    second_family.write(tmp_path / "model")
    save_file({"words.weight": torch.zeros(9, 9)}, tmp_path / "model" / second_family.WEIGHTS)

    assert "has words.weight (9, 9), not (256, 3)" in examined(tmp_path / "model", served.environment)


def test_a_family_that_cannot_be_imported_is_named_with_what_registers_it(tmp_path: Path) -> None:
    said = examined("builtin:tiny", distribution(tmp_path, "tests.fakes.absent:SecondFamily"))

    assert "the model family second (tests.fakes.absent:SecondFamily) cannot be loaded" in said
    assert "mend or uninstall second-family" in said
