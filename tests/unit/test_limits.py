"""Requests are measured before they are parsed: every field of every message, by its descriptor."""

from __future__ import annotations

import timeit
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given
from hypothesis import strategies as st

from easyanim.v1 import video_pb2 as pb
from easyanim_server.domain.errors import InvalidArgument
from easyanim_server.rpc.limits import MOST_FIELDS, NAME_BYTES, PACKED_BYTES, measured

HUGE = 30_000_000
MOST = {"prompt": 4000, "negative_prompt": 4000}


def made() -> Descriptor:
    """A message with a map and repeated fields, which a contract may have one day."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="limits_test.proto", package="limits_test", syntax="proto3")
    message = file.message_type.add(name="Made")
    entry = message.nested_type.add(name="LabelsEntry")
    entry.options.map_entry = True
    for number, name in enumerate(("key", "value"), 1):
        entry.field.add(name=name, number=number, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    repeated = {"label": field.LABEL_REPEATED}
    message.field.add(
        name="labels", number=1, type=field.TYPE_MESSAGE, type_name=".limits_test.Made.LabelsEntry", **repeated
    )
    message.field.add(name="names", number=2, type=field.TYPE_STRING, **repeated)
    message.field.add(name="counts", number=3, type=field.TYPE_INT32, **repeated)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindMessageTypeByName("limits_test.Made")


REQUEST: Any = pb.GenerateRequest.DESCRIPTOR


def requests() -> Iterator[Descriptor]:
    for file, service in ((pb, "VideoService"), (health_pb2, "Health"), (reflection_pb2, "ServerReflection")):
        yield from (method.input_type for method in file.DESCRIPTOR.services_by_name[service].methods)
    yield made()


def texts(kind: Descriptor, path: tuple[FieldDescriptor, ...] = ()) -> Iterator[tuple[FieldDescriptor, ...]]:
    """The way to every field that holds text."""
    for field in kind.fields:
        if field.type == field.TYPE_MESSAGE:
            assert field.message_type
            yield from texts(field.message_type, (*path, field))
        elif field.type == field.TYPE_STRING:
            yield (*path, field)


def varint(value: int) -> bytes:
    return bytes([*((value >> shift & 0x7F) | 0x80 for shift in range(0, 28, 7)), value >> 28])


def wire(path: tuple[FieldDescriptor, ...], value: bytes) -> bytes:
    for field in reversed(path):
        value = bytes([*varint(field.number << 3 | 2), *varint(len(value))]) + value
    return value


CASES = [(kind, path) for kind in {kind.full_name: kind for kind in requests()}.values() for path in texts(kind)]


@pytest.mark.parametrize(
    ("kind", "path"), CASES, ids=[f"{kind.name}.{'.'.join(field.name for field in path)}" for kind, path in CASES]
)
def test_text_is_measured_in_every_field_before_anything_is_made_of_it(
    kind: Descriptor, path: tuple[FieldDescriptor, ...]
) -> None:
    data = wire(path, b"\0" * HUGE)

    kept, wrong = measured(data, kind, MOST)

    (violation,) = wrong
    assert violation.field == ".".join(field.name for field in path)
    assert f"has {HUGE} bytes" in violation.description
    assert "must have at most" in violation.description
    assert len(violation.description) < 500
    assert len(kept) < 20_000
    fastest = min(timeit.repeat(lambda: measured(data, kind, MOST), number=1, repeat=3))
    assert fastest < 0.005, "as repr it takes half a second"


def test_there_is_text_to_measure_in_every_kind_of_message() -> None:
    names = {f"{kind.name}.{'.'.join(field.name for field in path)}" for kind, path in CASES}
    assert {
        "GenerateRequest.acceleration.solver",
        "LintPromptRequest.negative_prompt",
        "HealthCheckRequest.service",
        "ServerReflectionRequest.file_by_filename",
        "Made.labels.key",
    } <= names


def test_what_is_as_long_as_it_may_be_is_left_alone() -> None:
    request = pb.GenerateRequest(
        prompt="\N{CLAPPER BOARD}" * 4000,
        bucket="b" * NAME_BYTES,
        start_image=bytes(1_000_000),
        seed=2**63 - 1,
        guidance_scale=6.0,
        acceleration=pb.Acceleration(solver="s" * NAME_BYTES, guidance_end=0.5),
    )
    data = request.SerializeToString()

    kept, wrong = measured(data, REQUEST, MOST)

    assert kept is data
    assert wrong == []


def test_files_are_views_of_the_message_and_never_parsed() -> None:
    request = pb.GenerateRequest(prompt="a cat", start_image=bytes(HUGE), end_image=b"last", seed=7)
    earlier = pb.GenerateRequest(start_image=b"an earlier one", end_image=b"too")
    data = earlier.SerializeToString() + request.SerializeToString()
    files: dict[str, memoryview] = {}

    kept, wrong = measured(data, REQUEST, MOST, files)

    assert pb.GenerateRequest.FromString(kept) == pb.GenerateRequest(prompt="a cat", seed=7)
    assert wrong == []
    assert files == {"start_image": request.start_image, "end_image": b"last"}
    assert all(file.obj is data for file in files.values())
    fastest = min(timeit.repeat(lambda: measured(data, REQUEST, MOST, files), number=1, repeat=5))
    assert fastest < 0.001, "one copy of it takes several milliseconds"


@pytest.mark.parametrize("inside", [False, True], ids=["of-the-request", "of-its-acceleration"])
def test_long_fields_of_no_name_are_not_parsed(inside: bool) -> None:
    unknown = b"\xfa\x7f" + varint(HUGE) + bytes(HUGE)
    outer = (REQUEST.fields_by_name["acceleration"],)
    data = pb.GenerateRequest(prompt="a cat").SerializeToString() + (wire(outer, unknown) if inside else unknown)

    kept, wrong = measured(data, REQUEST, MOST)

    assert len(kept) < 100
    assert pb.GenerateRequest.FromString(kept).prompt == "a cat"
    assert wrong == []


def test_what_is_too_long_is_cut_and_the_rest_of_the_message_stays() -> None:
    request = pb.GenerateRequest(
        prompt="a cat", bucket="\N{CLAPPER BOARD}" * 100, seed=7, acceleration=pb.Acceleration(solver="x" * 300)
    )
    request.acceleration.guidance_end = 0.5

    kept, wrong = measured(request.SerializeToString(), REQUEST, MOST)

    assert {item.field for item in wrong} == {"bucket", "acceleration.solver"}
    request.bucket, request.acceleration.solver = "\N{CLAPPER BOARD}" * 64, "x" * NAME_BYTES
    assert pb.GenerateRequest.FromString(kept) == request


def test_fields_are_counted_also_inside_of_others_and_in_unknown_ones() -> None:
    kind = made()
    labels: Any = kind.fields_by_name["labels"]
    entry = wire((labels,), wire((labels.message_type.fields[0],), b"k"))
    for data in (b"\x12\x01a" * (MOST_FIELDS + 1), entry * (MOST_FIELDS // 2 + 1), b"\xa0\x7f\x00" * 10_000_000):
        with pytest.raises(InvalidArgument, match="more than 1000 fields"):
            measured(data, kind, {})
    packed = wire((kind.fields_by_name["counts"],), bytes(PACKED_BYTES + 1))
    assert [item.field for item in measured(packed, kind, {})[1]] == ["counts"]
    fastest = min(timeit.repeat(lambda: measured(entry * (MOST_FIELDS // 2), kind, {}), number=1, repeat=5))
    assert fastest < 0.02


@given(st.binary(max_size=60))
def test_bytes_that_are_no_message_are_refused_or_left_to_the_parser(data: bytes) -> None:
    try:
        kept, _ = measured(data, REQUEST, MOST)
    except DecodeError:
        return
    assert kept is data
