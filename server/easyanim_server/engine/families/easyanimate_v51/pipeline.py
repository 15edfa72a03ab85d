"""EasyAnimate as the engine uses it: text, pictures, schedule, network, frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from easyanim_server.domain.events import Phase
from easyanim_server.domain.job import Bucket, Job, Picture
from easyanim_server.domain.profiles import Solver as SolverName
from easyanim_server.domain.protocols import Observer
from easyanim_server.engine.families.base import never
from easyanim_server.engine.families.easyanimate_v51.block import AttentionMode
from easyanim_server.engine.families.easyanimate_v51.components import Modules
from easyanim_server.engine.families.easyanimate_v51.inputs import LATENTS, PICTURES, draw, given_frames, given_video
from easyanim_server.engine.families.easyanimate_v51.transformer import INPAINT, EasyAnimateDenoiser
from easyanim_server.engine.families.easyanimate_v51.vae import VideoAutoencoder
from easyanim_server.engine.families.easyanimate_v51.vae_tiling import is_cut
from easyanim_server.engine.families.runtime import DENOISER, Component, Condition, Need
from easyanim_server.engine.solvers.base import Schedule

VAE = "vae"
"""Name of the component."""


class EasyAnimatePipeline:
    """Implements `families.runtime.Pipeline`, with the numbers of diffusers' `EasyAnimateInpaintPipeline`.

    Args:
        modules: The loaded networks, and how they read prompts and are sampled.
        attention_mode: `original` runs the network as it was trained.
        noise_augmentation: Standard deviation of the noise on given pictures, whose range is [-1, 1]; None for what
            the model was trained with.
        tiled: Whether the VAE is to work on tiles, where there is more than one, for a video of that
            height and width, in pixels.
        sliced: Whether the VAE takes videos of a batch one by one.
    """

    def __init__(
        self,
        modules: Modules,
        attention_mode: AttentionMode = "original",
        noise_augmentation: float | None = None,
        *,
        tiled: Callable[[int, int], bool] = never,
        sliced: bool = False,
    ) -> None:
        self.modules = modules
        self.name = modules.name
        self.device, self.dtype = modules.device, modules.dtype
        self.attention_mode = attention_mode
        self._text = modules.text_side()
        self.denoiser = EasyAnimateDenoiser(modules.transformer, attention_mode, self._text.tokens, modules.geometry)
        self.tiles = lambda height, width: is_cut(height, width) and tiled(height, width)
        self.vae = VideoAutoencoder(
            modules.vae,
            device=modules.device,
            exact=attention_mode == "diffusers",  # which is there to be compared with
            tiled=self.tiles,
            sliced=sliced,
        )
        self.tokenizer = self._text.tokenizer
        self.parameters = sum(parameter.numel() for parameter in modules.transformer.parameters())
        self.short_clip = modules.geometry.frames_of(2)
        self.cache_coefficients = modules.cache_coefficients
        self.capabilities = modules.capabilities
        if noise_augmentation is None:
            noise_augmentation = modules.capabilities.defaults.noise_augmentation
        adds_noise = modules.transformer.config.add_noise_in_inpaint_model
        self._noise_augmentation = noise_augmentation if adds_noise else 0.0
        self._schedules: dict[tuple[int, SolverName], Schedule] = {}

    @property
    def components(self) -> Mapping[str, Component]:
        """See `Pipeline.components`; layers of the stock transformer are views of the denoiser's blocks."""
        transformer = self.modules.transformer
        return {
            DENOISER: Component(
                transformer, list(zip(self.denoiser.blocks, transformer.transformer_blocks, strict=True))
            ),
            **self._text.components,
            VAE: Component(self.modules.vae),
        }

    def fingerprint(self) -> str:
        """See `Components.fingerprint`."""
        return self.modules.fingerprint()

    def encode_text(self, prompt: str, need: Need) -> Condition:
        """See `TextSide.encode`."""
        return self._text.encode(prompt, need)

    def draw(self, job: Job) -> Mapping[str, Tensor]:
        """See `inputs.draw`."""
        return draw(job.seed, job.bucket, self._latent_shape(job.bucket), bool(self._given_frames(job)))

    @torch.no_grad()
    def encode_inputs(
        self, job: Job, noise: Mapping[str, Tensor], need: Need, observe: Observer
    ) -> Mapping[str, Tensor]:
        """What is given of the video as ``inpaint``, (1, 17, frames', height/8, width/8): mask, then latents.

        Nothing of networks that make videos from text alone.
        """
        given = self._given_frames(job)
        if not self.denoiser.is_given:
            return {}
        channels, *size = noise[LATENTS].shape[1:]
        inpaint = torch.zeros((1, 1 + channels, *size), device=self.device, dtype=self.dtype)
        if given:
            if PICTURES not in noise:
                raise ValueError("there is no noise for the given pictures")
            video = given_video(given, noise[PICTURES], self._noise_augmentation, self.device, self.dtype)
            # The original samples the two middle frames of every four for its mask, so an end picture never
            # shows there: only the first latent frame is marked as given.
            inpaint[:, :1, :1] = self.modules.vae.config.scaling_factor
            inpaint[:, 1:] = self.vae.encode(
                video, lambda done, total: observe(Phase.IMAGE_ENCODE, done, total), lambda: need(VAE)
            )
        return {INPAINT: inpaint}

    def schedule(self, steps: int, solver: SolverName) -> Schedule:
        """See `Modules.schedule`; timesteps are rounded to the weights' type, as the original rounds them."""
        if (steps, solver) not in self._schedules:
            made = self.modules.schedule(steps, solver)
            self._schedules[steps, solver] = replace(made, timesteps=made.timesteps.to(self.device, self.dtype))
        return self._schedules[steps, solver]

    def decode(self, latents: Tensor, need: Need) -> Iterator[Tensor]:
        """Yield (1, 3, n, height, width) where n is 1, then 4, 4, ..., or 0 between tiles."""
        return self.vae.decode(latents, lambda: need(VAE))

    def _given_frames(self, job: Job) -> dict[int, Picture]:
        """See `given_frames`.

        Raises:
            ValueError: also where the network makes videos from text alone.
        """
        given = given_frames(job, self.capabilities.geometry)
        if given and not self.denoiser.is_given:
            raise ValueError(f"{self.name} makes videos from text alone, and the job has a picture")
        return given

    def _latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int, int]:
        return 1, *self.capabilities.geometry.latent_shape(bucket)
