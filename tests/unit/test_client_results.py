"""Events as callers print and compare them, and messages of a newer contract."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import easyanim_client as ea
from easyanim.v1 import video_pb2 as pb
from easyanim_client.assembly import Assembly
from easyanim_client.messages import server_info


def test_a_printed_chunk_does_not_show_its_bytes() -> None:
    assert repr(ea.Chunk(1000, bytes(500))) == "Chunk(offset=1000, data=<500 bytes>)"


UNKNOWN: Any = 99
"""A number of an enum that a newer server may send."""


def test_results_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(ea.Queued(1, None), "jobs_ahead", 2)  # noqa: B010 - what a type checker would refuse


def test_a_phase_and_a_state_of_a_newer_server_are_unknown() -> None:
    progress = pb.GenerateResponse(progress=pb.Progress(phase=UNKNOWN, completed_count=1, total_count=2))

    with Assembly(None) as assembly:
        event = assembly.fold(progress)

    assert isinstance(event, ea.Progress)
    assert (event.phase, event.completed, event.total) == (ea.Phase.UNKNOWN, 1, 2)
    assert server_info(pb.GetServerInfoResponse(state=UNKNOWN)).state is ea.State.UNKNOWN


def test_a_media_type_that_this_client_does_not_know_is_passed_on() -> None:
    accepted = pb.GenerateResponse(accepted=pb.Accepted(parameters=pb.Parameters(output_mime_type="video/ogg")))

    with Assembly(None) as assembly:
        event = assembly.fold(accepted)

    assert isinstance(event, ea.Accepted)
    assert event.parameters.format == "video/ogg"


@pytest.mark.parametrize("phase", [name for name in pb.Phase.keys() if name != "PHASE_UNSPECIFIED"])  # noqa: SIM118
def test_every_phase_of_the_contract_is_known(phase: str) -> None:
    assert ea.Phase(phase.removeprefix("PHASE_").lower()) is not ea.Phase.UNKNOWN


@pytest.mark.parametrize("state", [name for name in pb.State.keys() if name != "STATE_UNSPECIFIED"])  # noqa: SIM118
def test_every_state_of_the_contract_is_known(state: str) -> None:
    assert ea.State(state.removeprefix("STATE_").lower()) is not ea.State.UNKNOWN
