"""What EasyAnimate's authors have published under which names; facts about other people's repositories, no code's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["text-to-video", "image-to-video", "Control", "Control-Camera"]

OWNER = "alibaba-pai"
"""On Hugging Face."""
MODELSCOPE_OWNER = "PAI"
MODELSCOPE = "modelscope:"
"""Before an id of ModelScope."""

_NAME = re.compile(r"EasyAnimateV(?P<version>[\d.]+)-(?P<rest>[\w.-]+)")
_VARIANT = re.compile(r"(?P<size>7b|12b)-zh(?P<kind>-InP|-Control-Camera|-Control|)(?P<diffusers>-diffusers|)")
_KINDS: dict[str, Kind] = {
    "": "text-to-video",
    "-InP": "image-to-video",
    "-Control": "Control",
    "-Control-Camera": "Control-Camera",
}
DESCRIBED: dict[Kind, str] = {
    "text-to-video": "a text-to-video model",
    "image-to-video": "an image-to-video model",
    "Control": "a Control model, which follows a control video",
    "Control-Camera": "a Control-Camera model, which follows a camera path",
}


@dataclass(frozen=True)
class Published:
    """A model of the authors'."""

    version: Literal["5", "5.1"]
    size: Literal["7b", "12b"]
    kind: Kind
    diffusers: bool
    """Whether it is in diffusers' layout; else it is in the authors' own."""

    @property
    def name(self) -> str:
        """Without its owner."""
        kind = next(suffix for suffix, kind in _KINDS.items() if kind == self.kind)
        return f"EasyAnimateV{self.version}-{self.size}-zh{kind}{'-diffusers' if self.diffusers else ''}"

    @property
    def id(self) -> str:
        """On Hugging Face."""
        return f"{OWNER}/{self.name}"

    @property
    def follows(self) -> bool:
        """Whether it makes videos after another one or a camera's path."""
        return self.kind in ("Control", "Control-Camera")


def _all() -> tuple[Published, ...]:
    kinds = tuple(_KINDS.values())
    sizes: tuple[Literal["7b", "12b"], ...] = ("7b", "12b")
    newer = [Published("5.1", size, kind, layout) for layout in (True, False) for size in sizes for kind in kinds]
    older = [Published("5", size, kind, False) for size in sizes for kind in kinds[:2]]
    return (*newer, *older, Published("5", "12b", "Control", False))


PUBLISHED = _all()
"""All of V5 and V5.1; V5 was never published in diffusers' layout."""

_IDS = {model.name: model for model in PUBLISHED}


def find(model: str) -> Published | None:
    """The model that an id of either host means, with `MODELSCOPE` before ModelScope's; None of others."""
    owner = f"{MODELSCOPE}{MODELSCOPE_OWNER}/" if model.startswith(MODELSCOPE) else f"{OWNER}/"
    return _IDS.get(model.removeprefix(owner)) if model.startswith(owner) else None


def resolve(model: str) -> str:
    """The id of a published model that is named without its owner; other names as they are."""
    host = MODELSCOPE if model.startswith(MODELSCOPE) else ""
    if model.removeprefix(host) in _IDS:
        return f"{host}{MODELSCOPE_OWNER if host else OWNER}/{model.removeprefix(host)}"
    return model


def refusal(model: str) -> str | None:
    """Complete the sentence that begins with an id of the authors'; None of those that can be served, and of others."""
    host = MODELSCOPE if model.startswith(MODELSCOPE) else ""
    owner, _, name = model.removeprefix(host).partition("/")
    found = _NAME.fullmatch(name)
    if owner not in (OWNER, MODELSCOPE_OWNER) or found is None:
        return None
    if found["version"] not in ("5", "5.1"):
        version = found["version"]
        return f"is EasyAnimate V{version}, and this server runs V5 and V5.1; use {_instead('7b', host)} instead"
    variant = _VARIANT.fullmatch(found["rest"])
    if variant is None:
        return f"is no model of EasyAnimate V{found['version']}; use {_instead('7b', host)} instead"
    known = _IDS.get(name)
    if known is None:
        return _missing(found["version"], variant, host)
    if known.follows:
        instead = Published(known.version, known.size, "image-to-video", known.diffusers)
        return f"is {DESCRIBED[known.kind]}, which this server does not serve yet; use {_named(instead, host)} instead"
    return None


def _missing(version: str, variant: re.Match[str], host: str) -> str:
    """Of names that look like the authors' and are none."""
    original = _IDS.get(f"EasyAnimateV{version}-{variant['size']}-zh{variant['kind']}")
    if variant["diffusers"] and original and not original.follows:
        return (
            f"does not exist: EasyAnimate V{version} was published in its authors' layout alone; use "
            f"{_named(original, host)}, which this server reads as it is"
        )
    return f"does not exist; use {_instead(variant['size'], host)} instead"


def _instead(size: str, host: str) -> str:
    return _named(_IDS[f"EasyAnimateV5.1-{size}-zh-InP{'' if host else '-diffusers'}"], host)


def _named(model: Published, host: str) -> str:
    return f"{host}{MODELSCOPE_OWNER}/{model.name}" if host else model.id
