"""The models that are known by name: where they come from, their family, and what they can be asked for.

Imports no torch: settings, the command line and the front need it before any model is loaded. What a checkpoint says
of itself goes before what is written here; see `engine.families`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from easyanim_server.domain import published
from easyanim_server.domain.defaults import ModelDefaults
from easyanim_server.domain.job import START, START_END, TEXT, Bucket
from easyanim_server.domain.model import Capabilities, TokenizerSpec
from easyanim_server.domain.profiles import Solver
from easyanim_server.domain.shape import Geometry

Origin = Literal["hub", "package", "made"]
"""Downloaded from Hugging Face, shipped with this package, or made at start."""

_GEOMETRY = Geometry(temporal=4, spatial=8, patch=2, latent_channels=16, max_frames=49)


def _buckets(names: str) -> tuple[Bucket, ...]:
    return tuple(Bucket.parse(name, _GEOMETRY) for name in names.split())


EASYANIMATE_V51 = Capabilities(
    family="easyanimate-v5.1",
    tasks=frozenset({TEXT, START, START_END}),
    geometry=_GEOMETRY,
    tokenizers=(TokenizerSpec("qwen2-vl", max_tokens=256),),
    solvers=tuple(solver.value for solver in (Solver.EULER, Solver.UNIPC, Solver.DPMPP_2M)),
    defaults=ModelDefaults(
        # The sizes that the model's authors publish times for.
        buckets=_buckets("384x672 672x384 512x512 576x1008 1008x576 768x1344 1344x768"),
        noise_augmentation=0.0563,
    ),
)
"""EasyAnimate V5.1's image-to-video models, as published."""

EASYANIMATE_V5 = replace(
    EASYANIMATE_V51,
    family="easyanimate-v5",
    tokenizers=(TokenizerSpec("bert", max_tokens=77), TokenizerSpec("t5", max_tokens=256)),
    solvers=tuple(solver.value for solver in (Solver.DDIM, Solver.UNIPC, Solver.DPMPP_2M)),
    defaults=replace(EASYANIMATE_V51.defaults, steps=50, solver=Solver.DDIM),
)
"""EasyAnimate V5's image-to-video models, as published."""

FAMILIES = (EASYANIMATE_V51, EASYANIMATE_V5)
"""Of each family what its published models can be asked for; the first is what unknown models are taken for."""


@dataclass(frozen=True)
class KnownModel:
    """A model by name."""

    name: str
    origin: Origin
    capabilities: Capabilities
    like: str = ""
    """A model that is made here with the same shapes, but for input channels; empty where there is none."""


def _with_buckets(names: str) -> Capabilities:
    return replace(EASYANIMATE_V51, defaults=replace(EASYANIMATE_V51.defaults, buckets=_buckets(names)))


_OF_VERSION = {"5.1": (EASYANIMATE_V51, "synthetic:"), "5": (EASYANIMATE_V5, "synthetic:v5-")}
"""The family of each published version, and what its models of published shape that are made here begin with."""


def _hosted() -> tuple[KnownModel, ...]:
    """What the authors have published, less what the server does not serve."""
    served = [model for model in published.PUBLISHED if not model.follows and model.version in _OF_VERSION]
    made = []
    for model in sorted(served, key=lambda model: model.kind != "image-to-video"):
        family, synthetic = _OF_VERSION[model.version]
        tasks = family.tasks if model.kind == "image-to-video" else frozenset({TEXT})
        made.append(KnownModel(model.id, "hub", replace(family, tasks=tasks), like=f"{synthetic}{model.size}"))
    return tuple(made)


MODELS = (
    *_hosted(),
    # Its folder says what it is best asked for; see `config.model_defaults`.
    KnownModel("builtin:demo", "package", EASYANIMATE_V51),
    # Quick on a laptop's CPU.
    KnownModel("builtin:tiny", "made", _with_buckets("96x160 160x96 128x128 96x160x25 128x128x25 96x160x13 128x128x5")),
    KnownModel("synthetic:7b", "made", EASYANIMATE_V51),
    KnownModel("synthetic:12b", "made", EASYANIMATE_V51),
    KnownModel("synthetic:v5-7b", "made", EASYANIMATE_V5),
    KnownModel("synthetic:v5-12b", "made", EASYANIMATE_V5),
)

DEFAULT_MODEL = "alibaba-pai/EasyAnimateV5.1-7b-zh-InP-diffusers"
DEMO, TINY = "builtin:demo", "builtin:tiny"
SYNTHETIC = tuple(model.name for model in MODELS if model.name.startswith("synthetic:"))

MADE_HERE = tuple(model.name for model in MODELS if model.origin != "hub")
"""Models that need no download."""


def find(name: str) -> KnownModel | None:
    """The model of that name, on whichever host; None of others, such as folders."""
    hosted = published.find(name)
    sought = hosted.id if hosted else name
    return next((model for model in MODELS if model.name == sought), None)


def expected(name: str) -> Capabilities:
    """What a model of that name is expected to be capable of, until its checkpoint is read."""
    known = find(name)
    return known.capabilities if known else FAMILIES[0]


def parse_bucket(text: str, model: str) -> Bucket:
    """Read a bucket's name for a model; sizes are checked where the model is known.

    Other models' are checked when their checkpoint is read.

    Raises:
        ValueError: the text has another form, or the model does not make that shape.
    """
    geometry = expected(model).geometry
    return Bucket.parse(text, geometry if find(model) else None, frames=geometry.max_frames)
