"""Batches as people write them: a file of JSON lines, or a folder of pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from easyanim_client import InvalidRequest
from easyanim_client.batch_jobs import MAX_PROBLEMS, BatchJob, left_out, read_jobs


def lines(folder: Path, *jobs: object) -> Path:
    file = folder / "jobs.jsonl"
    file.write_text("".join((job if isinstance(job, str) else json.dumps(job)) + "\n" for job in jobs))
    return file


def test_a_line_becomes_the_arguments_of_a_generation(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"picture")
    file = lines(
        tmp_path, {"prompt": "猫在眨眼", "start_image": "cat.jpg", "steps": 5, "id": "cat"}, "",
        {"prompt": "b", "background_color": "#ffee00"}
    )  # fmt: skip

    first, second = read_jobs(file, {"steps": 9, "bucket": "384x672", "fps": None})

    assert (first.index, first.id, first.file_name) == (1, "cat", "cat.mp4")
    assert first.arguments == {
        "prompt": "猫在眨眼",
        "start_image": tmp_path / "cat.jpg",
        "steps": 5,
        "bucket": "384x672",
        "format": "mp4",
    }
    assert (second.index, second.id, second.arguments["steps"]) == (2, "0002", 9)
    assert second.arguments["background_color"] == "#ffee00"


def test_the_own_size_of_a_job_takes_the_place_of_the_default_in_either_form(tmp_path: Path) -> None:
    (job,) = read_jobs(lines(tmp_path, {"prompt": "a", "aspect_ratio": "16:9"}), {"bucket": "384x672"})

    assert "bucket" not in job.arguments
    (job,) = read_jobs(lines(tmp_path, {"prompt": "a", "bucket": "384x672"}), {"aspect_ratio": "16:9"})
    assert (job.arguments["bucket"], "aspect_ratio" in job.arguments) == ("384x672", False)


def test_a_folder_gives_a_job_for_each_picture(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.jpg", "c.webp", "d.HEIC", "e.avif", "notes.md"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a.txt").write_text(" its own prompt \n")

    jobs = read_jobs(tmp_path, {"prompt": "the common prompt", "format": "webm"})

    assert [(job.id, job.arguments["prompt"]) for job in jobs] == [
        ("a", "its own prompt"),
        ("b", "the common prompt"),
        ("c.jpg", "the common prompt"),
        ("c.webp", "the common prompt"),
        ("d", "the common prompt"),
        ("e", "the common prompt"),
    ]
    assert jobs[0].file_name == "a.webm"


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"prompt": "a", "stps": 3}, ["unknown key 'stps'", "known are id, prompt"]),
        ({"prompt": 3}, ["prompt is 3; must be a string"]),
        ({"prompt": "a", "seed": True}, ["seed is true; must be an integer"]),
        ({"prompt": "a", "steps": 1.5}, ["steps is 1.5; must be an integer"]),
        ({"prompt": "a", "guidance": "6"}, ['guidance is "6"; must be a number']),
        ({"prompt": " "}, ["there is no prompt"]),
        ({"prompt": "a", "id": "../a"}, ["id '../a' cannot be a file's name"]),
        ({"prompt": "a", "id": ".hidden"}, ["cannot be a file's name"]),
        ({"prompt": "a", "id": "杯" * 67}, ["cannot be a file's name", "at most 200 bytes"]),
        ({"prompt": "a", "start_image": "no.jpg"}, ["no.jpg: No such file or directory (start_image)"]),
        ({"prompt": "a", "fit": "squeeze"}, ["fit_policy (fit)", "crop, pad, stretch"]),
        ({"prompt": "a", "format": "avi"}, ["'avi' is none of mp4, webm, mkv"]),
        ({"prompt": "a", "seed": 2**64}, ["seed: is 18446744073709551616; must be"]),
        (["a"], ["must be a JSON object"]),
        ("nonsense", ["is not JSON"]),
    ],
    ids=str,
)
def test_a_wrong_line_is_named_with_what_is_allowed(tmp_path: Path, job: object, words: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_jobs(lines(tmp_path, {"prompt": "fine"}, job), {})

    for word in ["line 2: ", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("job", "problems"),
    [
        (
            {"id": "a/b", "steps": "many", "fit": "squeeze", "format": "avi", "stps": 3},
            [
                'steps is "many"; must be an integer',
                "unknown key 'stps'; known are ",
                "id 'a/b' cannot be a file's name: ",
                "there is no prompt; ",
                "fit_policy (fit): 'squeeze' is none of crop, pad, stretch",
                "output_mime_type (format): 'avi' is none of mp4, webm, mkv",
            ],
        ),
        (
            {"prompt": "a", "bucket": "384x672", "aspect_ratio": "wide", "guidance_interval": "0.5"},
            [
                "aspect_ratio: cannot be given together with bucket; give one of them",
                "aspect_ratio: 'wide' must be a number or look like 16:9",
                "acceleration.guidance_start (guidance_interval): '0.5' must be two numbers or look like 0.1:0.8",
            ],
        ),
        (
            {"prompt": 3, "start_image": "a.jpg", "end_image": "b.jpg"},
            [
                "prompt is 3; must be a string",
                "/a.jpg: No such file or directory (start_image)",
                "/b.jpg: No such file or directory (end_image)",
            ],
        ),
        (
            {"prompt": "a", "steps": 2**40, "fps": 2**40},
            [
                "step_count (steps): is 1099511627776; must be an integer of at most 32 bits",
                "frame_rate_fps (fps): is 1099511627776; must be an integer of at most 32 bits",
            ],
        ),
    ],
    ids=["types and texts", "size twice", "pictures", "numbers"],
)
def test_all_that_is_wrong_with_a_line_is_said_once(tmp_path: Path, job: object, problems: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_jobs(lines(tmp_path, job), {})

    (said,) = str(caught.value).splitlines()[1:]
    for problem in problems:
        assert said.count(problem) == 1, said


def test_texts_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_bytes(b'{"prompt": "a caf\xe9"}\n')
    with pytest.raises(InvalidRequest, match="line 1: is not UTF-8: byte 0xe9 at place 18"):
        read_jobs(file, {})

    (tmp_path / "one.png").write_bytes(b"picture")
    (tmp_path / "one.txt").write_bytes(b"a caf\xe9")
    with pytest.raises(InvalidRequest, match=r"one\.png: one\.txt is not UTF-8: .* at byte 6"):
        read_jobs(tmp_path, {})


def test_everything_that_is_wrong_is_said_at_once_and_in_order(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_jobs(
            lines(tmp_path, *["nonsense", {"id": "a"}] * 20, {"prompt": "a", "id": "x"}, {"prompt": "b", "id": "x"}), {}
        )

    said = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in said[:3]] == ["line 1", "line 2", "line 3"]
    assert said[-1].strip() == "and 21 more"
    assert len(said) == MAX_PROBLEMS + 1


def test_an_id_is_given_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match='id "0002" is given more than once'):
        read_jobs(lines(tmp_path, {"prompt": "a", "id": "0002"}, {"prompt": "b"}), {})


@pytest.mark.parametrize("empty", ["file", "folder"])
def test_a_batch_without_jobs_is_refused(tmp_path: Path, empty: str) -> None:
    with pytest.raises(InvalidRequest, match="nothing to do"):
        read_jobs(lines(tmp_path) if empty == "file" else tmp_path, {})


def test_the_hash_is_of_everything_that_makes_the_video(tmp_path: Path) -> None:
    picture = tmp_path / "cat.jpg"
    picture.write_bytes(b"one")

    def only(**fields: object) -> BatchJob:
        return read_jobs(lines(tmp_path, {"prompt": "a", "start_image": "cat.jpg", **fields}), {})[0]

    job = only()
    assert only().sha256 == job.sha256 == job.with_seed(5).sha256
    assert job.with_seed(5).arguments["seed"] == 5
    assert only(seed=3).with_seed(5).arguments["seed"] == 3
    assert len({job.sha256, only(seed=3).sha256, only(steps=3).sha256, only(prompt="b").sha256}) == 4
    picture.write_bytes(b"another")
    assert only().sha256 != job.sha256


def test_hidden_files_are_passed_over_and_all_else_that_is_no_job_is_listed_with_its_reason(tmp_path: Path) -> None:
    for name in (
        "a.jpg",
        "._a.jpg",
        ".DS_Store",
        ".hidden.png",
        "b.HEIC",
        "c.heif",
        "d.avif",
        "notes.md",
        "raw",
        "e.gif",
    ):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a.txt").write_text("its own prompt")
    (tmp_path / "lone.txt").write_text("of no picture")
    (tmp_path / "more.jpg").mkdir()

    jobs = read_jobs(tmp_path, {"prompt": "the common prompt"})

    assert [job.place for job in jobs] == ["a.jpg", "b.HEIC", "c.heif", "d.avif"]
    read = ".avif, .heic, .heif, .jpeg, .jpg, .png, .webp"
    assert left_out(tmp_path) == [
        ("e.gif", f".gif is none of {read}"),
        ("lone.txt", "it is a prompt, and no picture has its name"),
        ("more.jpg", "it is a folder, and only this one is read"),
        ("notes.md", f".md is none of {read}"),
        ("raw", f"a name without a suffix is none of {read}"),
    ]


def test_a_folder_of_other_files_alone_says_why_none_is_a_job(tmp_path: Path) -> None:
    (tmp_path / "clip.gif").write_bytes(b"x")
    (tmp_path / "._cat.jpg").write_bytes(b"x")

    with pytest.raises(InvalidRequest, match=r"has no picture, so there is nothing to do\n  clip.gif: .gif is none of"):
        read_jobs(tmp_path, {"prompt": "a"})


def test_a_file_of_jobs_leaves_nothing_out(tmp_path: Path) -> None:
    assert left_out(lines(tmp_path, {"prompt": "a"})) == []
