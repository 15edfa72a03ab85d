"""Dashboard, alert rules and documentation against the metrics that a server really has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from easyanim_server.catalog import EASYANIMATE_V51
from easyanim_server.domain.errors import QueueFull, WorkerLost
from easyanim_server.domain.events import Completed, Phase, Progress
from easyanim_server.domain.job import Bucket, Job
from easyanim_server.domain.model import BucketStatus, ModelInfo, PromptTokenizer, WorkerInfo
from easyanim_server.telemetry.devices import DeviceStatus
from easyanim_server.telemetry.metrics import STATES, Load, Metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/easyanim.json").read_text())
ALERTS = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
SCRAPED = {"instance", "job"}
"""Labels that Prometheus adds."""


@pytest.fixture(scope="module")
def registry() -> CollectorRegistry:
    """All metrics after one moment of each kind."""
    load = Load("SERVING", waiting=0, running=1, limit=8, seconds=1.0)
    card = DeviceStatus(0, "a card", 1, 2, 0.5, 40.0, 100.0)
    metrics = Metrics(lambda: load, lambda: [card])
    bucket = Bucket.parse("384x672x49")
    job = Job("1", "a cat", "", bucket, steps=1, guidance=1.0, seed=1)
    model = ModelInfo("builtin:tiny", "0", 0, "original", "float32", "a card")
    plan = BucketStatus(bucket, "eager", "float32", "torch")
    metrics.worker_ready(WorkerInfo(model, PromptTokenizer("", "", "", 256), (plan,), capabilities=EASYANIMATE_V51))
    metrics.worker_lost(stuck=False)
    metrics.restarted(job, WorkerLost("gone"))
    metrics.refused(QueueFull(8, 1.0))
    metrics.started(job, 1.0)
    for step in (0, 1):
        metrics.said(job, Progress(Phase.DENOISE, step, 1, None, float(step), None))
    metrics.said(job, Completed(1, b"", {Phase.DENOISE: 1.0}, 1.0, 1, model, plan))
    metrics.cancelling(job)
    metrics.sent(1)
    metrics.ended(job, None)
    metrics.answered("Generate", "OK", 1.0)
    return metrics.registry


@pytest.fixture(scope="module")
def samples(registry: CollectorRegistry) -> dict[str, set[str]]:
    """Labels by the name of every sample."""
    found: dict[str, set[str]] = {}
    for family in registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def dashboard_queries() -> dict[str, str]:
    queries = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
    }
    return {**queries, **{f"annotation {item['name']}": item["expr"] for item in DASHBOARD["annotations"]["list"]}}


def alert_queries() -> dict[str, str]:
    return {rule["alert"]: rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]}


def used(query: str) -> list[tuple[str, set[str]]]:
    """Names of metrics with the labels that are asked of each."""
    query = query.replace("[$__rate_interval]", "")
    found = re.findall(r"\b((?:easyanim|process)_\w+)(?:\{([^}]*)\})?", query)
    return [(name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels))) for name, labels in found]


@pytest.mark.parametrize(("title", "query"), {**dashboard_queries(), **alert_queries()}.items())
def test_every_query_asks_for_metrics_and_labels_that_exist(
    samples: dict[str, set[str]], title: str, query: str
) -> None:
    metrics = used(query)
    assert metrics or query.startswith("up{"), f"{title} asks for nothing of ours"
    labels: set[str] = set(SCRAPED)
    for name, asked in metrics:
        assert name in samples, f"{title} asks for {name}, which is no metric"
        assert asked <= samples[name] | SCRAPED, f"{title} asks {name} for labels that it has not"
        labels |= samples[name]
    for grouped in re.findall(r"\b(?:by|on|without)\s*\(([^)]*)\)", query):
        for label in filter(None, (part.strip() for part in grouped.split(","))):
            assert label in labels, f"{title} groups by {label}, which no metric in it has"


@pytest.mark.parametrize(
    "panel", [p for p in DASHBOARD["panels"] if p.get("targets")], ids=lambda panel: panel["title"]
)
def test_every_panel_has_a_description_a_unit_and_legends_of_existing_labels(
    samples: dict[str, set[str]], panel: dict[str, Any]
) -> None:
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        known = SCRAPED.union(*(samples[name] for name, _ in used(target["expr"])))
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= known
        assert '$instance"' in target["expr"], "the choice of servers has no effect"


def test_every_metric_is_on_the_dashboard_or_in_an_alert(registry: CollectorRegistry) -> None:
    queries = " ".join([*dashboard_queries().values(), *alert_queries().values()])
    names = {family.name for family in registry.collect() if family.name.startswith("easyanim_")}
    assert {name for name in names if name not in queries} == set()


def test_panels_do_not_overlap_and_fill_the_grid() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        for x in range(grid["x"], grid["x"] + grid["w"]):
            for y in range(grid["y"], grid["y"] + grid["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    height = max(y for _, y in taken) + 1
    assert len(taken) == 24 * height


def test_every_alert_has_a_severity_and_words_for_people() -> None:
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"].keys() == {"summary", "description"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Prometheus")
def test_promtool_finds_the_rules_right_and_their_tests_pass() -> None:
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        ran = subprocess.run(["promtool", *command], cwd=DEPLOY / "prometheus", capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_documentation_lists_every_metric_with_type_labels_and_meaning(registry: CollectorRegistry) -> None:
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for family in sorted(registry.collect(), key=lambda family: family.name):
        if family.name.startswith("easyanim_"):
            labels = sorted(set().union(*(sample.labels for sample in family.samples)) - {"le"})
            name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
            kind = "gauge" if family.type == "info" else family.type
            lines.append(f"| `{name}` | {kind} | {', '.join(labels)} | {family.documentation} |")
    table = "\n".join(lines)
    assert table in (ROOT / "docs" / "operations.md").read_text(), f"the table in docs/operations.md must be\n{table}"


def test_states_are_those_of_the_scheduler() -> None:
    from easyanim_server.domain.state import ServerState

    assert set(STATES) == {state.value for state in ServerState}


class Loader(yaml.SafeLoader):  # type: ignore[misc]  # untyped
    """Reads compose files, whose `!reset` takes something away again."""


Loader.add_constructor("!reset", lambda loader, node: None)


def test_the_compose_file_mounts_what_is_there_and_scrapes_what_is_served() -> None:
    compose = yaml.load((DEPLOY / "compose.yaml").read_text(), Loader)
    services = compose["services"]
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"]
    scrapes = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    (target,) = scrapes[0]["static_configs"][0]["targets"]
    host, _, port = target.partition(":")
    assert host in services
    assert scrapes[0]["job_name"] == "easyanim"
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"EASYANIM_METRICS_LISTEN=0.0.0.0:{port}" in dockerfile
    for service in ("warm", "easyanim"):
        assert f" AS {services[service]['build']['target']}\n" in dockerfile
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/easyanim.yaml").read_text())
    folder = provider["providers"][0]["options"]["path"]
    assert any(volume.split(":")[1] == folder for volume in services["grafana"]["volumes"])


def test_what_the_cpu_variant_changes_is_there_to_be_changed() -> None:
    base = yaml.load((DEPLOY / "compose.yaml").read_text(), Loader)["services"]
    over = yaml.load((DEPLOY / "compose.cpu.yaml").read_text(), Loader)["services"]
    for name, service in over.items():
        assert service.keys() <= base[name].keys()
        assert service["environment"].keys() <= base[name]["environment"].keys()


def test_the_cpu_variant_builds_all_its_images_without_cuda() -> None:
    over = yaml.load((DEPLOY / "compose.cpu.yaml").read_text(), Loader)["services"]
    dockerfile = (ROOT / "Dockerfile").read_text()

    assert {name for name, service in over.items() if "build" in service} == {"warm", "easyanim"}
    for service in over.values():
        assert service["build"]["args"] == {"BASE": "ubuntu:24.04"}
        assert ":cpu" in service["image"], "the name of the other image would be taken for one that is there"
    bases = set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE))
    assert bases == {"${BASE}", "python"}, "a stage that keeps another base"


def test_settings_in_the_image_are_settings() -> None:
    from easyanim_server.config.settings import Settings
    from easyanim_server.config.sources import unknown_environment

    names = re.findall(r"\b(EASYANIM_\w+)=", (ROOT / "Dockerfile").read_text())
    assert names
    assert unknown_environment(dict.fromkeys(names, ""), Settings.model_fields) == []
