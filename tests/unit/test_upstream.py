"""The engine computes what the authors' own modules computed; see tests/fixtures/README.md."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from easyanim_server.config.settings import Settings
from easyanim_server.domain.execution import Backend
from easyanim_server.domain.job import Bucket, Job, Picture
from easyanim_server.engine import loop
from easyanim_server.engine.engine import Engine, unobserved
from easyanim_server.engine.families.easyanimate_v51 import positions
from easyanim_server.engine.families.easyanimate_v51.transformer import EasyAnimateDenoiser
from easyanim_server.engine.families.runtime import resident
from easyanim_server.engine.sampling import Sampling

CASE = Path(__file__).parents[1] / "fixtures" / "v51-inp-i2v"

RENAMED = (
    (r"attn2\.to_([qkv])\.", r"attn1.add_\1_proj."),
    (r"attn2\.to_out\.0\.", r"attn1.to_add_out."),
    (r"attn2\.norm_([qk])\.", r"attn1.norm_added_\1."),
)
"""Names of the original layout and of diffusers'."""


class Case:
    """One request, and the engine with its checkpoint."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.engine = Engine.from_settings(Settings(model=str(folder), device="cpu", backend=Backend.EAGER, **settings))
        request = json.loads((CASE / "request.json").read_text())
        bucket = Bucket(request["height"], request["width"], request["frames"])
        self.job = Job(
            id="1",
            prompt=request["prompt"],
            negative_prompt=request["negative_prompt"],
            bucket=bucket,
            steps=request["steps"],
            guidance=request["guidance_scale"],
            seed=0,
            start=picture(CASE / request["start"]),
            end=picture(CASE / request["end"]),
        )
        self.expected = load_file(CASE / "expected.safetensors") | load_file(CASE / "text.safetensors")
        self.texts = [self.engine._prompts(text) for text in (self.job.prompt, self.job.negative_prompt)]

    def begin(self) -> Sampling:
        noise = {
            "latents": self.expected["noise.latents"].float(),
            "pictures": self.expected["noise.picture"][0].float(),
        }
        conditions = dict(zip(("prompt", "negative_prompt"), self.texts, strict=True))
        return loop.begin(self.engine.pipeline, self.job, conditions, resident, unobserved, noise=noise)

    def error(self, result: Tensor, name: str) -> float:
        """Largest difference from what is expected under that name."""
        expected = self.expected[name]
        assert result.shape == expected.shape
        return (result - expected).abs().max().item()

    def first_velocities(self) -> Tensor:
        """The negative half first."""
        given = self.begin()
        with torch.no_grad():
            made = self.engine.predictor.predict(given.network_inputs(), self.texts[::-1])
        return torch.cat(made)


def denoiser_of(case: Case) -> EasyAnimateDenoiser:
    denoiser = case.engine.pipeline.denoiser
    assert isinstance(denoiser, EasyAnimateDenoiser)
    return denoiser


def picture(file: Path) -> Picture:
    image = Image.open(file).convert("RGB")
    return Picture(image.width, image.height, image.tobytes())


def in_diffusers_layout(folder: Path) -> Path:
    """Write the fixture's checkpoint as diffusers would name its weights."""
    for component in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(CASE / component, folder / component)
    shutil.copy(CASE / "model_index.json", folder)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = {}
    for name, tensor in load_file(weights).items():
        for pattern, ours in RENAMED:
            name = re.sub(pattern, ours, name)
        tensors[name] = tensor
    save_file(tensors, weights)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_diffusers_layout(tmp_path_factory.mktemp("upstream") / "model")


@pytest.fixture(scope="module")
def case(folder: Path) -> Case:
    return Case(folder)


def test_prompts_are_read_as_the_authors_read_them(case: Case) -> None:
    for text, name in zip(case.texts, ("prompt", "negative"), strict=True):
        assert case.error(text["text"], f"text.{name}_embeds") < 2e-4


def test_pictures_and_schedule_are_the_authors(case: Case) -> None:
    given = case.begin()

    assert case.error(given.inputs["inpaint"], "forward.inpaint_latents") < 1e-4
    assert case.error(given.schedule.timesteps, "schedule.timesteps") < 1e-3
    assert case.error(given.schedule.sigmas, "schedule.sigmas") < 1e-6


def test_angles_are_those_that_the_network_was_trained_with(case: Case) -> None:
    given = case.begin()
    texts = case.texts[0]["text"].shape[1]
    cos, sin = denoiser_of(case).rope(given.latents, texts)

    assert case.error(cos[texts:], "forward.rope_cos") < 1e-5
    assert case.error(sin[texts:], "forward.rope_sin") < 1e-5


def test_the_networks_first_prediction_is_the_authors(case: Case) -> None:
    assert case.error(case.first_velocities(), "forward.output") < 1e-4


@pytest.mark.parametrize("batch", ["one by one", "in pairs"])
def test_every_step_and_the_frames_are_the_authors(case: Case, folder: Path, batch: str) -> None:
    if batch == "in pairs":
        case = Case(folder, guidance_batch="2")
        case.engine.prepare([case.job.bucket])
    sampling = case.begin()
    compared = 0
    while not sampling.done:
        case.engine.step(sampling)
        if (name := f"latents.{sampling.index:02}") in case.expected:
            assert case.error(sampling.latents, name) < 1e-3
            compared += 1
    assert compared == 3

    frames = torch.cat(list(case.engine.pipeline.decode(sampling.latents, resident)), dim=2)
    expected = case.expected["video_u16"].to(torch.int32) / 65535
    assert ((frames * 0.5 + 0.5).clamp(0, 1) - expected).abs().max() < 1e-3
    pixels = np.concatenate(list(case.engine.decode(sampling)))
    assert np.abs(pixels - expected[0].permute(1, 2, 3, 0).numpy() * 255).max() < 0.5 + 255e-3


@pytest.mark.parametrize("by", ["mode", "checkpoint"])
def test_the_ports_positions_are_kept_where_they_are_asked_for(folder: Path, tmp_path: Path, by: str) -> None:
    if by == "mode":
        case = Case(folder, attention_mode="diffusers")
    else:
        shutil.copytree(folder, tmp_path / "model")
        config = tmp_path / "model" / "transformer" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), positions.KEY: "diffusers"}))
        case = Case(tmp_path / "model")
    latents = case.begin().latents
    stock = denoiser_of(case).transformer.rope_embedding(latents)

    assert torch.equal(denoiser_of(case).rope(latents, 0)[0], stock[0])
    assert case.error(stock[0], "forward.rope_cos") > 0.05
    assert case.error(case.first_velocities(), "forward.output") > 0.05
