"""`easyanim-server fetch` and `convert`, with hosts and folders of our own on this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from easyanim_server import __main__ as command
from easyanim_server.cli import doctor, memory_plan
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError, UnsupportedModel
from easyanim_server.domain.execution import Backend
from easyanim_server.domain.job import Bucket, Job
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.weights import checkpoint, modelscope
from easyanim_server.engine.weights import download as downloads
from easyanim_server.engine.weights.convert import convert as write_converted
from easyanim_server.engine.weights.original import transformer_name
from tests.file_hosts import FileHost, serving

ORIGINAL = Path(__file__).parents[1] / "fixtures" / "v51-inp-i2v"
UPSTREAM = ORIGINAL.parent / "upstream" / "models"
PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
CPU = torch.device("cpu")


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A V5.1 in its authors' layout, to spoil."""
    folder = tmp_path / "original"
    for part in PARTS:
        shutil.copytree(ORIGINAL / part, folder / part)
    shutil.copy(ORIGINAL / "model_index.json", folder)
    return folder


@pytest.fixture(params=["V5.1", "V5 text-to-video"])
def either(request: pytest.FixtureRequest, original: Path, tmp_path: Path) -> Path:
    """A V5.1 or a V5 in its authors' layout."""
    if request.param == "V5.1":
        return original
    return shutil.copytree(UPSTREAM / "v5-t2v", tmp_path / "v5")


@pytest.fixture
def host(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FileHost]]:
    """Both hosts at one address, with the checkpoint as someone/model, and caches of their own."""
    (original / "README.md").write_text("not needed")
    monkeypatch.setattr(downloads, "PAUSE_S", 0.0)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "scope"))
    with serving(original) as (handler, address):
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", address)
        url = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield handler


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The command's exit code."""
    monkeypatch.setattr("sys.argv", ["easyanim-server", *words])
    with pytest.raises(SystemExit) as left:
        command.main()
    return int(left.value.code or 0)


def weights(model: str) -> dict[str, torch.Tensor]:
    modules = checkpoint.load(model, device=CPU, dtype=torch.float32)
    return {
        f"{part}.{name}": tensor
        for part in ("transformer", "vae", "text_encoder", "text_encoder_2")
        if hasattr(modules, part)
        for name, tensor in getattr(modules, part).state_dict().items()
    }


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("model", ["someone/model", "modelscope:someone/model"])
def test_fetch_goes_on_where_it_was_cut_off_and_then_no_host_is_needed(
    host: type[FileHost],
    original: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: str,
) -> None:
    host.always_cut.add(WEIGHTS)
    assert run(monkeypatch, "fetch", model) == 2
    assert model in capsys.readouterr().err
    host.always_cut.clear()
    host.cuts[WEIGHTS] = 50_000
    host.asked.clear()

    assert run(monkeypatch, "fetch", model) == 0

    assert f"{model} is complete: " in capsys.readouterr().out
    ranges = [asked for name, asked in host.asked if name == WEIGHTS]
    assert len(ranges) == 2
    assert None not in ranges
    assert "README.md" not in {name for name, _ in host.asked}
    host.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_same(weights(model), weights(str(original)))
    assert host.asked == []
    assert doctor.report(Settings.load({"model": model, "listen": "127.0.0.1:0"}), as_json=True) == 0


def test_fetch_takes_only_what_is_downloaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "fetch", "builtin:tiny") == 2
    assert "builtin:tiny needs no download; fetch takes ids of Hugging Face or ModelScope" in capsys.readouterr().err


def test_a_model_that_cannot_run_is_refused_before_its_weights_come(host: type[FileHost], original: Path) -> None:
    config = original / "transformer/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 48}))

    with pytest.raises(UnsupportedModel, match="modelscope:someone/model is a Control model"):
        checkpoint.download("modelscope:someone/model", None)

    assert not [name for name, _ in host.asked if name.endswith(".safetensors")]


def test_doctor_names_what_modelscope_still_has_to_bring(
    host: type[FileHost], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "modelscope:someone/model"
    folder = checkpoint.download(model, None)
    (folder / WEIGHTS).unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert doctor.report(Settings.load({"model": model, "listen": "127.0.0.1:0"}), as_json=True) == 1

    findings = {row["subject"]: row for row in json.loads(capsys.readouterr().out)["findings"]}
    assert f"{modelscope.folder_of(model)} lacks {WEIGHTS}" in findings["model"]["detail"]


def test_a_converted_model_is_the_same_one(either: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (either / "easyanim.json").write_text('{"defaults": {"step_count": 7}}')
    target = tmp_path / "converted"

    assert run(monkeypatch, "convert", str(either), str(target)) == 0

    assert not any(".attn2." in name for name in load_file(target / WEIGHTS))
    pipeline = json.loads((target / "model_index.json").read_text())["_class_name"]
    of_v5 = "EasyAnimatePipeline_Multi_Text_Encoder"  # diffusers has none
    assert pipeline == (of_v5 if (either / "text_encoder_2").is_dir() else "EasyAnimateInpaintPipeline")
    assert (target / "easyanim.json").is_file()
    one = checkpoint.load(str(either), device=CPU, dtype=torch.float32)
    other = checkpoint.load(str(target), device=CPU, dtype=torch.float32)
    assert_same(weights(str(either)), weights(str(target)))
    for part in ("transformer", "vae"):
        for key, value in getattr(one, part).config.items():
            assert key.startswith("_") or getattr(other, part).config[key] == value
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".")] == []
    assert run(monkeypatch, "convert", str(target), str(tmp_path / "again")) == 2
    assert not (tmp_path / "again").exists()


def test_convert_overwrites_nothing_and_leaves_nothing_half_done(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "there"
    target.mkdir()
    assert run(monkeypatch, "convert", str(original), str(target)) == 2
    assert "exists already; nothing was written" in capsys.readouterr().err
    assert list(target.iterdir()) == []

    (original / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"")
    before = set(tmp_path.iterdir())
    with pytest.raises(UnsupportedModel, match="is empty"):
        write_converted(original, "model", tmp_path / "new")
    assert set(tmp_path.iterdir()) == before
    with pytest.raises(ConfigurationError, match="there is no folder"):
        write_converted(original, "model", tmp_path / "nowhere/new")


def mixed(folder: Path) -> None:
    """Put half of the weights under the names of the other layout."""
    tensors = load_file(folder / WEIGHTS)
    renamed = {transformer_name(name) if "blocks.0." in name else name: tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / WEIGHTS)


def other_text_encoder(folder: Path) -> None:
    shutil.rmtree(folder / "text_encoder")
    shutil.copytree(UPSTREAM / "v5-inp/text_encoder", folder / "text_encoder")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (mixed, "transformer is half in the original layout, which has transformer_blocks.1.attn2."),
        (other_text_encoder, "and text_encoder has embeddings.word_embeddings.weight, as V5 has"),
    ],
)
def test_half_of_one_model_and_half_of_another_leaves_with_2_and_names_of_weights(
    original: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], spoil: object, message: str
) -> None:
    assert callable(spoil)
    spoil(original)

    assert run(monkeypatch, "warm", "--model", str(original), "--device", "cpu", "--backend", "eager") == 2
    assert message in capsys.readouterr().err
    assert doctor.report(Settings.load({"model": str(original), "listen": "127.0.0.1:0"}), as_json=True) == 1
    findings = {row["subject"]: row for row in json.loads(capsys.readouterr().out)["findings"]}
    assert message in findings["model"]["detail"]


def test_plan_predicts_a_folder_in_its_authors_layout_as_the_converted_one(either: Path, tmp_path: Path) -> None:
    write_converted(either, "model", tmp_path / "converted")
    folders = (either, tmp_path / "converted")

    plans = [
        memory_plan.plan(Settings.load({"model": str(folder), "buckets": "32x64x9"}), "8GiB") for folder in folders
    ]

    assert plans[0].rows == plans[1].rows
    assert plans[0].auto == plans[1].auto


def test_an_engine_starts_on_a_folder_in_its_authors_layout(either: Path) -> None:
    engine = Engine.from_settings(Settings(model=str(either), device="cpu", backend=Backend.EAGER))
    sampling = engine.begin(Job("1", "a cat", "", Bucket.parse("32x64x5"), steps=1, guidance=1.0, seed=1))
    engine.step(sampling)

    assert [frames.shape for frames in engine.decode(sampling)] == [(1, 32, 64, 3), (4, 32, 64, 3)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transformer_blocks.1.attn2.to_out.0.bias": None}, "missing transformer_blocks.1.attn2.to_out.0.bias"),
        ({"transformer_blocks.3.attn2.to_q.bias": (32,)}, "unexpected transformer_blocks.3.attn2.to_q.bias"),
        (
            {"transformer_blocks.0.attn2.to_q.weight": (32, 16)},
            "wrong shape transformer_blocks.0.attn2.to_q.weight [32, 16] instead of [32, 32]",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named_as_the_file_names_them(
    original: Path, changes: dict[str, tuple[int, ...] | None], message: str
) -> None:
    tensors = load_file(original / WEIGHTS)
    for name, shape in changes.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = torch.zeros(shape)
    save_file(tensors, original / WEIGHTS)

    with pytest.raises(UnsupportedModel) as caught:
        checkpoint.load(str(original), device=CPU, dtype=torch.float32)

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("component", "key", "value"), [("vae", "scaling_factor", 0.1825), ("transformer", "swa_layers", [1])]
)
def test_configurations_of_unpublished_networks_are_refused_by_key(
    either: Path, component: str, key: str, value: object
) -> None:
    file = either / component / "config.json"
    content = json.loads(file.read_text()) | {key: value}
    file.unlink()
    file.write_text(json.dumps(content))

    with pytest.raises(UnsupportedModel, match=f"{component}/config.json has {key} "):
        checkpoint.inspect(str(either))
