"""Judging videos: the judge of motion on clips whose motion is known, distances, cases, the front and the targets."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dev.quality import fidelity, trust
from dev.quality.agreement import judge, judge_all
from dev.quality.camera import estimate, vector
from dev.quality.cases import GROUPS, KINDS, LANGUAGES, Case, Photographs, make_case
from dev.quality.pareto import Point, choose, front
from dev.quality.results import Results
from dev.quality.settings import ARTICLE, DEFAULT, PROFILE_SETTINGS, REFERENCE, Setting, grid
from dev.quality.summary import Summary
from dev.quality.targets import judge as judge_targets
from dev.train_demo.motion import CAMERA
from dev.train_demo.pictures import draw_textures
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.job import Bucket
from easyanim_server.domain.profiles import Acceleration, Solver

SQUARE, WIDE = Bucket.parse("128x128x13"), Bucket.parse("128x224x13")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Photographs:
    """Stand-ins for photographs."""
    folder = tmp_path_factory.mktemp("pictures")
    textures = draw_textures(3, 360, torch.Generator().manual_seed(1))
    for number, texture in enumerate((textures * 255).byte().permute(0, 2, 3, 1).numpy()):
        Image.fromarray(texture).save(folder / f"{number}.png")
    return Photographs(folder)


def case_of(what: str, photographs: Photographs, bucket: Bucket = SQUARE, language: str = "en") -> Case:
    """The first case that asks for a motion, such as ``pan_left`` or ``object left``."""
    indices = range(LANGUAGES.index(language), 200, 2)
    return next(case for case in (make_case(n, (bucket,), len(photographs)) for n in indices) if case.motion == what)


def test_the_judge_finds_clips_of_every_kind_in_agreement_though_they_are_blurred_and_have_noise(
    photographs: Photographs,
) -> None:
    cases = [make_case(2 * pair + pair % 2, (SQUARE, WIDE), len(photographs)) for pair in range(len(KINDS))]
    found = trust.check(cases, photographs)

    assert {case.group for case in cases} == set(GROUPS)
    assert {case.bucket for case in cases} == {SQUARE, WIDE}
    assert [case.motion for case, motion in zip(cases, found.motions, strict=True) if not motion.agrees] == []
    assert found.agreement == 1.0


@pytest.mark.parametrize("what", CAMERA)
def test_motion_of_the_camera_is_found_to_a_tenth_of_a_pixel(photographs: Photographs, what: str) -> None:
    case = case_of(what, photographs)
    clip = trust.worsened(photographs.truth(case), seed=0)
    (found,) = estimate(torch.from_numpy(clip).permute(0, 3, 1, 2)[None] / 255)

    assert vector(found) == pytest.approx(vector(case.scene.camera), abs=0.1)


@pytest.mark.parametrize("what", ["pan_left", "tilt_down", "zoom_in", "zoom_out", "turn_clockwise"])
def test_a_video_that_goes_another_way_or_nowhere_does_not_agree(photographs: Photographs, what: str) -> None:
    case = case_of(what, photographs)
    clip = trust.worsened(photographs.truth(case), seed=0)
    wrong = [clip[::-1].copy(), np.repeat(clip[:1], len(clip), axis=0), clip.swapaxes(1, 2).copy()]
    if what.startswith(("zoom", "turn")):
        wrong[2] = photographs.truth(replace(case_of("pan_left", photographs), photograph=case.photograph))

    assert judge(case, clip).agrees
    assert not any(motion.agrees or motion.right_way for motion in judge_all([case] * 3, wrong))


@pytest.mark.parametrize("what", ["pan_right", "zoom_in", "turn_counterclockwise"])
def test_a_video_that_goes_the_right_way_at_half_or_twice_the_speed_does_not_agree(
    photographs: Photographs, what: str
) -> None:
    case = case_of(what, photographs, Bucket.parse("128x128x25"))
    clip = photographs.truth(case)
    slow, quick = np.repeat(clip, 2, axis=0)[: len(clip)], clip[::2]
    steady, slowly, quickly = judge(case, clip), judge(case, slow), judge(case, quick)

    assert slowly.right_way
    assert quickly.right_way
    assert slowly.ratio == pytest.approx(steady.ratio / 2, rel=0.1)
    assert quickly.ratio == pytest.approx(steady.ratio * 2, rel=0.1)
    assert not slowly.agrees
    assert not quickly.agrees


def test_a_video_that_moves_where_it_should_hold_still_does_not_agree(photographs: Photographs) -> None:
    case = case_of("hold", photographs)
    moving = photographs.truth(case_of("pan_left slow", photographs))

    assert judge(case, photographs.truth(case)).speed < 0.02
    assert not judge(case, moving).agrees


@pytest.mark.parametrize("what", ["object left", "object up", "object fall"])
def test_an_object_that_stays_or_that_the_whole_scene_moves_with_does_not_agree(
    photographs: Photographs, what: str
) -> None:
    case = case_of(what, photographs)
    clip = photographs.truth(case)
    away = {"object left": (0, -1), "object up": (-1, 0), "object fall": (1, 0)}[what]
    whole = np.stack([np.roll(clip[0], (2 * away[0] * t, 2 * away[1] * t), axis=(0, 1)) for t in range(len(clip))])

    assert judge(case, clip).agrees
    assert not judge(case, np.repeat(clip[:1], len(clip), axis=0)).agrees
    assert not judge(case, whole).agrees


@pytest.mark.parametrize("size", ["32x48x9", "256x448x9"])
def test_motion_is_stated_in_the_same_pixels_at_every_size(photographs: Photographs, size: str) -> None:
    case = case_of("pan_left", photographs, Bucket.parse(size))
    motion = judge(case, photographs.truth(case))

    assert motion.found[0] == pytest.approx(case.scene.camera.right, rel=0.08)
    assert motion.agrees


def test_a_case_follows_from_its_number(photographs: Photographs) -> None:
    cases = [make_case(index, (SQUARE, WIDE), len(photographs)) for index in range(2 * len(KINDS))]

    assert cases == [make_case(index, (SQUARE, WIDE), len(photographs)) for index in range(2 * len(KINDS))]
    assert [case.language for case in cases[:4]] == ["en", "zh", "en", "zh"]
    assert [case.prompt.isascii() for case in cases] == [case.language == "en" for case in cases]
    assert [case.group for case in cases[::2]] == [group for group, _ in KINDS]
    assert [case.group for case in cases[1::2]] == [group for group, _ in KINDS]
    assert sum(case.bucket == WIDE for case in cases) == len([n for n in range(len(KINDS)) if n % 4 == 3]) * 2
    assert (photographs.truth(cases[0]) == photographs.truth(cases[0])).all()


def test_pictures_without_contrast_are_not_used_for_motion(tmp_path: Path) -> None:
    plain = np.tile(np.linspace(90, 110, 300).astype(np.uint8)[:, None, None], (1, 300, 3))
    Image.fromarray(plain).save(tmp_path / "plain.png")
    with pytest.raises(ConfigurationError, match="too plain for motion to be seen"):
        Photographs(tmp_path)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "plain.png").unlink()
    with pytest.raises(ConfigurationError, match="no pictures"):
        Photographs(tmp_path)
    with pytest.raises(ConfigurationError, match="--photographs names another folder"):
        Photographs(tmp_path / "absent")


def test_psnr_is_that_of_the_error_that_was_put_in() -> None:
    frames = np.full((2, 16, 16, 3), 100, np.uint8)

    assert fidelity.psnr(frames, frames) == fidelity.MOST_DB
    assert fidelity.psnr(frames + 5, frames) == pytest.approx(20 * math.log10(255 / 5))


def test_ssim_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (1, 13, 12, 1), np.uint8).repeat(3, axis=-1) for _ in range(2))
    line = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / np.outer(line, line).sum()
    values = []
    for top in range(3):
        for left in range(2):
            x, y = (image[0, top : top + 11, left : left + 11, 0].astype(float) for image in (a, b))
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
            both = (window * (x - mx) * (y - my)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            values.append((2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))

    assert fidelity.ssim(a, b) == pytest.approx(np.mean(values), abs=1e-4)
    assert fidelity.ssim(a, a) == pytest.approx(1.0)


def test_flicker_and_jumps_make_a_video_less_smooth(photographs: Photographs) -> None:
    case = case_of("pan_left", photographs)
    clip, moves = photographs.truth(case), vector(case.scene.camera)
    flicker = clip.copy()
    flicker[::2] = (flicker[::2] * 0.9).astype(np.uint8)
    jumps = clip[[0, 2, 2, 3, 5, 5, 6, 8, 8, 9, 11, 11, 12]]
    smooth = fidelity.smoothness(clip, moves)

    assert smooth > fidelity.smoothness(flicker, moves) + 5
    assert smooth > fidelity.smoothness(jumps, moves) + 5


def test_the_grid_has_every_profile_and_each_setting_a_name_of_its_own() -> None:
    settings = {*grid(), *ARTICLE, REFERENCE}

    assert len({setting.name for setting in settings}) == len(settings)
    assert set(PROFILE_SETTINGS.values()) <= set(grid())
    assert [Setting.of(setting.row()) for setting in grid()] == grid()
    assert Setting(20, Acceleration(Solver.UNIPC, 0.08, 0.0, 0.75)).name == "unipc 20, cache 0.08, guidance to 75 %"


def point(
    setting: Setting, predictions: float, psnr: float, agrees: float = 1.0, seconds: float | None = None
) -> Point:
    """What a setting is worth beside a default of 39 dB and 90 % agreement."""
    seconds = predictions / 100 if seconds is None else seconds
    return Point(setting, predictions, seconds, psnr, agrees, lost=100 * (0.9 - agrees), behind=39.0 - psnr)


def test_the_front_has_what_nothing_is_better_than_at_no_more_cost() -> None:
    cheap, better, worse, best = (
        point(Setting(8), 16, 25.0), point(Setting(12), 24, 30.0, seconds=0.1), point(Setting(13), 26, 29.0),
        point(Setting(35), 70, 40.0),
    )  # fmt: skip

    assert front([best, worse, better, cheap]) == [cheap, better, best]
    assert front([best, worse, better, cheap], "seconds") == [better, best]


def test_profiles_are_chosen_by_the_rules() -> None:
    exact = point(DEFAULT, 70, 39.0, 0.9)
    second = {steps: Setting(steps, Acceleration(Solver.UNIPC)) for steps in (10, 16, 18, 20, 25)}
    found = [
        point(second[10], 20, 30.0, 0.9),
        point(second[16], 32, 37.9, 0.9),  # 1.1 dB behind
        point(second[18], 36, 38.2, 0.9),
        point(second[20], 40, 38.6, 0.9),
        point(second[25], 50, 39.5, 0.9),
        exact,
    ]
    chosen = {name: point.setting for name, point in choose(found, guidance=6.0).items()}
    losing = [replace(one, lost=10.0) if one.setting == second[18] else one for one in found]

    assert chosen == {"exact": DEFAULT, "balanced": second[25], "fast": second[18], "draft": second[10]}
    assert choose(losing, guidance=6.0)["fast"].setting == second[20]
    assert choose([exact, found[0]], guidance=6.0)["balanced"] == exact  # nothing cheaper is as good
    assert "fast" not in choose([exact, found[0]], guidance=6.0)
    assert choose(found[:2], guidance=6.0) == {}


def video(setting: Setting, index: int, **values: object) -> dict[str, Any]:
    row = {"predictions": 70, "seconds": 1.0, "agrees": True, "speed": 0.1, "first_psnr": 24.5, "ref_psnr": 40.0}
    return {"what": "video", "setting": setting.name, "index": index, **row, **values}


def test_targets_are_met_missed_or_not_measured() -> None:
    cases = [
        {"what": "case", "index": n, "language": LANGUAGES[n % 2], "group": "hold" if n < 4 else "camera"}
        for n in range(20)
    ]
    fast = [video(PROFILE_SETTINGS["fast"], n, predictions=40, agrees=n > 0, ref_psnr=39.5) for n in range(20)]
    default = [video(DEFAULT, n, agrees=n not in (1, 3), speed=0.31 if n == 2 else 0.1) for n in range(20)]
    vae = {"what": "vae", "stills": 22, "stills_psnr": 24.9}
    found = {t.sentence: t for t in judge_targets(Summary([*cases, *default, *fast, vae]), guidance=6.0)}
    verdicts = {sentence: target.met for sentence, target in found.items()}

    def of(part: str) -> bool | None:
        return next(met for sentence, met in verdicts.items() if part in sentence)

    assert of("English") is True
    assert of("Chinese") is False  # 80 %
    assert of("hold still") is False
    assert of("first frame") is True
    assert of("VAE alone") is False
    assert of("`fast`: how many times fewer") is True  # 100 / 40
    assert of("`fast`: points") is True  # better than the default
    assert of("`fast`: dB") is True
    assert of("`draft`: how many") is None
    assert of("the judge of motion") is None
    assert {target.verdict for target in found.values()} == {"met", "**missed**", "not measured"}


def test_rows_of_an_accelerator_that_was_another_are_made_again(tmp_path: Path) -> None:
    euler, unipc = Setting(20), Setting(20, Acceleration(Solver.UNIPC))
    assert (euler.code, len(unipc.code)) == ("", 12)
    assert Setting(20, Acceleration(cache_threshold=0.1)).code != unipc.code

    results = Results(tmp_path / "quality.json", {"cases": 1})
    for setting in (euler, unipc):
        results.add(setting.row())
        results.add({"what": "video", "setting": setting.name, "index": 0, "agrees": True})
    results.write("make quality")
    assert len(Results(tmp_path / "quality.json", {"cases": 1})) == 4

    document = json.loads((tmp_path / "quality.json").read_text())
    for row in document["rows"]:
        if row.get("code"):
            row["code"] = "of another"
    (tmp_path / "quality.json").write_text(json.dumps(document))

    kept = Results(tmp_path / "quality.json", {"cases": 1})
    assert {row["setting"] for row in kept} == {"euler 20"}
