"""The families of models that this server runs, and which of them a checkpoint is of."""

from __future__ import annotations

from collections.abc import Sequence

from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.engine.families.base import Match, ModelFamily
from easyanim_server.engine.families.easyanimate_v51.family import EasyAnimateV51
from easyanim_server.engine.weights.index import CheckpointIndex

FAMILIES: tuple[ModelFamily, ...] = (EasyAnimateV51(),)
"""In the order in which they are asked."""


def recognise(index: CheckpointIndex, families: Sequence[ModelFamily] = FAMILIES) -> ModelFamily:
    """The first family that runs a checkpoint.

    Args:
        index: The checkpoint.
        families: Those to ask.

    Raises:
        UnsupportedModel: there is none; has the sentences of all that were asked.
    """
    sentences = []
    for family in families:
        found = family.recognise(index)
        if isinstance(found, Match):
            return family
        sentences.append(found.sentence)
    raise UnsupportedModel("; ".join(sentences))
