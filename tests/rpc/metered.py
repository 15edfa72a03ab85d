"""A server whose metrics are read."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Stub
from tests.servers import RunningServer


class Metered:
    """A running server with its metrics."""

    def __init__(self, server: RunningServer, stub: Stub) -> None:
        self.server = server
        self.stub = stub

    @property
    def text(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.server.app.metrics_port}/metrics") as answer:
            return str(answer.read(), "utf-8")

    def value(self, sample: str, **labels: str) -> float:
        """The sum of the samples of one name that have these labels."""
        return sum(
            item.value
            for family in text_string_to_metric_families(self.text)
            for item in family.samples
            if item.name == sample and labels.items() <= item.labels.items()
        )

    def wait_for(self, value: float, sample: str, **labels: str) -> None:
        until = time.monotonic() + 60
        while (seen := self.value(sample, **labels)) != value:
            assert time.monotonic() < until, f"{sample}{labels} is {seen}, not {value}"
            time.sleep(0.02)
