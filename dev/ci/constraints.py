"""Resolves the dependencies for every supported Python and pins what pip chose, in constraints/constraints.txt."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "constraints" / "constraints.txt"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")

MEASURED = {"torch": "2.11.0", "transformers": "5.17.0"}
"""Held back from the newest: the versions that the published measurements were made with."""

HEADER = """\
# What the project is developed and tested with, for reproducible installs: pip install -c constraints/constraints.txt
# Made by dev/ci/constraints.py; the ranges that are supported stand in pyproject.toml.
"""


def resolve(python: str) -> dict[str, str]:
    """Versions by name that pip chooses on `python`, for the package with its dev extra."""
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder) / "held.txt"
        held.write_text("".join(f"{name}=={version}\n" for name, version in MEASURED.items()))
        report = Path(folder) / "report.json"
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", report,
             "--python-version", python, "--only-binary", ":all:", "--target", folder, "--constraint", held,
             *requirements()],
            check=True,
        )  # fmt: skip
        installed = json.loads(report.read_text())["install"]
    return {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in installed}


def requirements() -> list[str]:
    """All dependencies of the package with its dev extra, as pip arguments."""
    try:
        import tomllib
    except ModuleNotFoundError:
        import tomli as tomllib
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [
        *project["dependencies"],
        *extras["cli"],
        *extras["server"],
        *extras["telemetry"],
        *extras["heif"],
        *extras["dev"],
    ]
    return [line for line in lines if not line.startswith("easyanim[")]


def main() -> None:
    found = {python: resolve(python) for python in PYTHONS}
    lines = []
    for name in sorted({name for versions in found.values() for name in versions}):
        versions = {python: found[python][name] for python in PYTHONS if name in found[python]}
        if len(set(versions.values())) == 1:
            lines.append(f"{name}=={next(iter(versions.values()))}")
        else:
            lines += [f"{name}=={version} ; python_version == '{python}'" for python, version in versions.items()]
    FILE.write_text(HEADER + "\n".join(lines) + "\n")
    print(f"{len(lines)} pins in {FILE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
