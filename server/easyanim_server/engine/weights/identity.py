"""Which of EasyAnimate's models a checkpoint is, by the names and shapes of its tensors; no weight is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.domain.published import DESCRIBED, Kind
from easyanim_server.engine.weights.index import CheckpointIndex
from easyanim_server.engine.weights.original import check_transformer, check_vae, is_diffusers, is_original

Shapes = Mapping[str, tuple[int, ...] | None]
"""Of tensors by name; None where an index names one whose file is absent."""

Version = Literal["V5", "V5.1"]
Layout = Literal["original", "diffusers"]
READERS: dict[str, Version] = {
    "embeddings.word_embeddings.weight": "V5",
    "bert.embeddings.word_embeddings.weight": "V5",
    "model.embed_tokens.weight": "V5.1",
    "model.language_model.embed_tokens.weight": "V5.1",
}
"""Tables of words in ``text_encoder/``: BERT's and Qwen2-VL's."""

SECOND_READERS = ("shared.weight", "encoder.embed_tokens.weight")
"""The table of words in ``text_encoder_2/``, T5's."""

SERVED: tuple[Kind, ...] = ("text-to-video", "image-to-video")

COMPONENTS = ("transformer", "vae", "text_encoder", "text_encoder_2")
"""Folders with weights."""

POSE_CHANNELS = 6
"""Of a camera's rays."""


@dataclass(frozen=True)
class Identity:
    """What a checkpoint is."""

    version: Version
    kind: Kind
    layout: Layout | None
    """None where no tensor tells: no block of the transformer has weights of its own for text."""


def kind_of(in_channels: int, latent: int, version: Version) -> Kind | None:
    """The kind of a transformer by its input channels; None where there is none.

    Args:
        in_channels: What it reads, of which the first are the noisy latents.
        latent: Channels of latents.
        version: V5's Control models have no reference picture.
    """
    kinds: dict[int, Kind] = {
        latent: "text-to-video",
        2 * latent + 1: "image-to-video",
        2 * latent + POSE_CHANNELS: "Control-Camera",
        (2 if version == "V5" else 3) * latent: "Control",
    }
    return kinds.get(in_channels)


def layout_of(names: Mapping[str, object]) -> Layout | None:
    """The layout of a transformer's names; None where both would have the same.

    Raises:
        UnsupportedModel: there are names of both.
    """
    first = next(filter(is_original, names), None)
    second = next(filter(is_diffusers, names), None)
    if first and second:
        raise UnsupportedModel(
            f"transformer is half in the original layout, which has {first}, and half in diffusers', which has {second}"
        )
    return "original" if first else "diffusers" if second else None


def identify(transformer: Shapes, vae: Shapes, text: Shapes, second_text: Shapes) -> Identity:
    """Tell a model by its tensors, which must all be one model's.

    Args:
        transformer: Tensors of ``transformer/``; at least ``proj.weight`` with its shape.
        vae: Of ``vae/``.
        text: Of ``text_encoder/``.
        second_text: Of ``text_encoder_2/``; empty where there is none.

    Raises:
        UnsupportedModel: they are of no model or of several; says by which names.
    """
    layout = layout_of(transformer)
    version = _version(transformer)
    _require_readers(version, transformer, text, second_text)
    latent = _latent_channels(transformer, vae)
    inputs = _shape(transformer, "transformer", "proj.weight", 4)[1]
    kind = kind_of(inputs, latent, version)
    if kind is None:
        raise UnsupportedModel(
            f"transformer's proj.weight has {inputs} input channels, as no EasyAnimate {version} has with latents of "
            f"{latent}"
        )
    return Identity(version, kind, layout)


def identity_of(index: CheckpointIndex) -> Identity | None:
    """Tell a checkpoint by the headers of its files; None where not all are here, or it is no EasyAnimate's.

    Raises:
        UnsupportedModel: its tensors are of no model or of several; says by which names.
    """
    try:
        transformer, vae, text, second = (index.tensors(name) for name in COMPONENTS)
    except UnsupportedModel:  # which who reads the file says better
        return None
    if not all((transformer, vae, text)) or None in (*transformer.values(), *vae.values()):
        return None
    if not any(name.startswith(("text_proj.", "text_proj_t5.")) for name in transformer):
        # another family's, which is asked for itself
        return None
    try:
        return identify(transformer, vae, text, second)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{index.name}: {error}") from error


def check(index: CheckpointIndex) -> None:
    """Refuse a checkpoint whose weights are here and are of no model that can be served, whatever is configured.

    Raises:
        UnsupportedModel: its tensors are of no model or of several, or of one that follows another video or a camera;
            or it is in the authors' layout, and its configurations are of networks that they have not published.
    """
    identity = identity_of(index)
    if identity is not None and identity.layout == "original":
        try:
            check_transformer(index.config("transformer/config.json"))
            check_vae(index.config("vae/config.json"))
        except UnsupportedModel as error:
            raise UnsupportedModel(f"{index.name}: {error}") from error
    if identity is not None and identity.kind not in SERVED:
        described, told = DESCRIBED[identity.kind], "its transformer's proj.weight has the input channels of one"
        raise UnsupportedModel(f"{index.name} is {described}, which this server does not serve yet: {told}")


def _version(transformer: Shapes) -> Version:
    first = next((name for name in transformer if name.startswith("text_proj_t5.")), None)
    second = next((name for name in transformer if name.startswith(("text_proj.0.", "text_proj.1."))), None)
    if first and second:
        raise UnsupportedModel(f"transformer is half V5's, which has {first}, and half V5.1's, which has {second}")
    if first or "text_proj.weight" in transformer:
        if "text_proj_t5.weight" not in transformer:
            raise UnsupportedModel("transformer has text_proj.weight, as V5 has, and lacks text_proj_t5.weight")
        return "V5"
    if second:
        return "V5.1"
    raise UnsupportedModel(
        "transformer has neither text_proj_t5.weight, as V5 has, nor text_proj.1.weight, as V5.1 has"
    )


def _require_readers(version: Version, transformer: Shapes, text: Shapes, second_text: Shapes) -> None:
    """Refuse text encoders of the other version, or of another width than the transformer reads."""
    mark = "text_proj_t5.weight" if version == "V5" else "text_proj.1.weight"
    found = next((name for name in READERS if name in text), None)
    if found and READERS[found] != version:
        raise UnsupportedModel(
            f"transformer has {mark}, as {version} has, and text_encoder has {found}, as {READERS[found]} has"
        )
    widths = [("text_encoder", text, found, "text_proj.weight" if version == "V5" else mark)]
    if version == "V5":
        other = next((name for name in SECOND_READERS if name in second_text), None)
        if second_text and other is None:
            raise UnsupportedModel(f"transformer has {mark}, as V5 has, and text_encoder_2 lacks {SECOND_READERS[0]}")
        widths.append(("text_encoder_2", second_text, other, mark))
    elif second_text:
        raise UnsupportedModel(f"transformer has {mark}, as V5.1 has, and there is a text_encoder_2, as V5 has")
    for component, shapes, table, reading in widths:
        written, read = shapes.get(table or ""), transformer.get(reading)
        if written and read and written[-1] != read[-1]:
            raise UnsupportedModel(
                f"transformer's {reading} {list(read)} reads {read[-1]} numbers a token, and {component}'s {table} "
                f"{list(written)} has {written[-1]}"
            )


def _latent_channels(transformer: Shapes, vae: Shapes) -> int:
    """What the transformer writes and the VAE reads."""
    stride = math.prod(_shape(transformer, "transformer", "proj.weight", 4)[2:])
    rows = _shape(transformer, "transformer", "proj_out.weight", 2)[0]
    made = rows // stride
    if vae:
        name = "decoder.conv_in.weight" if "decoder.conv_in.weight" in vae else "decoder.conv_in.conv.weight"
        taken = _shape(vae, "vae", name, 5)[1]
        if made != taken:
            raise UnsupportedModel(
                f"transformer's proj_out.weight makes latents of {made} channels, and vae's {name} takes {taken}"
            )
    return made


def _shape(shapes: Shapes, component: str, name: str, rank: int) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or len(shape) != rank:
        found = "is not there" if shape is None else f"has the shape {list(shape)}"
        raise UnsupportedModel(f"{component}'s {name} {found}; must have {rank} axes")
    return shape
