"""What a checkpoint says of itself: its configurations, and the names and shapes of its tensors. No weight is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from easyanim_server.domain.errors import UnsupportedModel

Shape = tuple[int, ...]


@dataclass(frozen=True)
class CheckpointIndex:
    """One checkpoint, before anything of it is loaded. Files are read when they are asked for."""

    name: str
    """As the operator named it: a Hugging Face id, a folder, ``builtin:tiny``."""
    folder: Path | None
    """With the configurations at least; None of models that are made at start."""

    def has(self, file: str) -> bool:
        """Whether there is a file of that name, relative to the folder."""
        return self.folder is not None and (self.folder / file).is_file()

    def config(self, file: str) -> Mapping[str, Any]:
        """A configuration, such as ``vae/config.json``; empty where there is no such file.

        Raises:
            UnsupportedModel: it is not a JSON object.
        """
        if self.folder is None or not self.has(file):
            return {}
        try:
            content = json.loads((self.folder / file).read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise UnsupportedModel(f"{self.folder / file} is not valid JSON: {error}") from error
        if not isinstance(content, dict):
            raise UnsupportedModel(f"{self.folder / file} is not valid JSON for a model: its top is no object {{...}}")
        return content

    def tensors(self, component: str) -> dict[str, Shape | None]:
        """Names of a component's tensors with their shapes; None where an index names a tensor whose file is absent.

        Args:
            component: A folder in the checkpoint, such as ``transformer``; an empty text is the checkpoint itself.

        Raises:
            UnsupportedModel: a file is no safetensors file.
        """
        if self.folder is None:
            return {}
        place = self.folder / component
        found: dict[str, Shape | None] = {}
        for index in sorted(place.glob("*.safetensors.index.json")):
            named = self.config(index.relative_to(self.folder).as_posix()).get("weight_map")
            if not isinstance(named, dict):
                raise UnsupportedModel(f"{index} is damaged: it has no weight_map from tensors to files")
            found |= dict.fromkeys(named)
        for file in sorted(place.glob("*.safetensors")):
            found |= _header(file)
        return found


def _header(file: Path) -> dict[str, Shape]:
    try:
        with safe_open(file, framework="pt") as stored:
            return {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UnsupportedModel(f"{file} is broken: {error}") from error
