"""A family unlike EasyAnimate V5.1: 2 x 4 x 4 compression, no patches, other names; its network predicts noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from easyanim_server.domain.defaults import ModelDefaults
from easyanim_server.domain.events import Phase
from easyanim_server.domain.job import START, TEXT, Bucket, Job
from easyanim_server.domain.model import Capabilities, PromptTokenizer, TokenizerSpec
from easyanim_server.domain.profiles import Solver
from easyanim_server.domain.protocols import Observer
from easyanim_server.domain.shape import Geometry
from easyanim_server.engine.families.runtime import (
    BlockContext,
    Component,
    Condition,
    ExecutionPath,
    Need,
    NetworkInputs,
    Rope,
)
from easyanim_server.engine.solvers.base import Prediction, Schedule

CHANNELS, DIM, WORDS = 5, 8, 6


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
    return 1, CHANNELS, (bucket.frames + 1) // 2, bucket.height // 4, bucket.width // 4


class SecondPipeline:
    """Implements `Pipeline`; its weights are drawn, and its frames are its latents' first channels."""

    name, attention_mode, parameters, short_clip = "fake:second", "own", 1, 3
    device, dtype, cache_coefficients = torch.device("cpu"), torch.float32, (1.0, 0.0)
    capabilities = Capabilities(
        family="second",
        tasks=frozenset({TEXT, START}),
        geometry=Geometry(temporal=2, spatial=4, patch=1, latent_channels=CHANNELS, max_frames=15),
        tokenizers=(TokenizerSpec("bytes", WORDS),),
        solvers=tuple(solver.value for solver in Solver),
        defaults=ModelDefaults(),
    )
    tokenizer = PromptTokenizer("{}", "", "", WORDS)

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.denoiser, self.words = NoiseNet(), nn.Embedding(256, 3)
        self.requires = [module.requires_grad_(False) for module in (self.denoiser, self.words)]
        blocks = [(block,) for block in self.denoiser.blocks]
        self.components = {"transformer": Component(self.denoiser, blocks), "words": Component(self.words)}

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
