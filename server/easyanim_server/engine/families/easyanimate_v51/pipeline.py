"""EasyAnimate V5.1 InP as the engine uses it: text, pictures, schedule, network, frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from easyanim_server.domain.events import Phase
from easyanim_server.domain.job import Bucket, Job
from easyanim_server.domain.profiles import Solver as SolverName
from easyanim_server.domain.protocols import Observer
from easyanim_server.engine.families.base import never
from easyanim_server.engine.families.easyanimate_v51.block import AttentionMode
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.families.easyanimate_v51.inputs import LATENTS, PICTURES, draw, given_frames, given_video
from easyanim_server.engine.families.easyanimate_v51.qwen import TrimmedTextEncoder
from easyanim_server.engine.families.easyanimate_v51.schedule import bent_grid, published_grid
from easyanim_server.engine.families.easyanimate_v51.text import PromptEncoder, prompt_tokenizer
from easyanim_server.engine.families.easyanimate_v51.transformer import INPAINT, TEXT, EasyAnimateDenoiser
from easyanim_server.engine.families.easyanimate_v51.vae import VideoAutoencoder
from easyanim_server.engine.families.easyanimate_v51.vae_tiling import is_cut
from easyanim_server.engine.families.runtime import DENOISER, Component, Condition, Need
from easyanim_server.engine.solvers.base import Schedule
from easyanim_server.engine.step_cache.teacache import UNFITTED

TEXT_ENCODER, VAE = "text", "vae"
"""Names of components, beside the denoiser's."""

CACHE_COEFFICIENTS: dict[tuple[int, int], tuple[float, ...]] = {
    (36, 18): (1.07862322, -4.19362456, 3.06725828, 0.33161686, 0.02374758),
    (48, 48): (-10.47857366, 8.33844143, -0.78477557, 0.68798618, 0.0136149),
}
"""Upstream's fits by count of layers and of MMDiT layers: EasyAnimate V5.1 7B and 12B, InP."""


def published_coefficients(layers: int, mmdit_layers: int) -> tuple[float, ...]:
    """The step cache's polynomial for a network of that shape; the measure itself where none was published."""
    return CACHE_COEFFICIENTS.get((layers, mmdit_layers), UNFITTED)


class EasyAnimatePipeline:
    """Implements `families.runtime.Pipeline`, with the numbers of diffusers' `EasyAnimateInpaintPipeline`.

    Args:
        modules: The loaded networks.
        attention_mode: `original` runs the network as it was trained.
        noise_augmentation: Standard deviation of the noise on given pictures, whose range is [-1, 1]; None for what
            the model was trained with.
        tiled: Whether the VAE is to work on tiles, where there is more than one, for a video of that
            height and width, in pixels.
        sliced: Whether the VAE takes videos of a batch one by one.
    """

    def __init__(
        self,
        modules: Components,
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
        self.denoiser = EasyAnimateDenoiser(modules.transformer, attention_mode, modules.geometry)
        self.tiles = lambda height, width: is_cut(height, width) and tiled(height, width)
        self.vae = VideoAutoencoder(
            modules.vae,
            device=modules.device,
            exact=attention_mode == "diffusers",  # which is there to be compared with
            tiled=self.tiles,
            sliced=sliced,
        )
        self.tokenizer = prompt_tokenizer(modules)
        self.parameters = sum(parameter.numel() for parameter in modules.transformer.parameters())
        self.short_clip = modules.geometry.frames_of(2)
        config = modules.transformer.config
        self.cache_coefficients = published_coefficients(config.num_layers, config.mmdit_layers)
        self.capabilities = modules.capabilities
        self._prompts = PromptEncoder(modules)
        if noise_augmentation is None:
            noise_augmentation = modules.defaults.noise_augmentation
        self._noise_augmentation = noise_augmentation if config.add_noise_in_inpaint_model else 0.0
        self._grids: dict[tuple[int, bool], tuple[Tensor, Tensor]] = {}

    @property
    def components(self) -> Mapping[str, Component]:
        """See `Pipeline.components`; layers of the stock transformer are views of the denoiser's blocks."""
        transformer, text = self.modules.transformer, self.modules.text_encoder
        assert isinstance(text, TrimmedTextEncoder)
        return {
            DENOISER: Component(
                transformer, list(zip(self.denoiser.blocks, transformer.transformer_blocks, strict=True))
            ),
            TEXT_ENCODER: Component(
                text, [(layer,) for layer in text.model.layers], calls_units=True, table=text.model.embed_tokens
            ),
            VAE: Component(self.modules.vae),
        }

    def fingerprint(self) -> str:
        """See `Components.fingerprint`."""
        return self.modules.fingerprint()

    def encode_text(self, prompt: str, need: Need) -> Condition:
        """Embed one prompt as ``text``, (1, 256, hidden)."""
        tokens = self._prompts.tokenize(prompt)
        need(TEXT_ENCODER)
        return {TEXT: self._prompts.embed(tokens)}

    def draw(self, job: Job) -> Mapping[str, Tensor]:
        """See `inputs.draw`."""
        return draw(
            job.seed, job.bucket, self._latent_shape(job.bucket), bool(given_frames(job, self.capabilities.geometry))
        )

    @torch.no_grad()
    def encode_inputs(
        self, job: Job, noise: Mapping[str, Tensor], need: Need, observe: Observer
    ) -> Mapping[str, Tensor]:
        """What is given of the video as ``inpaint``, (1, 17, frames', height/8, width/8): mask, then latents."""
        given = given_frames(job, self.capabilities.geometry)
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
        """The published grid for Euler, a bent one for multistep solvers; both predict flow."""
        key = steps, solver is SolverName.EULER
        if key not in self._grids:
            grid = published_grid if solver is SolverName.EULER else bent_grid
            self._grids[key] = grid(self.modules.scheduler, steps)
        sigmas, timesteps = self._grids[key]
        return Schedule(sigmas, timesteps.to(self.device, self.dtype))

    def decode(self, latents: Tensor, need: Need) -> Iterator[Tensor]:
        """Yield (1, 3, n, height, width) where n is 1, then 4, 4, ..., or 0 between tiles."""
        return self.vae.decode(latents, lambda: need(VAE))

    def _latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int, int]:
        return 1, *self.capabilities.geometry.latent_shape(bucket)
