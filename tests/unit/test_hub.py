"""Hugging Face ids, against a small hub of our own on this machine."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from easyanim_server.catalog import DEFAULT_MODEL
from easyanim_server.cli import doctor
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError, UnsupportedModel
from easyanim_server.engine.families.easyanimate_v51 import builtin
from easyanim_server.engine.families.easyanimate_v51.components import Components
from easyanim_server.engine.weights import checkpoint

CPU = torch.device("cpu")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Serves one repository, someone/model, at one commit; `folder` and `fetched` are set by the fixture."""

    protocol_version = "HTTP/1.1"
    folder: Path
    fetched: list[str]
    portal = False
    """Whether a login page answers in the hub's place."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if self.portal:
            self.answer(200, b"<!DOCTYPE html><html><title>Sign in</title></html>", **{"Content-Type": "text/html"})
        elif "/someone/gated" in path:
            self.answer(403, b"", **{"X-Error-Code": "GatedRepo"})
        elif "/someone/model" not in path:
            self.answer(401, b"", **{"X-Error-Code": "RepoNotFound"})
        elif path == "/api/models/someone/model/revision/main":
            self.answer(200, json.dumps({"id": "someone/model", "sha": COMMIT, "siblings": []}).encode())
        elif path == f"/api/models/someone/model/tree/{COMMIT}":
            self.answer(200, json.dumps([self.entry(file) for file in self.folder.rglob("*.*")]).encode())
        elif path.startswith(f"/someone/model/resolve/{COMMIT}/"):
            name = path.split(f"{COMMIT}/")[1]
            if self.command == "GET":
                self.fetched.append(name)
            self.answer(200, (self.folder / name).read_bytes(), ETag=f'"{name}"', **{"X-Repo-Commit": COMMIT})
        else:
            self.answer(404, b"", **{"X-Error-Code": "RevisionNotFound"})

    def entry(self, file: Path) -> dict[str, object]:
        name = file.relative_to(self.folder).as_posix()
        return {"type": "file", "path": name, "size": file.stat().st_size, "oid": name.replace("/", "-")}

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """The hub, serving the sharded tiny model, and an empty cache."""
    folder = tmp_path / "served"
    builtin.tiny(device=CPU, dtype=torch.float32).save_pretrained(folder, max_shard_size="300KB")
    (folder / "README.md").write_text("not needed")
    handler = type("ThisHub", (Hub,), {"folder": folder, "fetched": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    url = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def cached(model: str) -> Path:
    folder = checkpoint.cached_folder(model)
    assert folder
    return folder


def load(model: str, revision: str | None = None) -> Components:
    loaded: Components = checkpoint.load(model, device=CPU, dtype=torch.float32, revision=revision)
    return loaded


def test_a_model_is_downloaded_without_what_is_not_needed(hub: type[Hub]) -> None:
    modules = load("someone/model")

    everything = {file.relative_to(hub.folder).as_posix() for file in hub.folder.rglob("*.*")}
    left = everything - set(hub.fetched)
    assert {"README.md", "text_encoder/generation_config.json"} < left
    assert any(name.endswith(".safetensors") for name in left)
    assert modules.name == "someone/model"
    made = load("builtin:tiny").text_encoder.state_dict()
    for name, tensor in modules.text_encoder.state_dict().items():
        assert torch.equal(tensor, made[name])


def test_a_downloaded_model_loads_offline_from_the_cache(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    load("someone/model")
    hub.fetched.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert load("someone/model").name == "someone/model"
    assert hub.fetched == []


def test_a_model_that_cannot_run_is_refused_before_its_weights_are_downloaded(hub: type[Hub]) -> None:
    config = hub.folder / "transformer/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 48}))

    with pytest.raises(UnsupportedModel, match="someone/model is a Control model"):
        load("someone/model")

    assert hub.fetched
    assert not [name for name in hub.fetched if name.endswith(".safetensors")]


def test_an_unknown_repository_and_an_unknown_revision_are_named(hub: type[Hub]) -> None:
    with pytest.raises(UnsupportedModel, match="Hugging Face has no model nobody/nothing"):
        load("nobody/nothing")
    with pytest.raises(UnsupportedModel, match="someone/model has no revision 'v9'"):
        load("someone/model", revision="v9")


def test_a_gated_model_says_what_to_do(hub: type[Hub]) -> None:
    with pytest.raises(ConfigurationError, match=r"someone/gated asks for consent: .* set HF_TOKEN"):
        load("someone/gated")


def test_without_a_network_a_model_that_is_not_cached_is_named(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(ConfigurationError, match="HF_HUB_OFFLINE is set, and someone/model is not complete"):
        load("someone/model")


def test_a_login_page_does_not_hide_a_complete_cache(hub: type[Hub], caplog: pytest.LogCaptureFixture) -> None:
    load("someone/model")
    hub.portal = True

    assert load("someone/model").name == "someone/model"
    assert "someone/model is taken from the cache, since the Hub cannot be asked" in caplog.text


def test_a_login_page_is_told_from_the_hub_and_its_address_is_named(hub: type[Hub]) -> None:
    hub.portal = True

    with pytest.raises(ConfigurationError) as caught:
        load("someone/model")

    assert f"{constants.ENDPOINT} does not answer as Hugging Face does; is it the login page" in str(caught.value)
    assert "someone/model is not complete in the cache" in str(caught.value)


@pytest.mark.parametrize("offline", [True, False])
def test_what_the_cache_lacks_is_named_and_doctor_says_so_too(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], offline: bool
) -> None:
    load("someone/model")
    (absent, *_) = cached("someone/model").glob("transformer/*-00002-of-*.safetensors")
    absent.unlink()
    hub.portal = True
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)

    with pytest.raises(ConfigurationError) as caught:
        load("someone/model")
    code = doctor.report(Settings.load({"model": "someone/model", "listen": "127.0.0.1:0"}), as_json=True)

    findings = {row["subject"]: row for row in json.loads(capsys.readouterr().out)["findings"]}
    assert f"is not complete in the cache {constants.HF_HUB_CACHE}, which lacks transformer/{absent.name}" in str(
        caught.value
    )
    assert ("HF_HUB_OFFLINE is set, and" in str(caught.value)) is offline
    assert f"lacks transformer/{absent.name}" in findings["model"]["detail"]
    assert (code, findings["model"]["status"]) == ((1, "missing") if offline else (0, "ok"))


def test_doctor_reads_the_headers_of_a_model_in_the_cache(hub: type[Hub], capsys: pytest.CaptureFixture[str]) -> None:
    load("someone/model")
    (file, *_) = cached("someone/model").glob("vae/*.safetensors")
    file.resolve().write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 7\n")

    assert doctor.report(Settings.load({"model": "someone/model", "listen": "127.0.0.1:0"}), as_json=True) == 1

    findings = {row["subject"]: row for row in json.loads(capsys.readouterr().out)["findings"]}
    assert f"{file} is a git-lfs pointer to a file of 7 bytes" in findings["model"]["detail"]
    with pytest.raises(UnsupportedModel, match="is a git-lfs pointer to a file of 7 bytes"):
        load("someone/model")


def test_a_hub_that_cannot_be_reached_is_named(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(ConfigurationError) as caught:
        load("someone/model")

    said = r"Hugging Face cannot be reached at http://127.0.0.1:9 \(HF_ENDPOINT\) \(ConnectError: .*refused\), and "
    assert re.match(said, str(caught.value))


REFUSED_NAMES = {
    "alibaba-pai/EasyAnimateV5-7b-zh-InP-diffusers": (
        "does not exist: EasyAnimate V5 was published in its authors' layout alone; "
        "use alibaba-pai/EasyAnimateV5-7b-zh-InP, which this server reads as it is"
    ),
    "alibaba-pai/EasyAnimateV5-12b-zh-Control": (
        "is a Control model, which follows a control video, which this server does not serve yet; "
        "use alibaba-pai/EasyAnimateV5-12b-zh-InP instead"
    ),
    "alibaba-pai/EasyAnimateV4-XL-2-InP": f"is EasyAnimate V4, and this server runs V5 and V5.1; use {DEFAULT_MODEL}",
    "alibaba-pai/EasyAnimateV5.1-7b-zh-Control-diffusers": "is a Control model",
    "alibaba-pai/EasyAnimateV5.1-12b-zh-Control-Camera-diffusers": "is a Control-Camera model",
    "modelscope:PAI/EasyAnimateV5.1-12b-zh-Control": "use modelscope:PAI/EasyAnimateV5.1-12b-zh-InP instead",
    "modelscope:just-a-name": "model 'modelscope:just-a-name' is no id of ModelScope",
    "builtin:huge": "there is no model builtin:huge; known are builtin:demo, builtin:tiny, synthetic:7b, synthetic:12b",
    "synthetic:1b": "there is no model synthetic:1b; known are",
    "/nowhere/model": "/nowhere/model is no folder; give a model's folder, or a Hugging Face id",
    "./nowhere": "./nowhere is no folder",
    __file__: "is no folder",
    "just-a-name": f"'just-a-name' is neither a folder nor a Hugging Face id; use an id such as {DEFAULT_MODEL}",
    "": "'' is neither a folder nor a Hugging Face id",
}


@pytest.mark.parametrize(("model", "message"), REFUSED_NAMES.items())
def test_names_that_cannot_run_are_refused_without_a_request(
    monkeypatch: pytest.MonkeyPatch, model: str, message: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(UnsupportedModel) as caught:
        load(model)

    assert message in str(caught.value)


def test_a_revision_applies_to_hugging_face_ids_alone(tmp_path: Path) -> None:
    for model in ("builtin:tiny", str(tmp_path)):
        with pytest.raises(ConfigurationError, match="revision 'v1' applies to ids of Hugging Face"):
            load(model, revision="v1")
