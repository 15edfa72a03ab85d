"""A model in its authors' layout, written once more in diffusers'."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import __version__ as diffusers_version

from easyanim_server.domain.errors import ConfigurationError, UnsupportedModel
from easyanim_server.domain.published import Kind
from easyanim_server.engine.weights import original
from easyanim_server.engine.weights.contents import read_object
from easyanim_server.engine.weights.identity import layout_of
from easyanim_server.engine.weights.read import as_stored, files_of, stored_names
from easyanim_server.engine.weights.rewrite import rewrite

STEM = "diffusion_pytorch_model"

SHARD_BYTES = 2 * 10**9
"""Of a file, as `export` writes them."""

PIPELINES: dict[Kind, str] = {
    "text-to-video": "EasyAnimatePipeline",
    "image-to-video": "EasyAnimateInpaintPipeline",
}
"""Of diffusers, for V5.1; it has none for V5."""

COPIED = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
"""Folders that are alike in both layouts."""


def convert(folder: Path, name: str, target: Path) -> None:
    """Write a folder in diffusers' layout: all of it or nothing.

    Args:
        folder: In the original layout, complete, and found fit to be served.
        name: What the operator called it, for messages.
        target: Where to; there must be nothing, in a folder that is there.

    Raises:
        UnsupportedModel: the model is in diffusers' layout already.
        ConfigurationError: there is something at `target`, or no room for the weights.
        OSError: it cannot be written.
    """
    if layout_of(dict.fromkeys(stored_names(folder / "transformer", STEM))) == "diffusers":
        raise UnsupportedModel(f"{name} is in diffusers' layout already; there is nothing to convert")
    _require_new(target)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free = shutil.disk_usage(target.absolute().parent).free
    if size > free:
        raise ConfigurationError(f"{str(target)!r} would take {size} bytes, and {free} are free; nothing was written")
    with _all_or_nothing(target) as made:
        _networks(folder, made)
        for component in COPIED:
            if (folder / component).is_dir():
                shutil.copytree(folder / component, made / component)
        for file in ("easyanim.json", "README.md", "LICENSE"):
            if (folder / file).is_file():
                shutil.copyfile(folder / file, made / file)
        _write(made / "model_index.json", _index(folder))


def _require_new(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise ConfigurationError(f"{str(target)!r} exists already; nothing was written")
    if not target.absolute().parent.is_dir():
        raise ConfigurationError(f"{str(target)!r} cannot be written: there is no folder {target.absolute().parent}")


@contextmanager
def _all_or_nothing(target: Path) -> Iterator[Path]:
    """A folder beside the target, which takes its name at the end and is removed where that is not reached."""
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.absolute().parent))
    try:
        yield made
        made.chmod(0o755)  # as other folders, not as temporary ones
        _require_new(target)
        made.rename(target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _networks(folder: Path, made: Path) -> None:
    config = read_object(folder / "vae/config.json")
    attention = original.has_attention(config, stored_names(folder / "vae", STEM))

    def vae_name(stored: str) -> str | None:
        return None if original.MIDDLE in stored and not attention else stored

    transformer = original.transformer_config(read_object(folder / "transformer/config.json"))
    vae = config | {"mid_block_use_attention": attention}
    for component, described, rename in (
        ("transformer", transformer, original.transformer_name),
        ("vae", vae, vae_name if not attention else as_stored),
    ):
        (made / component).mkdir()
        files = [folder / component / file for file in files_of(folder / component, STEM)]
        rewrite(files, made / component, STEM, rename, SHARD_BYTES)
        _write(made / component / "config.json", described | {"_diffusers_version": diffusers_version})


def _index(folder: Path) -> dict[str, Any]:
    """The parts of the pipeline that diffusers has for the model, or of the authors' own, for V5."""
    config = read_object(folder / "transformer/config.json")
    parts = read_object(folder / "model_index.json").items()
    index = {key: value for key, value in parts if isinstance(value, list) and any(value)}
    kind: Kind = "text-to-video" if config.get("in_channels") == config.get("out_channels") else "image-to-video"
    pipeline = "EasyAnimatePipeline_Multi_Text_Encoder" if config.get("text_embed_dim_t5") else PIPELINES[kind]
    return {"_class_name": pipeline, "_diffusers_version": diffusers_version, **index}


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
