"""`easyanim-server plan` as tests run it."""

from __future__ import annotations

from typer.testing import CliRunner

from easyanim_server.__main__ import app


def plan(*flags: str) -> str:
    ran = CliRunner().invoke(app, ["plan", *flags])
    assert ran.exception is None, ran.output
    return ran.output


def cells(output: str, bucket: str, placement: str) -> list[str]:
    (line,) = [line for line in output.splitlines() if line.split()[:2] == [bucket, placement]]
    return line.split()
