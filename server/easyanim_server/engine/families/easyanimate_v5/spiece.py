"""Reads a SentencePiece model, ``spiece.model``, into a `tokenizers.Tokenizer`, without the sentencepiece package.

The file is a protocol buffer, of which five fields matter here; see ``sentencepiece_model.proto`` of SentencePiece.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

from easyanim_server.domain.errors import UnsupportedModel

END = "</s>"

_UNIGRAM = 1
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""The wire's types."""


@dataclass
class SentencePieceModel:
    """What a file says of its vocabulary."""

    pieces: list[tuple[str, float]] = field(default_factory=list)
    """With their scores, by id."""
    special: list[str] = field(default_factory=list)
    """Pieces that text is split at before anything else."""
    unknown: int = 0
    """Id of the piece for what is in no other."""
    byte_fallback: bool = False
    """Whether what is in no piece is read byte by byte."""
    characters: bytes = b""
    """How characters are normalised, compiled."""
    is_unigram: bool = True

    @classmethod
    def read(cls, file: Path) -> SentencePieceModel:
        """Parse a file.

        Raises:
            UnsupportedModel: it is no SentencePiece model.
        """
        model = cls()
        try:
            for number, value in _fields(file.read_bytes()):
                if number == 1 and isinstance(value, bytes):
                    model._add(value)
                elif number == 2 and isinstance(value, bytes):
                    model._train(value)
                elif number == 3 and isinstance(value, bytes):
                    model.characters = next((v for n, v in _fields(value) if n == 2 and isinstance(v, bytes)), b"")
        except (ValueError, IndexError, struct.error) as error:
            raise UnsupportedModel(f"{file} is no SentencePiece model, or is damaged: {error}") from error
        if not model.pieces:
            raise UnsupportedModel(f"{file} is no SentencePiece model: it has no pieces")
        if not model.is_unigram:
            raise UnsupportedModel(f"{file} is a SentencePiece model of another kind than unigram")
        return model

    def _add(self, content: bytes) -> None:
        text, score, kind = "", 0.0, _NORMAL
        for number, value in _fields(content):
            if number == 1 and isinstance(value, bytes):
                text = value.decode()
            elif number == 2 and isinstance(value, bytes):
                (score,) = struct.unpack("<f", value)
            elif number == 3 and isinstance(value, int):
                kind = value
        if kind == _UNKNOWN:
            self.unknown = len(self.pieces)
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED):
            self.special.append(text)
        self.pieces.append((text, score))

    def _train(self, content: bytes) -> None:
        for number, value in _fields(content):
            if number == 3:
                self.is_unigram = value == _UNIGRAM
            elif number == 35:
                self.byte_fallback = bool(value)


def tokenizer(file: Path) -> Tokenizer:
    """T5's tokenizer of a SentencePiece model: words are split first, and `END` follows.

    Raises:
        UnsupportedModel: the file is none, or has no `END`.
    """
    model = SentencePieceModel.read(file)
    made = Tokenizer(Unigram(model.pieces, unk_id=model.unknown, byte_fallback=model.byte_fallback))
    if model.characters:
        made.normalizer = normalizers.Precompiled(model.characters)
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True),
        ]
    )
    made.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in model.special])
    end = made.token_to_id(END)
    if end is None:
        raise UnsupportedModel(f"{file} has no piece {END}")
    made.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, end)])
    return made


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of one message's fields."""
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(content, place)
            yield number, value
            continue
        if kind == _BYTES:
            size, place = _varint(content, place)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field of type {kind} at byte {place}")
        if place + size > len(content):
            raise ValueError(f"it ends within a field at byte {place}")
        yield number, content[place : place + size]
        place += size


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """A number of variable length, and where the next field begins."""
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
