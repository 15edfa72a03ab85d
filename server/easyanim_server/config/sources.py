"""Where settings come from: names in the environment and in files, and what is said of those that are wrong."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import TomlConfigSettingsSource

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENV_PREFIX = "EASYANIM_"
CLIENT_ADDRESS = "EASYANIM_CLIENT_ADDRESS"
"""Read by the client's command line; a shell may have it for both."""

SYNONYMS = {
    "address": "listen", "bind": "listen", "host": "listen", "port": "listen", "socket": "listen",
    "cache": "cache_dir", "fp8": "precision", "gpu": "device", "height": "buckets",
    "max_queue": "queue_size", "metrics_port": "metrics_listen", "offload": "placement", "checkpoint": "model",
    "quantization": "precision", "resolution": "buckets", "size": "buckets", "sizes": "buckets",
    "threads": "cpu_threads", "tracing": "otlp_endpoint", "vram": "vram_limit_gib", "width": "buckets",
}  # fmt: skip
"""What other programs call a setting, where the words are too unlike to be taken for a slip."""

_KUBERNETES = {
    r"SERVICE_HOST|PORT_\d+_(TCP|UDP|SCTP)_ADDR": r"[\da-fA-F.:]+",
    r"SERVICE_PORT(_[A-Z\d_]+)?|PORT_\d+_(TCP|UDP|SCTP)_PORT": r"\d+",
    r"PORT|PORT_\d+_(TCP|UDP|SCTP)": r"(tcp|udp|sctp)://\S+:\d+",
    r"PORT_\d+_(TCP|UDP|SCTP)_PROTO": r"tcp|udp|sctp",
}
"""The ends of names that Kubernetes gives every container for each service, with what the values look like."""


class TomlFile(TomlConfigSettingsSource):
    """A settings file, which some editors begin with a byte-order mark."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        return tomllib.loads(file_path.read_text(encoding="utf-8-sig"))


def unknown_environment(environment: Mapping[str, str], fields: Iterable[str]) -> list[str]:
    """Names that start with `EASYANIM_` and are no setting: misspelt ones must not pass in silence."""
    known = {ENV_PREFIX + name.upper() for name in fields} | {CLIENT_ADDRESS}
    return sorted(
        name
        for name, value in environment.items()
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known and not _of_kubernetes(name, value)
    )


def _of_kubernetes(name: str, value: str) -> bool:
    """Whether a variable is one that Kubernetes sets for a service called ``easyanim`` or ``easyanim-*``."""
    start = rf"{ENV_PREFIX}([A-Z\d_]+_)?"
    return any(
        re.fullmatch(f"{start}({end})", name) and re.fullmatch(values, value) for end, values in _KUBERNETES.items()
    )


def sentences(
    error: ValidationError,
    flags: Mapping[str, Any],
    file: Path | None,
    in_file: Mapping[str, Any],
    fields: Iterable[str],
) -> str:
    """A line for each wrong value, with where it comes from; sources are asked in their order."""
    environment = {name.upper(): name for name in os.environ}

    def source(name: str) -> str:
        variable = ENV_PREFIX + name.upper()
        if name in flags:
            return f"--{name.replace('_', '-')}"
        return environment.get(variable) or (str(file) if name in in_file else "the tuning file")

    lines, unknown = [], {}
    for item in error.errors():
        name = str(item["loc"][0]) if item["loc"] else ""
        if item["type"] == "extra_forbidden":
            unknown[name] = f"setting {name!r} (from {source(name)})"
        else:
            said = item["msg"].removeprefix("Value error, ")
            lines.append(f"{name}={item['input']!r}: {said} (from {source(name)})")
    return "\n".join([*lines, *([unknown_names(unknown, fields)] if unknown else [])])


def unknown_names(found: Mapping[str, str], known: Iterable[str]) -> str:
    """A line for each unknown name, with the one that was probably meant; all that there are where none is near."""
    short = {name.lower().removeprefix(ENV_PREFIX.lower()): name for name in known}
    lines, lost = [], False
    for name, words in found.items():
        plain = name.lower().removeprefix(ENV_PREFIX.lower())
        near = difflib.get_close_matches(plain, short, n=1, cutoff=0.7)
        near = near or [meant for word, meant in SYNONYMS.items() if word == plain]
        lost = lost or not near
        lines.append(f"unknown {words}" + (f"; did you mean {short[near[0]]}?" if near else ""))
    return "\n".join(lines) + (f"; known are {', '.join(sorted(short.values()))}" if lost else "")
