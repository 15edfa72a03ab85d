"""docs/api.md has everything that the contract has; `make lint` also holds it against the comments."""

from __future__ import annotations

import re

import pytest

from easyanim.v1 import video_pb2 as pb
from tests.e2e.processes import ROOT

PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
FILE = pb.DESCRIPTOR


def section(name: str) -> str:
    return re.split(r"^#{2,3} ", PAGE.partition(f"\n### {name}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("name", FILE.message_types_by_name)
def test_every_message_has_its_fields_numbers_and_a_sentence(name: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+? \| (\d+) \| (.+) \|$", section(name), re.MULTILINE)

    fields = FILE.message_types_by_name[name].fields
    assert [(field, int(number)) for field, number, _ in rows] == [(field.name, field.number) for field in fields]
    assert all(len(words) > 10 for *_, words in rows)


@pytest.mark.parametrize("name", FILE.enum_types_by_name)
def test_every_enum_has_its_values(name: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| .+ \|$", section(name), re.MULTILINE)

    values = FILE.enum_types_by_name[name].values
    assert [(value, int(number)) for value, number in rows] == [(value.name, value.number) for value in values]


def test_every_call_has_its_messages() -> None:
    for method in FILE.services_by_name["VideoService"].methods:
        said = section(f"VideoService.{method.name}")
        assert f"[{method.input_type.name}]" in said
        assert f"[{method.output_type.name}]" in said
