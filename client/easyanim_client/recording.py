"""What a video file says about its own making, and the request that makes it again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from easyanim.v1 import video_pb2 as pb
from easyanim_client.errors import InvalidRequest, Violation
from easyanim_client.forms import Picture, read_picture
from easyanim_client.messages import receipt as read_receipt
from easyanim_client.metadata import read_comment
from easyanim_client.options import OPTIONS
from easyanim_client.results import Receipt, Video
from easyanim_client.saving import Overwrite, move_into_place

FORM = 1
"""Of the metadata that this client reads."""

SAME_NETWORK = ("model_fingerprint", "attention_mode", "dtype")
"""Fields of a receipt without which the same latents cannot be expected."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A receipt as a file keeps it: the prompts may be missing, their hashes never are."""

    receipt: Receipt
    has_prompt: bool
    """Whether the prompt itself was kept, not only its hash."""
    has_negative_prompt: bool
    prompt_sha256: str
    negative_prompt_sha256: str
    file_sha256: str
    """Of the video that the receipt is of, hex."""
    embedded_prompt: bool
    """Whether the video's own metadata has the prompts, which its bytes depend on."""

    @classmethod
    def load(cls, file: Path) -> Recording:
        """Read a video, or a receipt that `save_receipt` wrote.

        Raises:
            InvalidRequest: there is no receipt in it that this client can read.
            OSError: it cannot be read.
        """
        if file.suffix.lower() == ".json":
            return cls._parse(file, file.read_text(encoding="utf-8-sig", errors="replace"), "")
        text = read_comment(file)
        if text is None:
            raise InvalidRequest(f"{file}: there is no receipt in its metadata; only videos of easyanim have one")
        return cls._parse(file, text, _file_sha256(file))

    @classmethod
    def _parse(cls, file: Path, text: str, file_sha256: str) -> Recording:
        try:
            document = json.loads(text)
            if document["easyanim"] != FORM:
                raise InvalidRequest(f"{file}: its receipt has form {document['easyanim']!r}; this client reads {FORM}")
            kept = document["receipt"]["parameters"]
            message = json_format.ParseDict(document["receipt"], pb.Receipt(), ignore_unknown_fields=True)
            return cls(
                receipt=read_receipt(message),
                has_prompt="prompt" in kept,
                has_negative_prompt="negative_prompt" in kept,
                prompt_sha256=str(document["prompt_sha256"]),
                negative_prompt_sha256=str(document["negative_prompt_sha256"]),
                file_sha256=file_sha256 or str(document["file_sha256"]),
                embedded_prompt=bool(document.get("embedded_prompt", "prompt" in kept)),
            )
        except (ValueError, TypeError, KeyError, RecursionError, json_format.ParseError) as error:
            raise InvalidRequest(f"{file}: what its metadata has is no receipt of easyanim") from error

    def arguments(
        self,
        *,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        start_image: Picture | None = None,
        end_image: Picture | None = None,
        anyway: bool = False,
    ) -> dict[str, Any]:
        """What to give to `Client.generate` so that it makes the video again.

        Args:
            prompt: The prompt, where it was not kept.
            negative_prompt: The same of the negative prompt.
            start_image: The picture that was sent, where there was one.
            end_image: The same of the last frame.
            anyway: Take what does not have the recorded hash.

        Raises:
            InvalidRequest: something is missing or is not what was recorded; names every such field.
            OSError: a picture cannot be read.
        """
        wrong: list[Violation] = []
        taken: dict[str, Any] = {}
        for field, (offered, kept, digest) in self._texts(prompt, negative_prompt).items():
            text = kept if offered is None else offered
            if text is None:
                wrong.append(Violation(field, f"is not in the file, only its SHA-256 {digest[:12]}…; give it"))
            elif not anyway and _sha256(text.encode()) != digest:
                wrong.append(Violation(field, f"is not the recorded one: its SHA-256 is not {digest[:12]}…"))
            taken[field] = text
        pictures = {
            "start_image": (start_image, self.receipt.start_image_sha256),
            "end_image": (end_image, self.receipt.end_image_sha256),
        }
        for field, (picture, digest) in pictures.items():
            data = read_picture(field, picture)
            if digest and data is None:
                wrong.append(Violation(field, f"is not in the file, only its SHA-256 {digest[:12]}…; give it"))
            elif data is not None and not anyway and _sha256(data) != digest:
                recorded = f"its SHA-256 is not {digest[:12]}…" if digest else "the video was made without one"
                wrong.append(Violation(field, f"is not the recorded one: {recorded}"))
            taken[field] = data
        if wrong:
            raise InvalidRequest.of_fields(wrong)
        return taken | {option.name: option.recorded(self) for option in OPTIONS if option.recorded is not None}

    def _texts(self, prompt: str | None, negative_prompt: str | None) -> dict[str, tuple[str | None, str | None, str]]:
        """By field: the text that is given now, the one that was kept, and the recorded hash."""
        kept = self.receipt.parameters
        return {
            "prompt": (prompt, kept.prompt if self.has_prompt else None, self.prompt_sha256),
            "negative_prompt": (
                negative_prompt,
                kept.negative_prompt if self.has_negative_prompt else None,
                self.negative_prompt_sha256,
            ),
        }

    def differences(self, other: Receipt) -> dict[str, tuple[object, object]]:
        """Fields that another receipt has otherwise, parameters and hashes aside: (recorded, other) by name."""
        skipped = {"parameters", "predictions", "latents_sha256", "start_image_sha256", "end_image_sha256"}
        names = [field.name for field in dataclasses.fields(Receipt) if field.name not in skipped]
        pairs = {name: (getattr(self.receipt, name), getattr(other, name)) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def save_receipt(video: Video, file: Path, *, overwrite: Overwrite = False) -> Path:
    """Write the receipt of a saved video, prompts included, for `Recording.load` to read; returns where it is.

    Args:
        video: Whose receipt.
        file: Where to; where it is taken and not to be replaced, the next free name is used, for the video is made.
        overwrite: Whether an older file is replaced.

    Raises:
        InvalidRequest: the video has no receipt in its metadata; the server is older.
        OSError: a file cannot be read or written.
    """
    assert video.path is not None  # the commands save what they make
    text = read_comment(video.path)
    if text is None:
        raise InvalidRequest(f"{video.path}: there is no receipt in its metadata; the server is too old")
    document = json.loads(text)
    parameters = document["receipt"]["parameters"]
    document |= {"file_sha256": video.sha256, "embedded_prompt": "prompt" in parameters}
    made = video.receipt.parameters
    parameters |= {"prompt": made.prompt, "negative_prompt": made.negative_prompt}
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        partial.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return move_into_place(partial, file, overwrite)
    finally:
        partial.unlink(missing_ok=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _file_sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(2**20):
            digest.update(part)
    return digest.hexdigest()
