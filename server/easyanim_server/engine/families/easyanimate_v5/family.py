"""EasyAnimate V5's models: which checkpoints they are, and how they are loaded."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from easyanim_server import catalog
from easyanim_server.domain.model import Capabilities
from easyanim_server.engine.families.base import LoadOptions, Match, Refusal
from easyanim_server.engine.families.easyanimate_v5 import builtin, folder
from easyanim_server.engine.families.easyanimate_v5.components import ComponentsV5
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
        if not folder.is_v5(index.folder):
            return Refusal(f"{index.name} does not read prompts with T5, and {self.name} does", foreign=True)
        problem = folder.problem(index.folder)
        return Refusal(f"{index.name} {problem}; use {catalog.DEFAULT_MODEL} instead") if problem else Match()

    def capabilities(self, index: CheckpointIndex) -> Capabilities:
        """As published, but for what the configurations decide; see `ComponentsV5.capabilities`."""
        if index.folder is None:
            return catalog.EASYANIMATE_V5
        return self.networks(index).capabilities

    def files(self, index: CheckpointIndex) -> Sequence[str]:
        """See `ModelFamily.files`."""
        return folder.weight_files(index.folder) if index.folder else ()

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
        return folder.outline(index.folder, index.name)

    def load(self, index: CheckpointIndex, options: LoadOptions) -> Pipeline:
        """See `ModelFamily.load`."""
        if index.folder is None:
            size = builtin.SYNTHETIC[index.name]
            modules = builtin.synthetic(size, device=options.device, dtype=options.dtype, on_host=options.on_host)
        else:
            home = torch.device("cpu") if options.on_host else options.device
            modules = folder.read(index.folder, index.name, device=home, dtype=options.dtype, own=options.on_host)
            modules.compute = options.device
        return EasyAnimatePipeline(
            modules,
            options.attention_mode,
            options.noise_augmentation,
            tiled=options.tiled,
            sliced=options.sliced,
        )
