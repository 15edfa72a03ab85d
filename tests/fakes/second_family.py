"""A family unlike EasyAnimate V5.1: 2 x 4 x 4 compression, no patches, other names; its network predicts noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from easyanim_server.domain.defaults import ModelDefaults
from easyanim_server.domain.events import Phase
from easyanim_server.domain.job import TEXT, Bucket, Job
from easyanim_server.domain.model import Capabilities, PromptTokenizer, TokenizerSpec
from easyanim_server.domain.profiles import Solver
from easyanim_server.domain.protocols import Observer
from easyanim_server.domain.shape import Geometry
from easyanim_server.engine.families.base import LoadOptions, Match, Refusal
from easyanim_server.engine.families.runtime import (
    BlockContext,
    Component,
    Condition,
    ExecutionPath,
    Need,
    NetworkInputs,
    Pipeline,
    Rope,
)
from easyanim_server.engine.memory.outline import Outline
from easyanim_server.engine.solvers.base import Prediction, Schedule
from easyanim_server.engine.weights.index import CheckpointIndex
from tests.engines import word_tokenizer

CHANNELS, DIM, WORDS = 5, 8, 6
WEIGHTS = "net/net.safetensors"


class MixingBlock(nn.Module):
    """Mixes every token with the mean of all."""

    kind, takes_fp8 = (False,), False

    def __init__(self, drops_text: bool) -> None:
        super().__init__()
        self.drops_text, self.mix = drops_text, nn.Linear(DIM, DIM)

    def forward(self, x: Tensor, emb: Tensor, rope: Rope, texts: int, kernel: str) -> Tensor:
        mixed: Tensor = x + torch.tanh(self.mix(x + emb[:, None] + x.mean(1, keepdim=True)))
        return mixed[:, texts:] if self.drops_text else mixed

    def before_attention(self, *given: object) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        raise NotImplementedError("it has no attention")

    def after_attention(self, *given: object) -> Tensor:
        raise NotImplementedError("it has no attention")


class NoiseNet(nn.Module):
    """Implements `Denoiser`."""

    mode, exact = "own", False

    def __init__(self) -> None:
        super().__init__()
        self.read, self.caption, self.write = nn.Linear(2 * CHANNELS, DIM), nn.Linear(3, DIM), nn.Linear(DIM, CHANNELS)
        self.blocks = nn.ModuleList([MixingBlock(False), MixingBlock(True)])  # type: ignore[assignment]
        self.eager = ExecutionPath([block.forward for block in self.blocks])
        self.network = self.parts()

    blocks: list[MixingBlock]

    def parts(self) -> nn.Module:
        return nn.ModuleList([self.read, self.caption, self.write, *self.blocks])

    def context(self, inputs: NetworkInputs, condition: Condition) -> BlockContext:
        nothing = inputs.latents.new_zeros(0)
        return BlockContext((inputs.timestep / 1000)[:, None].repeat(1, DIM), (nothing, nothing), WORDS)

    def embed(self, inputs: NetworkInputs) -> Tensor:
        seen = torch.cat((inputs.latents, inputs.given["hint"]), dim=1)
        return self.read(seen.flatten(2).transpose(1, 2))  # type: ignore[no-any-return]

    def join(self, video: Tensor, condition: Condition) -> Tensor:
        return torch.cat((self.caption(condition["caption"]), video), dim=1)

    def head(self, video: Tensor, context: BlockContext, shape: torch.Size) -> Tensor:
        return self.write(video).transpose(1, 2).reshape(shape)  # type: ignore[no-any-return]

    def first_input(self, inputs: NetworkInputs) -> Tensor:
        return self.embed(inputs) + self.context(inputs, {}).time[:, None]

    def example(self, bucket: Bucket, device: torch.device, batch: int = 1) -> tuple[NetworkInputs, Condition]:
        latents = torch.ones(batch, *latent_shape(bucket)[1:], device=device)
        inputs = NetworkInputs(latents, torch.full((batch,), 500.0, device=device), {"hint": latents})
        return inputs, {"caption": torch.ones(batch, WORDS, 3, device=device)}

    def attention_shape(self, bucket: Bucket) -> torch.Size:
        return torch.Size((1, WORDS, 1, DIM))

    def largest_product(self) -> float:
        return 1.0

    def replace_products(self, number: int, make: Callable[[nn.Linear], nn.Module], give_up: bool = False) -> None:
        self.blocks[number].mix = make(self.blocks[number].mix)  # type: ignore[assignment]


def latent_shape(bucket: Bucket) -> tuple[int, int, int, int, int]:
    return 1, *CAPABILITIES.geometry.latent_shape(bucket)


def geometry(channels: int = CHANNELS) -> Geometry:
    return Geometry(temporal=2, spatial=4, patch=1, latent_channels=channels, max_frames=15)


CAPABILITIES = Capabilities(
    family="second",
    tasks=frozenset({TEXT}),
    geometry=geometry(),
    tokenizers=(TokenizerSpec("words", WORDS), TokenizerSpec("letters", 4 * WORDS)),
    solvers=(Solver.EULER.value, Solver.DPMPP_2M.value),
    defaults=ModelDefaults(guidance=3.0, steps=4, buckets=(Bucket(16, 24, 7), Bucket(20, 12, 3))),
)


class SecondPipeline:
    """Implements `Pipeline`; its weights are drawn, and its frames are its latents' first channels."""

    attention_mode, parameters, short_clip = "own", 1, 3
    device, dtype, cache_coefficients = torch.device("cpu"), torch.float32, (1.0, 0.0)
    capabilities = CAPABILITIES
    tokenizer = PromptTokenizer(word_tokenizer(), "", "", WORDS)

    def __init__(self, name: str = "fake:second") -> None:
        self.name = name
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.denoiser, self.words = NoiseNet(), nn.Embedding(256, 3)
        self.requires = [module.requires_grad_(False) for module in (self.denoiser, self.words)]
        blocks = [(block,) for block in self.denoiser.blocks]
        self.components = {"transformer": Component(self.denoiser, blocks), "words": Component(self.words)}

    def networks(self) -> dict[str, nn.Module]:
        return {"net": self.denoiser.network, "words": self.words}

    def fingerprint(self) -> str:
        return "second"

    def tiles(self, height: int, width: int) -> bool:
        return False

    def encode_text(self, prompt: str, need: Need) -> Condition:
        need("words")
        return {"caption": self.words(torch.tensor([list(prompt.encode()[:WORDS].ljust(WORDS))]))}

    def draw(self, job: Job) -> Mapping[str, Tensor]:
        generator = torch.Generator().manual_seed(job.seed)
        hint = torch.randn(1, generator=generator)  # drawn before the latents, unlike EasyAnimate's
        return {"latents": torch.randn(latent_shape(job.bucket), generator=generator), "hint": hint}

    def encode_inputs(
        self, job: Job, noise: Mapping[str, Tensor], need: Need, observe: Observer
    ) -> Mapping[str, Tensor]:
        observe(Phase.IMAGE_ENCODE, 1, 1)
        return {"hint": noise["hint"] * torch.ones(latent_shape(job.bucket)) * (job.start is not None)}

    def schedule(self, steps: int, solver: Solver) -> Schedule:
        angles = torch.linspace(1.5, 0.0, steps + 1)
        a, b = angles.cos(), angles.sin()
        return Schedule(b / (a + b), 1000 * angles[:-1], Prediction.EPSILON, a + b)

    def decode(self, latents: Tensor, need: Need) -> Iterator[Tensor]:
        pixels = nn.functional.interpolate(latents[0, :3].transpose(0, 1), scale_factor=4).tanh()
        for number, frame in enumerate(pixels[:, :, None]):  # (3, 1, height, width)
            yield frame[None].repeat(1, 1, 2 if number else 1, 1, 1)


class SecondFamily:
    """Implements `families.base.ModelFamily`."""

    name = CAPABILITIES.family

    def recognise(self, index: CheckpointIndex) -> Match | Refusal:
        if index.config("model_index.json").get("_class_name") != "SecondPipeline":
            return Refusal(f"{index.name} is no SecondPipeline")
        found = index.tensors("net").get("words.weight")
        return Match() if found == (256, 3) else Refusal(f"{index.name} has words.weight {found}, not (256, 3)")

    def capabilities(self, index: CheckpointIndex) -> Capabilities:
        channels = index.config("net/config.json").get("channels", CHANNELS)
        return replace(CAPABILITIES, geometry=geometry(channels))

    def files(self, index: CheckpointIndex) -> Sequence[str]:
        return [WEIGHTS]

    def outline(self, index: CheckpointIndex, dtype: torch.dtype) -> Outline:
        weights = dtype.itemsize * sum(math.prod(shape or ()) for shape in index.tensors("net").values())
        return Outline(
            geometry=self.capabilities(index).geometry, text_tokens=WORDS, width=DIM, step_cost=lambda tokens: NoCost(),
            text=0, text_table=0, text_layer=0, rest=0, blocks=(weights,), blocks_fp8=(weights,), vae=0,
            vae_channels=1, vae_tile=512, itemsize=dtype.itemsize,
        )  # fmt: skip

    def check(self, index: CheckpointIndex) -> None:
        self.components(index, device=torch.device("cpu"), dtype=torch.float32, on_host=False)

    def components(
        self, index: CheckpointIndex, *, device: torch.device, dtype: torch.dtype, on_host: bool
    ) -> SecondPipeline:
        assert index.folder is not None
        pipeline = SecondPipeline(index.name)
        weights = {name: tensor.to(dtype) for name, tensor in load_file(index.folder / WEIGHTS).items()}
        nn.ModuleDict(pipeline.networks()).load_state_dict(weights)
        return pipeline

    def export(self, index: CheckpointIndex, folder: Path, device: torch.device) -> None:
        raise NotImplementedError("none of its models is made at start")

    def load(self, index: CheckpointIndex, options: LoadOptions) -> Pipeline:
        pipeline: Pipeline = self.components(index, device=options.device, dtype=options.dtype, on_host=options.on_host)
        return pipeline


class NoCost:
    """Implements `StepCost`."""

    linear = attention = 0


def write(folder: Path) -> None:
    """Write a checkpoint of the family."""
    (folder / "net").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "SecondPipeline"}', encoding="utf-8")
    save_file(nn.ModuleDict(SecondPipeline().networks()).state_dict(), folder / WEIGHTS)
