"""What receipts and server info say of a loaded model."""

from __future__ import annotations

from importlib.metadata import version

from easyanim_server import __version__
from easyanim_server.domain.model import ModelInfo
from easyanim_server.engine.devices import device_name
from easyanim_server.engine.families.runtime import Pipeline


def model_info(pipeline: Pipeline, placement: str, reason: str) -> ModelInfo:
    """Describe a model.

    Args:
        pipeline: The model.
        placement: Where its weights are.
        reason: Why they are there, in one sentence.
    """
    libraries = {name: version(name) for name in ("torch", "diffusers", "transformers")}
    return ModelInfo(
        name=pipeline.name,
        fingerprint=pipeline.fingerprint(),
        parameters=pipeline.parameters,
        attention_mode=pipeline.attention_mode,
        dtype=str(pipeline.dtype).removeprefix("torch."),
        device=device_name(pipeline.device),
        versions={"easyanim": __version__, **libraries},
        placement=placement,
        placement_reason=reason,
    )
