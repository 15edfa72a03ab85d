"""EasyAnimate V5's models: which checkpoints they are, and how they are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from easyanim_server import catalog
from easyanim_server.domain.model import Capabilities
from easyanim_server.engine.families.base import LoadOptions, Match, Refusal
from easyanim_server.engine.families.easyanimate_v5 import builtin
from easyanim_server.engine.families.easyanimate_v5 import folder as folders
from easyanim_server.engine.families.easyanimate_v5.components import ComponentsV5
from easyanim_server.engine.families.easyanimate_v5.export import write
from easyanim_server.engine.families.easyanimate_v51.outline import Reader, measure_all
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.families.runtime import Pipeline
from easyanim_server.engine.memory.outline import Outline
from easyanim_server.engine.weights.index import CheckpointIndex


class EasyAnimateV5:
    """Implements `families.base.ModelFamily`; models that are made here are sources of it beside folders."""

    name = catalog.EASYANIMATE_V5.family

    def recognise(self, index: CheckpointIndex) -> Match | Refusal:
        """See `ModelFamily.recognise`: the transformer has a projection of T5's embeddings."""
        if index.folder is None:
            if index.name in builtin.SYNTHETIC:
                return Match()
            return Refusal(f"{index.name} is no model of {self.name}", foreign=True)
        if not folders.is_v5(index.folder):
            return Refusal(f"{index.name} does not read prompts with T5, and {self.name} does", foreign=True)
        problem = folders.problem(index.folder)
        return Refusal(f"{index.name} {problem}; use {catalog.DEFAULT_MODEL} instead") if problem else Match()

    def capabilities(self, index: CheckpointIndex) -> Capabilities:
        """As published, but for what the configurations decide; see `ComponentsV5.capabilities`."""
        if index.folder is None:
            return catalog.EASYANIMATE_V5
        return self.networks(index).capabilities

    def files(self, index: CheckpointIndex) -> Sequence[str]:
        """See `ModelFamily.files`."""
        return folders.weight_files(index.folder) if index.folder else ()

    def outline(self, index: CheckpointIndex, dtype: torch.dtype) -> Outline:
        """See `ModelFamily.outline`."""
        modules = self.networks(index)
        bert, t5 = modules.text_encoder, modules.text_encoder_2
        readers = [
            Reader(bert, bert.model.embeddings.word_embeddings, list(bert.model.encoder.layer)),
            Reader(t5, t5.encoder.embed_tokens, list(t5.encoder.block)),
        ]
        return measure_all(modules, dtype, readers, (modules.tokenizer.limit, modules.tokenizer_2.limit))

    def networks(self, index: CheckpointIndex) -> ComponentsV5:
        """Build the networks on the meta device."""
        if index.folder is None:
            return builtin.synthetic_outline(builtin.SYNTHETIC[index.name])
        return folders.outline(index.folder, index.name)

    def check(self, index: CheckpointIndex) -> None:
        """See `ModelFamily.check`."""
        if index.folder is not None:
            folders.check_stored(folders.outline(index.folder, index.name), index.folder)

    def export(self, index: CheckpointIndex, folder: Path, device: torch.device) -> None:
        """See `ModelFamily.export`; in bfloat16."""
        size = builtin.SYNTHETIC[index.name]
        write(builtin.synthetic(size, device=device, dtype=torch.bfloat16), folder)

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
    ) -> ComponentsV5:
        """Load the networks alone; arguments as `LoadOptions` has them."""
        if index.folder is None:
            return builtin.synthetic(builtin.SYNTHETIC[index.name], device=device, dtype=dtype, on_host=on_host)
        home = torch.device("cpu") if on_host else device
        modules = folders.read(index.folder, index.name, device=home, dtype=dtype, own=on_host)
        modules.compute = device
        return modules
