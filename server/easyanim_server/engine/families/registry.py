"""The families of models that this server runs, and which of them a checkpoint is of."""

from __future__ import annotations

from collections.abc import Sequence

from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.domain.published import DESCRIBED
from easyanim_server.engine.families.base import Match, ModelFamily
from easyanim_server.engine.families.easyanimate_v5.family import EasyAnimateV5
from easyanim_server.engine.families.easyanimate_v51.family import EasyAnimateV51
from easyanim_server.engine.weights.identity import identity_of
from easyanim_server.engine.weights.index import CheckpointIndex

FAMILIES: tuple[ModelFamily, ...] = (EasyAnimateV51(), EasyAnimateV5())
"""In the order in which they are asked."""

SERVED = ("text-to-video", "image-to-video")
"""Kinds of models."""


def recognise(index: CheckpointIndex, families: Sequence[ModelFamily] = FAMILIES) -> ModelFamily:
    """The first family that runs a checkpoint.

    Args:
        index: The checkpoint.
        families: Those to ask.

    Raises:
        UnsupportedModel: there is none; has the sentences of those whose model it is, or else of all. Or the tensors
            that are here are of two models, or of one that follows another video or a camera.
    """
    identity = identity_of(index)
    if identity is not None and identity.kind not in SERVED:
        described, latent = DESCRIBED[identity.kind], "its transformer's proj.weight has the input channels of one"
        raise UnsupportedModel(f"{index.name} is {described}, which this server does not serve yet: {latent}")
    refusals = []
    for family in families:
        found = family.recognise(index)
        if isinstance(found, Match):
            return family
        refusals.append(found)
    own = [refusal for refusal in refusals if not refusal.foreign] or refusals
    raise UnsupportedModel("; ".join(refusal.sentence for refusal in own))
