"""From noise to latents: begin, step, step, ... with all state in plain tensors."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from easyanim_server.domain.events import Phase, Work
from easyanim_server.domain.job import Bucket, Job, Picture
from easyanim_server.domain.profiles import NO_ACCELERATION, Acceleration, Solver
from easyanim_server.domain.protocols import Observer
from easyanim_server.engine.compile.planner import no_compilation
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.families.easyanimate_v51.transformer import Denoiser, ExecutionPath
from easyanim_server.engine.families.easyanimate_v51.vae import VideoAutoencoder
from easyanim_server.engine.noise import Noise
from easyanim_server.engine.solvers import flow as solvers
from easyanim_server.engine.solvers.flow import History
from easyanim_server.engine.step_cache.teacache import UNFITTED, StepCache

SHIFT = 1.0
"""Logarithm of the factor by which time is shifted towards noise; EasyAnimate's pipelines use it at every size."""

BLACK = -1.0
"""What the VAE sees where nothing is given; pixels of a picture that are as black get no noise."""


@dataclass(slots=True, eq=False)
class Sampling:
    """One generation between two denoising steps. It shares nothing that is written to with any other."""

    latents: Tensor
    """(1, 16, frames', height/8, width/8), in the model's dtype, on its device; replaced by each step."""
    inpaint: Tensor
    """(1, 17, frames', height/8, width/8): mask and latents of the given frames."""
    text: Tensor
    """Embeddings of the prompt, (1, 256, hidden)."""
    negative_text: Tensor | None
    """Embeddings of the negative prompt; None where guidance is off."""
    bucket: Bucket
    """Its shape; decides how the blocks run."""
    guidance: float
    """Weight of the prompt against the negative prompt; off at 1."""
    sigmas: Tensor
    """Share of noise before each step and after the last, (steps + 1,) float32, on the host; from 1 to 0."""
    timesteps: Tensor
    """The same as the network reads it, (steps,), in the model's dtype, on its device."""
    acceleration: Acceleration = NO_ACCELERATION
    """Which steps have guidance, and how they are taken."""
    index: int = 0
    """Steps taken."""
    history: History | None = None
    """What a multistep solver knows; None of Euler, and before the first step."""
    cache: StepCache | None = None
    """What steps may reuse; None where they may not."""
    predictions: int = 0
    """Passes through the transformer's blocks so far."""
    reused: int = 0
    """Steps so far that reused their predictions."""

    @property
    def steps(self) -> int:
        """Steps in all."""
        return len(self.timesteps)

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""
        return self.index == self.steps

    @property
    def guided(self) -> bool:
        """Whether the next step has guidance."""
        return self.negative_text is not None and self.acceleration.guides(self.index, self.steps)

    @property
    def work(self) -> Work:
        """What the steps took so far."""
        return Work(self.predictions, self.reused, self.cache.coefficients if self.cache else ())

    def state(self) -> dict[str, Any]:
        """Everything as tensors, numbers and text, in lists and dictionaries.

        `torch.save` writes it, and `torch.load` reads it with `weights_only`.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        accelerators = {**dataclasses.asdict(self.acceleration), "solver": self.acceleration.solver.value}
        history = self.history
        past = None if history is None else [history.sample, history.origin, *history.data]
        cache = self.cache.state() if self.cache else None
        return {**fields, "bucket": str(self.bucket), "acceleration": accelerators, "history": past, "cache": cache}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Sampling:
        """The reverse of `state`; goes on where that one stood, on the devices of its tensors."""
        accelerators, past, cache = state["acceleration"], state["history"], state["cache"]
        return cls(
            **{
                **state,
                "bucket": Bucket.parse(state["bucket"]),
                "acceleration": Acceleration(**{**accelerators, "solver": Solver(accelerators["solver"])}),
                "history": past and History(past[0], past[1], tuple(past[2:])),
                "cache": cache and StepCache.of(cache),
            }
        )

    def fingerprint(self) -> str:
        """SHA-256 of the latents' type, shape and bytes (row-major, as the host stores them), hex."""
        latents = self.latents.detach().cpu().contiguous()
        digest = hashlib.sha256(f"{latents.dtype} {tuple(latents.shape)} ".encode())
        digest.update(latents.view(torch.uint8).numpy().data)  # bytes: numpy has no bfloat16
        return digest.hexdigest()


class Sampler:
    """Starts generations and takes their steps, with the numbers of diffusers' `EasyAnimateInpaintPipeline`.

    Args:
        modules: The scheduler's and the networks' configurations are read.
        denoiser: Predicts velocities.
        vae: Encodes given pictures.
        noise_augmentation: Standard deviation of the noise on given pictures, whose range is [-1, 1].
    """

    def __init__(
        self, modules: Components, denoiser: Denoiser, vae: VideoAutoencoder, noise_augmentation: float
    ) -> None:
        self._modules = modules
        self._denoiser = denoiser
        self._vae = vae
        self._noise_augmentation = noise_augmentation if modules.transformer.config.add_noise_in_inpaint_model else 0.0
        self._schedules: dict[tuple[int, bool], tuple[Tensor, Tensor]] = {}
        self.paths: dict[Bucket, ExecutionPath] = {}
        """How the blocks run for buckets that were made ready; others run eagerly."""
        self.cache_coefficients: tuple[float, ...] = UNFITTED
        """Of the polynomial in `stepcache`."""

    @torch.no_grad()
    def begin(
        self, job: Job, text: Tensor, negative_text: Tensor | None, observe: Observer, noise: Noise | None = None
    ) -> Sampling:
        """Draw the noise and encode the given pictures.

        Noise is drawn on the CPU in float32, first for the latents, then for the pictures, so a seed means the
        same start on every device. (torch's bfloat16 draws on the CPU have no tails beyond 3.3 standard deviations.)

        Args:
            job: Its bucket, pictures, steps, guidance, seed and accelerators are used.
            text: Embeddings of the prompt, (1, 256, hidden).
            negative_text: Embeddings of the negative prompt, or None without guidance.
            observe: Called while pictures are encoded, in frames; may raise to leave.
            noise: What to start from; by default drawn from the job's seed.

        Raises:
            ValueError: the number of frames is not one that the model makes, there is an end picture without a start
                picture, or a picture is not of the bucket's size.
        """
        geometry = self._modules.geometry
        if refusal := geometry.frames_refusal(job.bucket.frames):
            raise ValueError(refusal)
        given = given_frames(job)
        noise = noise or Noise.draw(job.seed, job.bucket, (1, *geometry.latent_shape(job.bucket)), bool(given))
        latents = noise.latents.to(self._modules.device, self._modules.dtype)
        inpaint = latents.new_zeros(1, 1 + latents.shape[1], *latents.shape[2:])
        if given:
            video = self._given_video(given, noise.pictures)
            # The original samples the two middle frames of every four for its mask, so an end picture never
            # shows there: only the first latent frame is marked as given.
            inpaint[:, :1, :1] = self._modules.vae.config.scaling_factor
            inpaint[:, 1:] = self._vae.encode(video, lambda done, total: observe(Phase.IMAGE_ENCODE, done, total))
        acceleration = job.acceleration
        sigmas, timesteps = self._schedule(job.steps, acceleration.solver)
        threshold = acceleration.cache_threshold
        return Sampling(
            latents=latents,
            inpaint=inpaint,
            text=text,
            negative_text=negative_text,
            bucket=job.bucket,
            guidance=job.guidance,
            sigmas=sigmas,
            timesteps=timesteps.to(latents),
            acceleration=acceleration,
            cache=StepCache(threshold, self.cache_coefficients) if threshold else None,
        )

    @torch.no_grad()
    def step(self, sampling: Sampling) -> None:
        """Take one step; where it fails, it can be taken again as if it had not been tried.

        The two predictions of guidance are made as the bucket's path says, one after the other where there is none:
        that takes half the memory of a batch of two. Only the port's own network, run eagerly to be compared with
        it, takes them as the port does.

        Nothing here waits for the device, but for a step that may reuse: whether it does is for the host to know.

        Raises:
            ValueError: all steps are taken.
        """
        if sampling.done:
            raise ValueError(f"all {sampling.steps} steps are taken")
        x, k, guided, cache = sampling.latents, sampling.index, sampling.guided, sampling.cache
        prompts = 2 if guided else 1
        drift = self._reusable(sampling, prompts)
        kept: list[Tensor] | None = None
        with no_compilation():
            if cache is not None and drift is not None:
                t = sampling.timesteps[k, None]
                predictions = self._denoiser.again(x, t, cache.residuals[:prompts], sampling.inpaint)
            else:
                # What was kept goes first: its memory is needed, and without it a step that failed is computed again.
                if cache is not None:
                    cache.residuals, kept = [], []
                predictions = self._predict(sampling, guided, kept)
        velocity = predictions[0]
        if guided:
            towards, away = predictions
            velocity = away + sampling.guidance * (towards - away)
        if sampling.acceleration.solver is Solver.EULER:
            dt = sampling.sigmas[k + 1] - sampling.sigmas[k]  # on the host, so nothing waits for the device
            sampling.latents = (x.float() + dt * velocity).to(x.dtype)
        else:
            sampling.history = solvers.step(
                sampling.acceleration.solver, sampling.history, x, velocity, sampling.sigmas, k
            )
            sampling.latents = sampling.history.sample.to(x.dtype)
        if cache is not None:
            residuals = cache.residuals[:prompts] if kept is None else kept
            cache.before, cache.drift, cache.residuals = x, drift or 0.0, residuals
        if drift is None:
            sampling.predictions += prompts
        else:
            sampling.reused += 1
        sampling.index += 1

    @torch.no_grad()
    def change(self, sampling: Sampling) -> float:
        """How much the first block's input has changed since the step before; see `Denoiser.change`. Waits for it.

        Raises:
            ValueError: there was none, or there is no cache.
        """
        cache, k = sampling.cache, sampling.index
        if cache is None or cache.before is None:
            raise ValueError("there is no step before to compare with")
        now, before = sampling.timesteps[k, None], sampling.timesteps[k - 1, None]
        return float(self._denoiser.change(sampling.latents, now, cache.before, before, sampling.inpaint))

    def _reusable(self, sampling: Sampling, prompts: int) -> float | None:
        """The cache's drift after a step that reuses its predictions; None where they are to be made.

        Always made are those of the first and of the last step, and where one is missing: guidance has just begun.
        """
        cache, k = sampling.cache, sampling.index
        if cache is None or cache.before is None or k + 1 == sampling.steps or len(cache.residuals) < prompts:
            return None
        drift = cache.drift_after(self.change(sampling))
        return drift if drift < cache.threshold else None  # where it is not a number too

    def _predict(self, sampling: Sampling, guided: bool, residuals: list[Tensor] | None) -> list[Tensor]:
        """Velocities at the sampling's step: for the prompt, and where it is guided for the negative prompt.

        `residuals` gets what `StepCache.residuals` is to have; None where nothing is to be kept.
        """
        x, inpaint, text = sampling.latents, sampling.inpaint, sampling.text
        t, path = sampling.timesteps[sampling.index, None], self.paths.get(sampling.bucket)
        if not guided or sampling.negative_text is None:
            return [self._denoiser(x, t, text, inpaint, path, residuals)]
        eager = path is None or path.blocks is self._denoiser.eager.blocks
        # The port's network in the port's batch of two, for its bits: products of another shape are rounded otherwise.
        if (path is not None and path.pairs) or (self._denoiser.mode == "diffusers" and eager):
            texts = torch.cat((sampling.negative_text, text))
            twice = (torch.cat((given, given)) for given in (x, t))
            pair = self._denoiser(*twice, texts, torch.cat((inpaint, inpaint)), path, residuals)
            if residuals:
                residuals[:] = reversed(residuals[0].chunk(2))
            return list(reversed(pair.chunk(2)))
        return self._denoiser.each(x, t, [text, sampling.negative_text], inpaint, path, residuals)

    def _schedule(self, steps: int, solver: Solver) -> tuple[Tensor, Tensor]:
        """Sigmas (steps + 1,) and timesteps (steps,), float32 on the host; they depend on nothing else."""
        key = steps, solver is Solver.EULER
        if key not in self._schedules:
            scheduler = copy.deepcopy(self._modules.scheduler)  # it keeps what it is asked for
            if solver is Solver.EULER:
                scheduler.set_timesteps(steps, mu=SHIFT)
                self._schedules[key] = (scheduler.sigmas, scheduler.timesteps)
            else:
                self._schedules[key] = solvers.schedule(scheduler, steps, SHIFT)
        return self._schedules[key]

    def _given_video(self, given: dict[int, Picture], noise: Tensor | None) -> Tensor:
        """The given pictures with noise on them in a black video, (1, 3, frames, height, width)."""
        if noise is None:
            raise ValueError("there is no noise for the given pictures")
        device, dtype = self._modules.device, self._modules.dtype
        video = torch.full((1, *noise.shape), BLACK, device=device, dtype=dtype)
        for index, picture in given.items():
            pixels = to_pixels(picture).to(device, dtype)
            noisy = pixels + self._noise_augmentation * noise[:, index].to(device, dtype)
            video[0, :, index] = torch.where(pixels == BLACK, pixels, noisy)
        return video


def given_frames(job: Job) -> dict[int, Picture]:
    """Which frames of the video are given, by index; of a single frame the end picture wins.

    Raises:
        ValueError: there is an end picture without a start picture, or a picture is not of the bucket's size.
    """
    if job.start is None:
        if job.end is not None:
            raise ValueError("an end picture needs a start picture")
        return {}
    given = {0: job.start}
    if job.end is not None:
        given[job.bucket.frames - 1] = job.end
    for picture in given.values():
        if (picture.height, picture.width) != (job.bucket.height, job.bucket.width):
            raise ValueError(f"a picture of {picture.height}x{picture.width} in a bucket of {job.bucket.name}")
        if len(picture.rgb) != 3 * picture.height * picture.width:
            raise ValueError(f"{len(picture.rgb)} bytes for a picture of {picture.height}x{picture.width} RGB pixels")
    return given


def to_pixels(picture: Picture) -> Tensor:
    """Turn a picture into the VAE's input, (3, height, width) float32 in [-1, 1]."""
    bytes_ = torch.frombuffer(bytearray(picture.rgb), dtype=torch.uint8)
    unit = bytes_.view(picture.height, picture.width, 3).permute(2, 0, 1).float() / 255
    return 2 * unit - 1
