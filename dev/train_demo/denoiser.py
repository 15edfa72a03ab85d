"""Trains the transformer and the text encoder, on latents of clips that are encoded as training goes on."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLMagvit, EasyAnimateTransformer3DModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dev.train_demo import clips, evaluate, prompts, state, vae_forward
from dev.train_demo.gradients import Gradients
from dev.train_demo.inputs import given_video, tokenize
from dev.train_demo.motion import draw_scene
from dev.train_demo.networks import Sizes, make_text_encoder, make_transformer
from dev.train_demo.optimiser import MuonAdamW
from dev.train_demo.pictures import Bank, load_photographs
from easyanim_server.engine.families.easyanimate_v51.qwen import TrimmedTextEncoder
from easyanim_server.engine.families.easyanimate_v51.schedule import LOG_SHIFT
from easyanim_server.engine.families.easyanimate_v51.text import MAX_TOKENS

TEXTS = 4
"""Descriptions that are kept of every clip."""


@dataclass(frozen=True)
class Shape:
    """Clips of one size."""

    height: int
    width: int
    frames: int
    pool: int
    """How many are kept encoded."""
    batch: int
    share: float
    """Of the steps, among the shapes of their time."""
    since: float = 0.0
    until: float = 1.0
    """Shares of the training between which it is trained with."""
    tokens: int = MAX_TOKENS
    """Of a text that are read; the server reads all, of which most are padding."""

    def is_due(self, progress: float) -> bool:
        """Whether it is trained with at this share of the training."""
        return self.since <= progress < self.until


SHAPES = (Shape(128, 128, 25, 3072, 96, 0.7), Shape(128, 224, 25, 768, 56, 0.3, since=0.5))
CPU_SHAPES = (
    Shape(128, 128, 5, 384, 24, 1.0, until=0.3, tokens=64),
    Shape(128, 128, 9, 384, 16, 1.0, since=0.3, until=0.6, tokens=64),
    Shape(128, 128, 25, 160, 8, 0.75, since=0.6),
    Shape(128, 224, 25, 48, 4, 0.25, since=0.6),
)
"""Short clips cost a CPU a fraction, and what moves less far is learned sooner."""
SMOKE_SHAPES = (
    Shape(32, 32, 5, 16, 8, 1.0, until=0.3, tokens=64),
    Shape(32, 32, 9, 24, 8, 0.7, since=0.3),
    Shape(32, 48, 9, 8, 4, 0.3, since=0.3),
)

USES = 48
"""How often a clip is drawn, about, before another takes its place."""


@dataclass(frozen=True)
class Options:
    """How to train."""

    photographs: Path
    tokenizer: PreTrainedTokenizerBase
    vae: Path
    out: Path
    seconds: float
    device: torch.device
    resume: Path | None = None
    steps: int | None = None
    """Train for so many steps instead, for results that do not depend on the machine's speed."""
    rate: float = 1.2e-3
    seed: int = 0
    dropped: float = 0.2
    """Share of texts that ask for nothing."""
    guided: float = 0.25
    """Share of a batch, in the second half, that is taken to where guidance leads."""
    shapes: tuple[Shape, ...] = SHAPES
    bank: int = 768
    compiled: bool = True
    sizes: Sizes = field(default_factory=Sizes)
    save_every: float = 60.0
    judged: int = 16
    """Cases that are generated at the end."""
    judged_at: tuple[tuple[int, float], ...] = ((12, 1.5), (35, 6.0))
    """Steps and guidance of them."""


class Pool:
    """Encoded clips of one shape with their descriptions, the oldest of which are replaced as training goes on."""

    def __init__(self, options: Options, shape: Shape, encoder: AutoencoderKLMagvit, bank: Bank, seed: int) -> None:
        self.shape = shape
        self._options, self._encoder, self._bank = options, encoder, bank
        self._rng = random.Random(seed)
        device = options.device
        size = (shape.pool, 16, (shape.frames - 1) // 4 + 1, shape.height // 8, shape.width // 8)
        kind = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.latents = torch.empty(size, dtype=kind, device=device)
        self.given = torch.empty(size, dtype=kind, device=device)
        self.tokens = torch.empty(shape.pool, TEXTS, MAX_TOKENS, dtype=torch.int16, device=device)
        self._next = self._drawn = 0
        for _ in range(0, shape.pool, self._renewed):
            self._renew()

    @property
    def _renewed(self) -> int:
        """How many are encoded at once."""
        return min(32, self.shape.pool // 8)

    @torch.no_grad()
    def _renew(self) -> None:
        """Encode new clips over the oldest ones."""
        count = self._renewed
        shape, rng, options = self.shape, self._rng, self._options
        scenes = [draw_scene(rng, shape.frames, shape.height, shape.width) for _ in range(count)]
        video = clips.draw(self._bank.pictures, scenes, shape.frames, shape.height, shape.width, rng)
        ended = [rng.random() < 0.06 for _ in scenes]
        given = given_video(video, torch.tensor(ended, device=video.device))
        with vae_forward.half_precision(video.device):
            latents, of_given = (vae_forward.encode(self._encoder, v).chunk(2, dim=1)[0] for v in (video, given))
        texts = [
            prompts.unconditional(rng) if rng.random() < options.dropped else prompts.describe(scene, rng)
            for scene in scenes
            for _ in range(TEXTS)
        ]
        tokens = tokenize(options.tokenizer, texts).view(count, TEXTS, -1).to(torch.int16)
        where = torch.tensor([(self._next + i) % shape.pool for i in range(count)], device=video.device)
        self._next = (self._next + count) % shape.pool
        self.latents[where], self.given[where] = latents.to(self.latents), of_given.to(self.given)
        self.tokens[where] = tokens.to(video.device)
        self._bank.refresh(max(1, count // 16))

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """A batch: latents, latents of what is given, token ids. Clips that were drawn often enough are renewed."""
        self._drawn += self.shape.batch
        if self._drawn >= USES * self._renewed:
            self._drawn = 0
            self._renew()
        device, size = self.latents.device, (self.shape.batch,)
        index = torch.randint(self.shape.pool, size, device=device)
        text = torch.randint(TEXTS, size, device=device)
        return (
            self.latents[index].float(),
            self.given[index].float(),
            self.tokens[index, text, : self.shape.tokens].long(),
        )


class Denoiser(nn.Module):
    """Text encoder and transformer together, called with tokens."""

    def __init__(self, sizes: Sizes, pad: int) -> None:
        super().__init__()
        self.transformer: EasyAnimateTransformer3DModel = make_transformer(sizes)
        self.text_encoder: TrimmedTextEncoder = make_text_encoder(sizes)
        self._pad = pad

    def compile_blocks(self, wanted: bool) -> None:
        """Have every block of the transformer compiled at its first call, where that is wanted."""
        for block in self.transformer.transformer_blocks if wanted else ():
            block.compile(dynamic=False)

    def embed(self, tokens: Tensor) -> Tensor:
        """Prompt embeddings of token ids: (batch, 256) to (batch, 256, hidden)."""
        count = tokens.shape[1]
        # The whole mask, which the library would build only after asking the device whether it needs one.
        causal = torch.ones(count, count, dtype=torch.bool, device=tokens.device).tril()
        real = (tokens != self._pad).view(len(tokens), 1, 1, count)
        hidden: Tensor = self.text_encoder(tokens, causal & real)
        return hidden

    def forward(self, latents: Tensor, sigma: Tensor, text: Tensor, given: Tensor) -> Tensor:
        """Predict velocities.

        Args:
            latents: Noisy, (batch, 16, frames', height / 8, width / 8).
            sigma: Share of noise, (batch,).
            text: Embeddings, (batch, 256, hidden).
            given: Latents of what is given, of the shape of `latents`.
        """
        mask = torch.zeros_like(latents[:, :1])
        mask[:, :, 0] = 1.0  # the VAE's scaling factor
        velocity: Tensor = self.transformer(
            latents,
            timestep=1000 * sigma,
            encoder_hidden_states=text,
            inpaint_latents=torch.cat((mask, given), dim=1),
            return_dict=False,
        )[0]
        return velocity.float()


def _is_hidden(name: str) -> bool:
    """Whether a weight turns features into features: no embedding, and no modulation by the time."""
    return not any(part in name for part in ("embed", "norm"))


def draw_sigma(count: int, device: torch.device) -> Tensor:
    """Shares of noise as often as the published schedule visits them."""
    e = math.exp(LOG_SHIFT)
    u = torch.rand(count, device=device)
    return e * u / (1 + (e - 1) * u)


def train(options: Options) -> dict[str, Any]:
    """Train for so many seconds, filling the pools included; log, save every minute; returns the last evaluation."""
    began = time.monotonic()
    device, tokenizer = options.device, options.tokenizer
    encoder, net, optimiser = _networks(options)
    run = state.Run({"net": net}, optimiser, decay=0.999)
    if state.exists(options.resume) and options.resume:
        run.restore(options.resume)
    seed = options.seed + run.steps
    log = state.Log(options.out / "transformer.jsonl")
    bank = Bank(load_photographs(options.photographs, device, held_out=False), options.bank, device, seed=seed)
    cases = evaluate.make_cases(load_photographs(options.photographs, device, held_out=True), options, seed=99)
    rng, pools = random.Random(seed), dict[Shape, Pool]()
    gradients: dict[tuple[Shape, float], Gradients] = {}
    nothing = tokenize(tokenizer, [""]).to(device)
    log(event="begin", steps=run.steps, weights=sum(p.numel() for p in net.parameters()), device=str(device),
        seconds=time.monotonic() - began)  # fmt: skip
    net.compile_blocks(options.compiled)

    training = saved = logged = time.monotonic()
    budget = max(options.seconds - (training - began), 1.0)
    before, first, total, counted = run.seconds, run.steps, torch.zeros((), device=device), 0
    while (progress := state.progress(options.steps, run.steps - first, time.monotonic() - training, budget)) < 1:
        rate = optimiser.set_rate(state.rate_at(progress, 1.0))
        due = [shape for shape in options.shapes if shape.is_due(progress)]
        shape = rng.choices(due, [shape.share for shape in due])[0]
        if shape not in pools:
            pools = {shape: pool for shape, pool in pools.items() if shape in due}
            pools[shape] = Pool(options, shape, encoder, bank, rng.randrange(2**31))
        latents, given, tokens = pools[shape].draw()
        guided = options.guided if progress > 0.5 else 0.0
        if (shape, guided) not in gradients:
            gradients[shape, guided] = Gradients(partial(_loss, net, nothing, guided), list(net.parameters()))
        total += gradients[shape, guided](latents, given, tokens)
        optimiser.step()
        run.average()
        counted += 1
        now = time.monotonic()
        run.seconds = before + now - began
        if now - logged > 10 or run.steps == first + 1:
            log(step=run.steps, seconds=now - began, loss=float(total) / counted, rate=rate,
                steps_per_second=(run.steps - first) / max(now - training, 1e-3))  # fmt: skip
            total.zero_()
            counted, logged = 0, time.monotonic()
        if now - saved > options.save_every:
            run.save(options.out / "transformer", {"stage": "transformer"})
            log(event="saved", step=run.steps)
            saved = time.monotonic()
    run.save(options.out / "transformer", {"stage": "transformer"})
    run.swap()
    result = evaluate.judge(net, encoder, cases, options.out, tokenizer, options.judged_at)
    run.swap()
    run.save(options.out / "transformer", {"stage": "transformer", **result})
    log(event="end", step=run.steps, **result)
    return result


def _networks(options: Options) -> tuple[AutoencoderKLMagvit, Denoiser, MuonAdamW]:
    """The trained VAE, the networks with random weights of the seed, and the optimiser of their weights."""
    torch.manual_seed(options.seed)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    torch._dynamo.config.suppress_errors = True  # slower is better than not at all
    encoder = vae_forward.load(options.vae, options.sizes, options.device)
    net = Denoiser(options.sizes, options.tokenizer.pad_token_id).to(options.device)
    hidden = (net.transformer.transformer_blocks, net.text_encoder)
    matrices = [w for part in hidden for n, w in part.named_parameters() if w.ndim == 2 and _is_hidden(n)]
    return encoder, net, MuonAdamW(net.parameters(), matrices, options.rate, decay=0.01)


def _loss(net: Denoiser, nothing: Tensor, guided: float, latents: Tensor, given: Tensor, tokens: Tensor) -> Tensor:
    """Mean squared error of the velocity, computed in bfloat16 where the device is faster in it.

    With guidance, sampling visits states beyond those that lie between noise and data: it overshoots, away from what
    the network predicts without a wish. A part of the batch, `guided`, is moved there, still to be led to the data,
    so that high guidance does no harm.
    """
    with vae_forward.half_precision(latents.device):
        sigma = draw_sigma(len(latents), latents.device)
        wide = sigma.view(-1, 1, 1, 1, 1)
        noisy = (1 - wide) * latents + wide * torch.randn_like(latents)
        weight = torch.ones_like(wide)
        text = net.embed(tokens)
        moved = round(guided * len(latents))
        if moved:
            with torch.no_grad(), torch.compiler.set_stance("force_eager"):
                without = net.embed(nothing).expand(moved, -1, -1)
                predicted = net(noisy[:moved], sigma[:moved], without, given[:moved])
                away = latents[:moved] - (noisy[:moved] - wide[:moved] * predicted)
                strength = 5 * torch.rand_like(wide[:moved]) * (wide[:moved] > 0.08)
                noisy[:moved] += (1 - wide[:moved]) * strength * away
                weight[:moved] = (wide[:moved] / (strength * (1 - wide[:moved]) + 1e-3)).clamp(max=1.0)
        target = (noisy - latents) / wide.clamp(min=1e-3)
        predicted = net(noisy, sigma, text, given)
        loss: Tensor = (weight * (predicted - target).square()).mean()
        return loss
