"""What the command line draws on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from easyanim_client.render import profile_line, progress
from easyanim_client.results import Accepted, Event, Parameters, Phase, Progress, PromptWarning, Queued, Restarted
from easyanim_client.served import Profile

PARAMETERS = Parameters("a [cat]", "", "384x672", 672, 384, 49, 35, 6.0, 42, 8, "mp4", "crop", "start")


def drawn(*events: Event) -> str:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    with progress(console) as show:
        for event in events:
            show(event)
    return screen.getvalue()


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (Queued(0, None), ["queued, next"]),
        (Queued(2, 75.0), ["queued, 2 ahead", "ETA 1:15"]),
        (Progress(Phase.DENOISE, 12, 35, 1.25, 15.0, 28.0), ["denoising", "step 12 of 35, 1.25 s/step, ETA 0:28"]),
        (Progress(Phase.DENOISE, 12, 35, 1.25, 15.0, 28.0, reused_steps=4), ["step 12 of 35, 4 reused, 1.25 s/step"]),
        (Progress(Phase.TEXT_ENCODE, 0, 2, None, 0.0, None), ["reading the prompt", "prompt 0 of 2"]),
        (Progress(Phase.UNKNOWN, 1, 3, None, 0.0, None), ["working", "unit 1 of 3"]),
    ],
)
def test_the_bar_tells_phase_count_rate_and_eta(event: Event, shown: list[str]) -> None:
    screen = drawn(event)

    for text in shown:
        assert text in screen


def test_a_restart_stays_on_the_screen_as_one_line() -> None:
    line = (
        "restarted, run 2: the worker process ended (killed by signal 9); the video is made anew with the same seed\n"
    )
    assert drawn(Restarted(2, "WORKER_LOST", "the worker process ended (killed by signal 9)")).count(line) == 1


def test_the_resolved_parameters_stay_on_the_screen() -> None:
    assert "job j-1: 384x672, 49 frames, 35 steps, guidance 6, seed 42\n" in drawn(
        Accepted("j-1", PARAMETERS, 31, prompt_truncated=False)
    )


def test_a_prompt_that_was_cut_is_pointed_out() -> None:
    assert "the prompt has 300 tokens, more than the model reads" in drawn(
        Accepted("j-1", PARAMETERS, 300, prompt_truncated=True)
    )


def test_what_would_be_misread_is_said_once() -> None:
    long = PromptWarning("too_long", "the prompt has 300 tokens and the model reads 256", "the [end]")
    screen = drawn(Accepted("j-1", PARAMETERS, 300, prompt_truncated=True, prompt_warnings=(long,)))

    assert "too_long: the prompt has 300 tokens and the model reads 256 ('the [end]')\n" in screen
    assert "more than the model reads" not in screen


def test_a_profile_is_told_with_all_that_it_sets() -> None:
    plain = Profile("fast", 20, "unipc", 0.0, (0.0, 1.0), is_default=True)
    accelerated = Profile("own", 12, "dpmpp_2m", 0.08, (0.1, 0.75), is_default=False)

    assert profile_line(plain) == "fast: 20 steps, unipc (default)"
    assert profile_line(accelerated) == "own: 12 steps, dpmpp_2m, cache 0.08, guidance 0.1:0.75"


def test_one_of_a_thing_is_said_in_the_singular() -> None:
    profile = Profile("p", 1, "euler", 0.0, (0.0, 1.0), is_default=False)
    assert profile_line(profile) == "p: 1 step, euler"
