"""EasyAnimate V5.1's models: which checkpoints they are, and how they are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from easyanim_server import catalog
from easyanim_server.config import model_defaults as modeldefaults
from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.domain.model import Capabilities
from easyanim_server.domain.shape import Geometry
from easyanim_server.engine.families.base import LoadOptions, Match, Refusal
from easyanim_server.engine.families.easyanimate_v51 import builtin
from easyanim_server.engine.families.easyanimate_v51 import export as exports
from easyanim_server.engine.families.easyanimate_v51 import folder as folders
from easyanim_server.engine.families.easyanimate_v51.components import Components, tasks_of
from easyanim_server.engine.families.easyanimate_v51.outline import measure
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.families.runtime import Pipeline
from easyanim_server.engine.memory.outline import Outline
from easyanim_server.engine.weights.index import CheckpointIndex

VAE_LEVELS = 4
"""Of the VAE where its configuration does not say: diffusers' default."""


class EasyAnimateV51:
    """Implements `families.base.ModelFamily`; models that are made here are sources of it beside folders."""

    name = catalog.EASYANIMATE_V51.family

    def recognise(self, index: CheckpointIndex) -> Match | Refusal:
        """See `ModelFamily.recognise`."""
        if index.folder is None:
            known = catalog.find(index.name)
            if known is not None and known.capabilities.family == self.name:
                return Match()
            return Refusal(
                f"{index.name} is no model of {self.name}; use {catalog.DEFAULT_MODEL} instead", foreign=True
            )
        if index.config("transformer/config.json").get("text_embed_dim_t5"):
            return Refusal(f"{index.name} reads prompts with T5 as well, and {self.name} does not", foreign=True)
        try:
            folders.check(index.folder, index.name)
        except UnsupportedModel as error:
            return Refusal(str(error))
        return Match()

    def capabilities(self, index: CheckpointIndex) -> Capabilities:
        """As published, but for the shapes, which the configurations decide."""
        expected = catalog.expected(index.name)
        if index.folder is None:
            return expected
        vae, transformer = index.config("vae/config.json"), index.config("transformer/config.json")
        published = catalog.EASYANIMATE_V51.geometry
        levels = len(vae.get("block_out_channels", range(VAE_LEVELS)))
        geometry = Geometry(
            temporal=2 ** (levels - 2),
            spatial=2 ** (levels - 1),
            patch=transformer.get("patch_size", published.patch),
            latent_channels=vae.get("latent_channels", published.latent_channels),
            max_frames=published.max_frames,
        )
        defaults = modeldefaults.read(index.folder, expected.defaults, geometry)
        tasks = tasks_of(transformer, vae, expected.tasks)
        return replace(expected, geometry=geometry, defaults=defaults, tasks=tasks)

    def files(self, index: CheckpointIndex) -> Sequence[str]:
        """See `ModelFamily.files`."""
        return folders.weight_files(index.folder) if index.folder else ()

    def outline(self, index: CheckpointIndex, dtype: torch.dtype) -> Outline:
        """See `ModelFamily.outline`."""
        return measure(self.networks(index), dtype)

    def check(self, index: CheckpointIndex) -> None:
        """See `ModelFamily.check`."""
        if index.folder is not None:
            folders.check_weights(folders.outline(index.folder, index.name), index.folder)

    def export(self, index: CheckpointIndex, folder: Path, device: torch.device) -> None:
        """See `ModelFamily.export`. Stock diffusers reads ``builtin:tiny`` as well.

        Synthetic models are written in bfloat16, with a text encoder without its last layer.
        """
        if index.name not in builtin.SYNTHETIC:
            builtin.tiny(device=torch.device("cpu"), dtype=torch.float32).save_pretrained(folder)
            return
        modules = builtin.synthetic(builtin.SYNTHETIC[index.name], device=device, dtype=torch.bfloat16)
        exports.write(modules, builtin.synthetic_text_config(), folder)

    def networks(self, index: CheckpointIndex) -> Components:
        """Build the networks without weights: on the meta device, but for ``builtin:tiny``."""
        if index.name in builtin.SYNTHETIC:
            return builtin.synthetic_outline(builtin.SYNTHETIC[index.name])
        if index.folder is None:
            return self._tiny(torch.device("cpu"), torch.float32)
        return folders.outline(index.folder, index.name)

    def load(self, index: CheckpointIndex, options: LoadOptions) -> Pipeline:
        """See `ModelFamily.load`."""
        modules = self.components(index, device=options.device, dtype=options.dtype, on_host=options.on_host)
        return EasyAnimatePipeline(
            modules,
            options.attention_mode,
            options.noise_augmentation,
            tiled=options.tiled,
            sliced=options.sliced,
        )

    def components(
        self, index: CheckpointIndex, *, device: torch.device, dtype: torch.dtype, on_host: bool
    ) -> Components:
        """Load the networks alone; arguments as `LoadOptions` has them."""
        if index.name in builtin.SYNTHETIC:
            return builtin.synthetic(builtin.SYNTHETIC[index.name], device=device, dtype=dtype, on_host=on_host)
        home = torch.device("cpu") if on_host else device
        if index.folder is None:
            modules = self._tiny(home, dtype)
        else:
            modules = self._read(index.folder, index.name, home, dtype, on_host)
        modules.compute = device
        return modules

    def _tiny(self, home: torch.device, dtype: torch.dtype) -> Components:
        modules = Components.of(builtin.tiny(device=home, dtype=dtype), catalog.TINY)
        modules.defaults = catalog.expected(catalog.TINY).defaults
        return modules

    def _read(self, folder: Path, name: str, home: torch.device, dtype: torch.dtype, own: bool) -> Components:
        return folders.read(folder, name, device=home, dtype=dtype, own=own)
