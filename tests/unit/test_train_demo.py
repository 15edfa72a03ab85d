"""The demo model's training, at tiny size on the CPU: every stage runs, learns, goes on, and is served."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dev.train_demo import __main__ as command
from dev.train_demo import clips, evaluate, pictures, prompts, state, vae_forward
from dev.train_demo.gradients import Gradients
from dev.train_demo.linear import LinearCode
from dev.train_demo.motion import CAMERA, SPEEDS, Scene, camera_of, draw_scene
from dev.train_demo.networks import Sizes, make_transformer, make_vae
from dev.train_demo.optimiser import Muon, MuonAdamW
from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.families.easyanimate_v51.transformer import EasyAnimateDenoiser
from easyanim_server.engine.families.easyanimate_v51.vae import VideoAutoencoder
from easyanim_server.engine.weights import checkpoint
from tests.models import make_job, run

pytestmark = pytest.mark.long

CPU = torch.device("cpu")


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def bank() -> pictures.Bank:
    return pictures.Bank([], 4, CPU, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-ins for photographs, of which one is held out."""
    folder = tmp_path_factory.mktemp("photographs")
    textures = pictures.draw_textures(3, 220, torch.Generator().manual_seed(1))
    for number, texture in enumerate((textures * 255).byte().permute(0, 2, 3, 1).numpy()):
        Image.fromarray(texture).save(folder / f"{number}.jpg")
    said = {"author": "nobody", "licence": "CC0-1.0", "package": "tests", "path": "drawn"}
    index = [{"file": f"{number}.jpg", "held_out": number == 2, **said} for number in range(3)]
    (folder / "photographs.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `--out` folder of both stages, and the exported model."""
    out = tmp_path_factory.mktemp("out")
    common = ["--smoke", "--device", "cpu", "--eager", "--photographs", str(folder), "--out", str(out)]
    common += ["--tokenizer", str(out / "tokenizer"), "--vae", str(out / "vae")]
    command.main(["tokenizer", *common])
    command.main(["vae", *common, "--steps", "24"])
    command.main(["transformer", *common, "--steps", "40"])
    command.main(["export", *common, "--transformer", str(out / "transformer"), "--model", str(out / "model")])
    return out


def test_the_vae_gets_better(trained: Path) -> None:
    log = lines(trained / "vae.jsonl")

    assert log[-1]["psnr_photographs"] > log[1]["psnr"] + 1


def test_the_transformer_gets_better(trained: Path) -> None:
    losses = [line["loss"] for line in lines(trained / "transformer.jsonl") if "loss" in line]
    tensors, facts = state.read(trained / "transformer")

    assert facts["steps"] == 40
    assert losses[0] > 1.3  # it begins by predicting nothing
    assert tensors["weights.net.transformer.proj_out.weight"].abs().max() > 1e-3


def test_the_exported_folder_generates_in_the_engine(trained: Path) -> None:
    modules = checkpoint.load(str(trained / "model"), device=CPU, dtype=torch.float32)
    engine = Engine(EasyAnimatePipeline(modules))
    sampling = run(engine, make_job(prompt="镜头向左平移", bucket="32x48x9", steps=2))
    frames = np.concatenate(list(engine.decode(sampling)))

    assert frames.shape == (9, 32, 48, 3)
    assert frames.std() > 0


@pytest.mark.parametrize("model", ["exported", "builtin:demo"])
def test_tokens_are_served_where_they_were_in_training(trained: Path, model: str) -> None:
    name = str(trained / "model") if model == "exported" else model
    transformer = checkpoint.load(name, device=CPU, dtype=torch.float32).transformer
    latents = torch.zeros(1, 16, 2, 8, 4)  # portrait, where formulas differ
    in_training = make_transformer(Sizes.smoke() if model == "exported" else Sizes()).rope_embedding(latents)

    served = EasyAnimateDenoiser(transformer, "original").rope(latents, texts=0)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(served, in_training, strict=True))


def test_training_goes_on_where_it_was_left(trained: Path, folder: Path) -> None:
    options = ["vae", "--smoke", "--device", "cpu", "--photographs", str(folder), "--steps", "1"]
    command.main([*options, "--out", str(trained / "more"), "--resume", str(trained / "vae")])

    assert lines(trained / "more" / "vae.jsonl")[0]["steps"] == 24
    assert state.read(trained / "more" / "vae")[1]["steps"] == 25


def test_the_linear_code_has_components_of_unit_variance_that_do_not_go_together(bank: pictures.Bank) -> None:
    rng = random.Random(0)
    videos = clips.draw(bank.pictures, [draw_scene(rng, 5, 64, 64) for _ in range(12)], 5, 64, 64, rng)
    latents = LinearCode(videos, 16)(videos)
    spread = torch.cov(latents.transpose(0, 1).flatten(1))

    assert latents.shape == (12, 16, 2, 8, 8)
    assert torch.allclose(spread, torch.eye(16), atol=1e-3)


def test_both_orders_of_memory_are_optimised_alike() -> None:
    torch.manual_seed(0)
    made = []
    for order in (torch.contiguous_format, torch.channels_last_3d):
        torch.manual_seed(0)
        layer = torch.nn.Conv3d(4, 6, 3)
        layer.weight.data = layer.weight.data.contiguous(memory_format=order)
        before = layer.weight.detach().clone()
        optimiser = MuonAdamW(layer.parameters(), [layer.get_parameter("weight")], rate=1e-2, decay=0.0)
        for _ in range(3):
            optimiser.zero_grad()
            layer(torch.ones(1, 4, 3, 3, 3)).square().sum().backward()
            optimiser.step()
        made.append(layer.weight.detach())
        assert not torch.allclose(made[-1], before, atol=1e-2)

    assert torch.allclose(made[0], made[1], atol=1e-3)


def test_products_of_many_matrices_at_once_are_those_of_each() -> None:
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(*shape)) for shape in ((8, 16), (16, 8), (8, 16), (12, 12))]
    stock = [torch.nn.Parameter(weight.detach().clone()) for weight in ours]
    muon, reference = Muon(ours, 0.02), torch.optim.Muon(stock, lr=0.02, weight_decay=0.01)
    for _ in range(4):
        for weight, copy in zip(ours, stock, strict=True):
            weight.grad = torch.randn_like(weight)
            copy.grad = weight.grad.clone()
        muon.step()
        reference.step()

    for weight, copy in zip(ours, stock, strict=True):
        assert torch.allclose(weight, copy, atol=1e-4)


def test_gradients_are_of_the_latest_inputs_alone_and_clipped() -> None:
    layer = torch.nn.Linear(2, 1, bias=False)
    gradients = Gradients(lambda x: layer(x).sum(), [layer.get_parameter("weight")], most=1.0)

    gradients(torch.tensor([[30.0, 40.0]]))
    assert layer.weight.grad is not None
    assert torch.allclose(layer.weight.grad, torch.tensor([[0.6, 0.8]]), atol=1e-4)

    loss = gradients(torch.tensor([[0.1, 0.2]]))
    assert torch.allclose(layer.weight.grad, torch.tensor([[0.1, 0.2]]))
    assert not loss.requires_grad


def test_training_sees_what_the_server_computes() -> None:
    torch.manual_seed(0)
    network = make_vae(Sizes.smoke())
    for parameter in network.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    served = VideoAutoencoder(network)
    video = torch.randn(1, 3, 9, 32, 48)
    with torch.no_grad():
        latents = vae_forward.encode(network, video).chunk(2, dim=1)[0]
        made = vae_forward.decode(network, latents)

    assert torch.allclose(latents, served.encode(video, lambda *_: None), atol=1e-5)
    assert torch.allclose(made, torch.cat(list(served.decode(latents)), dim=2), atol=1e-5)


def test_normalised_latents_decode_to_the_same_video() -> None:
    torch.manual_seed(0)
    network = make_vae(Sizes.smoke())
    video = torch.randn(1, 3, 5, 32, 32)
    with torch.no_grad():
        before = vae_forward.encode(network, video).chunk(2, dim=1)[0]
        made = vae_forward.decode(network, before)
        mean, deviation = before.mean(dim=(0, 2, 3, 4)), before.std(dim=(0, 2, 3, 4))
        vae_forward.normalise(network, {"mean": mean.tolist(), "deviation": deviation.tolist()})
        after = vae_forward.encode(network, video).chunk(2, dim=1)[0]

        assert torch.allclose(vae_forward.decode(network, after), made, atol=1e-4)
    assert torch.allclose(after.std(dim=(0, 2, 3, 4)), torch.ones(16), atol=1e-3)


@pytest.mark.parametrize("what", [what for what in CAMERA if what.startswith(("pan", "tilt"))])
def test_a_clip_moves_as_its_scene_says(bank: pictures.Bank, what: str) -> None:
    camera = camera_of(((what, ""),), (1.5,))
    video = clips.draw(bank.pictures, [Scene(((what, ""),), camera)], 9, 128, 128, random.Random(0))[0]

    assert evaluate.drift(video) == pytest.approx(np.array((camera.right, camera.down)), abs=0.2)


def test_a_clip_that_holds_still_repeats_its_first_frame(bank: pictures.Bank) -> None:
    video = clips.draw(bank.pictures, [Scene((), camera_of((), ()))], 5, 64, 64, random.Random(0))[0]

    assert torch.allclose(video, video[:, :1].expand_as(video), atol=1e-5)


def test_sentences_name_the_motion_and_its_speed() -> None:
    rng = random.Random(0)
    scene = Scene((("zoom_in", "fast"),), camera_of((("zoom_in", "fast"),), (2.0,)))
    english = [prompts.describe(scene, rng, "en") for _ in range(50)]
    chinese = [prompts.describe(scene, rng, "zh") for _ in range(50)]

    assert len(set(english)) > 25
    assert not any("{" in text for text in english + chinese)
    assert all("快" in text or "迅速" in text for text in chinese)


def test_scenes_are_as_fast_as_their_words() -> None:
    rng = random.Random(0)
    for _ in range(300):
        scene = draw_scene(rng, 25, 128, 128)
        if len(scene.motions) == 1 and scene.motions[0][0] in ("pan_left", "pan_right") and scene.thing is None:
            low, high = SPEEDS[scene.motions[0][1]]
            assert low <= abs(scene.camera.right) <= high


def test_an_installation_without_the_demos_weights_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoint, "DEMO_FOLDER", tmp_path)

    with pytest.raises(UnsupportedModel, match="lacks the weights of builtin:demo"):
        checkpoint.load("builtin:demo", device=CPU, dtype=torch.float32)
