"""Models whose files are not what their names say: `serve` refuses them with the sentence that `doctor` has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from easyanim_server.cli import doctor
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import UnsupportedModel
from easyanim_server.engine.weights import checkpoint

WEIGHTS = "diffusion_pytorch_model.safetensors"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 13842342912\n"
PAGE = "<!DOCTYPE html><html><head><title>Sign in</title></head></html>"

Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    checkpoint.export("builtin:tiny", folder)
    return folder


def rename(file: str, other: str) -> Spoil:
    return lambda folder: (folder / file).rename((folder / file).parent / other)


def write(file: str, content: str | bytes) -> Spoil:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(data)


def edit(file: str, **changes: object) -> Spoil:
    return lambda folder: (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "vae" / WEIGHTS), folder / "vae/diffusion_pytorch_model.bin")
    (folder / "vae" / WEIGHTS).unlink()


def pickled_under_another_name(folder: Path) -> None:
    pickled(folder)
    (folder / "vae/diffusion_pytorch_model.bin").rename(folder / "vae" / WEIGHTS)


def linked_to_nothing(folder: Path) -> None:
    (folder / "vae" / WEIGHTS).unlink()
    (folder / "vae" / WEIGHTS).symlink_to("../.git/annex/objects/xx")


def sharded(component: str, **index: object) -> Spoil:
    def spoil(folder: Path) -> None:
        names = list(load_file(folder / component / WEIGHTS))
        shards = {name: f"diffusion_pytorch_model-0000{1 + number % 2}-of-00002.safetensors"
                  for number, name in enumerate(names)}  # fmt: skip
        (folder / component / WEIGHTS).rename(folder / component / "diffusion_pytorch_model-00001-of-00002.safetensors")
        file = folder / component / f"{WEIGHTS}.index.json"
        file.write_text(json.dumps(index or {"weight_map": shards}))

    return spoil


def cut(file: str, count: int) -> Spoil:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-count])


SPOILED: dict[str, tuple[Spoil, str]] = {
    "a variant's name": (
        rename(f"transformer/{WEIGHTS}", "diffusion_pytorch_model.fp16.safetensors"),
        f"transformer lacks {WEIGHTS}; diffusion_pytorch_model.fp16.safetensors is of a variant: rename it to ",
    ),
    "a text encoder's variant": (
        rename("text_encoder/model.safetensors", "model.fp16.safetensors"),
        "text_encoder lacks model.safetensors; model.fp16.safetensors is of a variant",
    ),
    "pickles": (pickled, f"vae lacks {WEIGHTS}; weights are read from safetensors files alone, and diffusion_"),
    "a pickle saved as safetensors": (pickled_under_another_name, f"vae/{WEIGHTS} is a pickle of torch.save"),
    "a page saved as safetensors": (write(f"vae/{WEIGHTS}", PAGE), f"vae/{WEIGHTS} is a web page (HTML)"),
    "a git-lfs pointer": (
        write("text_encoder/model.safetensors", POINTER),
        "text_encoder/model.safetensors is a git-lfs pointer to a file of 13842342912 bytes; `git lfs pull`",
    ),
    "an empty file": (write(f"vae/{WEIGHTS}", b""), f"vae/{WEIGHTS} is empty; download it again"),
    "zeros": (write(f"vae/{WEIGHTS}", bytes(4096)), f"vae/{WEIGHTS} is full of zeros"),
    "a file that was cut off": (cut(f"transformer/{WEIGHTS}", 100), f"transformer/{WEIGHTS} is broken: it has "),
    "a link to nothing": (linked_to_nothing, f"vae lacks {WEIGHTS}; {WEIGHTS} is a link to ../.git/annex/objects/xx"),
    "no weights": (lambda folder: (folder / "vae" / WEIGHTS).unlink(), f"{WEIGHTS}; it has no weights at all"),
    "a missing shard": (
        sharded("transformer"),
        "transformer lacks diffusion_pytorch_model-00002-of-00002.safetensors, 1 of the 2 files that its index names",
    ),
    "shards without an index": (
        rename(f"transformer/{WEIGHTS}", "diffusion_pytorch_model-00001-of-00002.safetensors"),
        "it has diffusion_pytorch_model-00001-of-00002.safetensors, and no index",
    ),
    "an empty index": (
        write(f"transformer/{WEIGHTS}.index.json", "{}"),
        f"{WEIGHTS}.index.json is damaged: it has no weight_map",
    ),
    "an index of nothing": (
        write(f"transformer/{WEIGHTS}.index.json", '{"weight_map": null}'),
        f"{WEIGHTS}.index.json is damaged: it has no weight_map",
    ),
    "an index of another shape": (
        sharded("transformer", weight_map={"a": 1}),
        f"transformer/{WEIGHTS}.index.json is damaged: weight_map has no file name for a",
    ),
    "an index that leaves the folder": (
        sharded("transformer", weight_map={"a": f"../vae/{WEIGHTS}"}),
        "weight_map has no file name for a",
    ),
    "an index that is a pointer": (write(f"vae/{WEIGHTS}.index.json", POINTER), "index.json is a git-lfs pointer"),
    "latin-1": (
        write("vae/config.json", '{\n "_name": "caf\xe9"\n}'.encode("latin-1")),
        "vae/config.json is not UTF-8: byte 0xe9 in line 2",
    ),
    "half a file": (
        write("scheduler/scheduler_config.json", '{"shift": 5.0,'),
        "scheduler_config.json is not valid JSON: ",
    ),
    "a list": (write("model_index.json", "[]"), "model_index.json is not valid JSON for a model: its top is no object"),
    "a page as configuration": (write("vae/config.json", PAGE), "vae/config.json is a web page (HTML)"),
    "a number as text": (
        edit("transformer/config.json", in_channels="33"),
        "transformer/config.json is damaged: in_channels is '33' and must be a whole number",
    ),
    "a number as a list": (
        edit("vae/config.json", block_out_channels=4),
        "vae/config.json is damaged: block_out_channels is 4 and must be a list",
    ),
    "a number in a network": (edit("transformer/config.json", num_layers="4"), "transformer/config.json is damaged: "),
    "a text encoder's number": (
        edit("text_encoder/config.json", text_config={"hidden_size": "wide"}),
        "text_encoder/config.json is damaged: ",
    ),
    "a scheduler's number": (
        edit("scheduler/scheduler_config.json", num_train_timesteps="many"),
        "scheduler/scheduler_config.json is damaged: ",
    ),
    "a tokenizer's pointer": (
        write("tokenizer/tokenizer.json", POINTER),
        "tokenizer/tokenizer.json is a git-lfs pointer",
    ),
    "half a tokenizer": (cut("tokenizer/tokenizer.json", 1000), "tokenizer is damaged: "),
}


@pytest.mark.parametrize(("spoil", "said"), SPOILED.values(), ids=SPOILED)
def test_serve_refuses_what_doctor_finds_and_both_say_what_the_file_is(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Spoil, said: str
) -> None:
    folder = shutil.copytree(exported, tmp_path / "model")
    spoil(folder)

    with pytest.raises(UnsupportedModel) as refused:
        checkpoint.load(str(folder), device=torch.device("cpu"), dtype=torch.float32)
    code = doctor.report(Settings.load({"model": str(folder), "listen": "127.0.0.1:0", "device": "cpu"}), as_json=True)

    report = json.loads(capsys.readouterr().out)
    details = [row["detail"] for row in report["findings"] if row["status"] == "missing"]
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not refused.value.heals
    assert (code, report["can_serve"], details) == (1, False, [str(refused.value)])


def test_a_model_that_is_whole_can_be_served(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = doctor.report(
        Settings.load({"model": str(exported), "listen": "127.0.0.1:0", "device": "cpu"}), as_json=True
    )

    report = json.loads(capsys.readouterr().out)
    assert (code, report["can_serve"]) == (0, True)
    assert "missing" not in {row["status"] for row in report["findings"]}
