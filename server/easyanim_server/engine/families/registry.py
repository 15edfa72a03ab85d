"""The families of models that this server runs, and which of them a checkpoint is of."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points

from easyanim_server.domain.errors import ConfigurationError, UnsupportedModel
from easyanim_server.engine.families.base import ENTRY_POINTS, Match, ModelFamily
from easyanim_server.engine.families.easyanimate_v5.family import EasyAnimateV5
from easyanim_server.engine.families.easyanimate_v51.family import EasyAnimateV51
from easyanim_server.engine.weights.index import CheckpointIndex

FAMILIES: tuple[ModelFamily, ...] = (EasyAnimateV51(), EasyAnimateV5())
"""Those of this package, in the order in which they are asked."""


@cache
def registered() -> tuple[ModelFamily, ...]:
    """`FAMILIES`, then those of installed distributions by their names.

    Raises:
        ConfigurationError: one of them cannot be imported; says which, and what registers it.
    """
    found = [*FAMILIES]
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        try:
            found.append(point.load()())
        except Exception as error:  # whatever its import raises
            raise ConfigurationError(
                f"the model family {point.name} ({point.value}) cannot be loaded: {type(error).__name__}: {error}; "
                f"mend or uninstall {point.dist.name if point.dist else 'what registers it'}"
            ) from error
    return tuple(found)


def recognise(index: CheckpointIndex, families: Sequence[ModelFamily] | None = None) -> ModelFamily:
    """The first family that runs a checkpoint.

    Args:
        index: The checkpoint.
        families: Those to ask; by default all that are registered.

    Raises:
        UnsupportedModel: there is none; has the sentences of those whose model it is, or else of all.
        ConfigurationError: as `registered`.
    """
    refusals = []
    for family in registered() if families is None else families:
        found = family.recognise(index)
        if isinstance(found, Match):
            return family
        refusals.append(found)
    own = [refusal for refusal in refusals if not refusal.foreign] or refusals
    raise UnsupportedModel("; ".join(refusal.sentence for refusal in own))
