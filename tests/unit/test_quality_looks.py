"""What looks are measured by tells a true clip from a smear, a blur, a still and confetti."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dev.quality import looks
from dev.quality.cases import Frames, to_frames
from dev.quality.settings import DEFAULT
from dev.quality.summary import Summary
from dev.quality.tables import LOOKS, demo_sentence
from dev.quality.tables import looks as table

SIDE = 64


@pytest.fixture(scope="module")
def clip() -> Frames:
    """A textured scene that pans by two pixels a frame."""
    rng = np.random.default_rng(0)
    fine = torch.from_numpy(rng.standard_normal((3, 1, SIDE, 2 * SIDE))).float()
    scene = torch.nn.functional.avg_pool2d(fine, 3, stride=1, padding=1).clamp(-1, 1)
    return to_frames(torch.cat([scene[..., 2 * t : 2 * t + SIDE] for t in range(13)], dim=1))


def test_a_clip_is_as_sharp_as_itself(clip: Frames) -> None:
    assert looks.compare(clip, clip) == looks.Looks(0.0, 1.0)


@pytest.mark.parametrize("kind", ["smear", "blur"])
def test_what_is_smeared_has_lost_detail_and_is_far_from_the_clip(clip: Frames, kind: str) -> None:
    made = looks.worsened(clip, kind)

    assert np.array_equal(made[0], clip[0])
    found = looks.compare(made, clip)
    assert found.gmsd > 0.05
    assert found.sharpness < 0.5


def test_a_still_is_as_sharp_and_far_from_the_clip(clip: Frames) -> None:
    found = looks.compare(looks.worsened(clip, "still"), clip)

    assert found.gmsd > 0.1
    assert found.sharpness == pytest.approx(1.0, rel=0.2)


def test_confetti_has_more_detail_than_the_clip(clip: Frames) -> None:
    made = clip.copy()
    made[1:, :, : SIDE // 3] = np.random.default_rng(1).integers(0, 256, made[1:, :, : SIDE // 3].shape)

    found = looks.compare(made, clip)
    assert found.gmsd > 0.05
    assert found.sharpness > 1.5


def test_readmes_sentence_has_looks_beside_agreement_where_they_were_measured(tmp_path: Path) -> None:
    extra = {f"{kind}_{name}": 0.5 for kind in looks.KINDS for name in ("gmsd", "sharpness")}
    case = {"what": "case", "index": 0, "group": "camera", "language": "en"}
    video = {"what": "video", "setting": DEFAULT.name, "index": 0, "agrees": True}
    header = {"conditions": {"model": "builtin:demo", "guidance": 6.0}}

    def said(*rows: dict[str, object]) -> str:
        file = tmp_path / "quality.json"
        file.write_text(json.dumps({"header": header, "rows": rows}))
        return demo_sentence(file)

    assert "1 videos](docs/quality.md) go where" in said(case, video)
    assert "(guidance 6, where it has 2 by default)" in said(case, video)
    assert "GMSD" not in said(case, video)
    told = said(case | extra, video | {"looks_gmsd": 0.1, "looks_sharpness": 0.9})
    assert "a GMSD of 0.100 and 90 % of its fine detail, where a smear of the clip has 0.500 and 50 %" in told


def rows(with_looks: bool) -> Summary:
    extra = {f"{kind}_{name}": 0.5 for kind in looks.KINDS for name in ("gmsd", "sharpness")} if with_looks else {}
    video = {"what": "video", "setting": DEFAULT.name, "index": 0}
    own = {"looks_gmsd": 0.1, "looks_sharpness": 0.9} if with_looks else {}
    return Summary([{"what": "case", "index": 0, "group": "camera", **extra}, {**video, **own}])


def test_tables_have_looks_where_rows_have_them() -> None:
    assert table(rows(with_looks=False)) == {}
    found = table(rows(with_looks=True))
    assert [*found] == [*LOOKS]
    assert found["looks"] == (0.1, 0.9)
