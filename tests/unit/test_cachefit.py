"""The step cache's polynomial is fitted to what a model really does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easyanim_server.__main__ import app
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.profiles import Acceleration
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51.components import CACHE_COEFFICIENTS
from easyanim_server.engine.step_cache.fit import LEAST_POINTS, fit, observe
from tests.models import engine_of, make_job, make_modules, run


def test_points_on_a_polynomial_give_it_back() -> None:
    changes = np.linspace(0.02, 0.6, 30)
    points = [(float(x), float(np.polyval(CACHE_COEFFICIENTS[36, 18], x))) for x in changes]

    coefficients, error = fit(points)

    assert coefficients == pytest.approx(CACHE_COEFFICIENTS[36, 18], rel=1e-6)
    assert error < 1e-12


@pytest.mark.parametrize(
    ("points", "complaint"),
    [
        ([], "0 points do not determine"),
        ([(0.1 * k, 0.2) for k in range(LEAST_POINTS - 1)], "9 points do not determine .* at least 10 are needed"),
        ([(0.1, 0.2)] * 50, "too much alike"),
    ],
)
def test_points_that_determine_no_polynomial_are_refused(points: list[tuple[float, float]], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        fit(points)


def test_inner_steps_are_observed_with_the_change_that_the_cache_sees(engine: Engine) -> None:
    job = make_job(bucket="32x48x5", steps=5)
    points = observe(engine, job)

    assert len(points) == 3
    assert all(change > 0 and distance > 0 for change, distance in points)

    # With the measure itself as the estimate, a threshold just above the second step's change lets it be reused.
    for factor, reused in ((1.001, True), (0.999, False)):
        threshold = Acceleration(cache_threshold=points[0][0] * factor)
        sampling = engine.begin(replace(job, acceleration=threshold))
        for _ in range(2):
            engine.step(sampling)
        assert bool(sampling.reused) is reused


def test_observing_leaves_the_video_as_it_is(engine: Engine) -> None:
    job = make_job(bucket="32x48x5", steps=4)
    expected = run(engine_of(make_modules()), job).latents

    observe(engine, job)

    assert run(engine, job).latents.equal(expected)


def test_the_command_writes_a_file_that_an_engine_serves_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, prompts = tmp_path / "fit.json", tmp_path / "prompts.txt"
    prompts.write_text("a cat turns its head\n\na dog runs\n")
    arguments = ["fit-cache", "--model", "builtin:tiny", "--bucket", "32x48x5", "--generations", "3", "--steps", "8"]

    app([*arguments, "--out", str(file), "--prompts", str(prompts)], standalone_mode=False)

    said = capsys.readouterr()
    fitted = json.loads(file.read_text())
    assert "generation 3 of 3: 32x48x5, 8 steps, 'a cat turns its head'" in said.err
    assert "fitted to 18 steps" in said.out
    assert (fitted["points"], fitted["bucket"], fitted["steps"]) == (18, "32x48x5", 8)
    engine = engine_of(make_modules(), cache_coefficients=file)
    cached = run(engine, replace(make_job(bucket="32x48x5"), acceleration=Acceleration(cache_threshold=0.1)))
    assert cached.work.cache_coefficients == tuple(fitted["coefficients"])


def test_the_command_names_what_is_too_little_before_it_generates_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["fit-cache", "--model", "builtin:tiny", "--bucket", "32x48x5", "--steps", "4", "--generations"]
    with pytest.raises(ConfigurationError, match="2 points do not determine"):
        app([*few, "1", "--out", str(tmp_path / "fit.json")], standalone_mode=False)
    with pytest.raises(ConfigurationError, match="0 generations of 4 steps; must be 1 or more"):
        app([*few, "0"], standalone_mode=False)
    assert "generation 1" not in capsys.readouterr().err
    assert not (tmp_path / "fit.json").exists()
