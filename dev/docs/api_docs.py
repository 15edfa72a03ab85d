"""Writes docs/api.md from a descriptor set of the contract, comments included; `dev/ci/proto.sh` runs it.

usage: api_docs.py DESCRIPTOR_SET OUTPUT
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2

Path_ = tuple[int, ...]
"""Where a declaration stands in its file, as SourceCodeInfo counts."""

MESSAGE, ENUM, SERVICE = 4, 5, 6  # fields of FileDescriptorProto
FIELD, ONEOF, VALUE, METHOD = 2, 8, 2, 2  # of DescriptorProto twice, EnumDescriptorProto, ServiceDescriptorProto
SCALARS = descriptor_pb2.FieldDescriptorProto.Type


class Page:
    """The reference of one proto file."""

    def __init__(self, file: descriptor_pb2.FileDescriptorProto) -> None:
        self._file = file
        locations = file.source_code_info.location
        self._comments = {tuple(item.path): item.leading_comments for item in locations}
        self._detached = {tuple(item.path): "".join(item.leading_detached_comments) for item in locations}

    def lines(self) -> Iterator[str]:
        """The page in Markdown."""
        file = self._file
        yield "# API reference"
        yield ""
        yield f"Package `{file.package}`. `make proto` writes this page from the comments in `proto/{file.name}`."
        yield ""
        yield from self._overview()
        for index, service in enumerate(file.service):
            yield from self._service(service, (SERVICE, index))
        yield "## Messages"
        yield ""
        for index, message in enumerate(file.message_type):
            yield from self._message(message, (MESSAGE, index))
        yield "## Enums"
        yield ""
        for index, enum in enumerate(file.enum_type):
            yield from self._enum(enum, (ENUM, index))

    def _overview(self) -> Iterator[str]:
        """What the file says of itself: the comment above its syntax line."""
        text = self._comments.get((12,), "") or self._detached.get((12,), "")
        yield from _paragraphs(text)

    def _service(self, service: descriptor_pb2.ServiceDescriptorProto, path: Path_) -> Iterator[str]:
        yield f"## {service.name}"
        yield ""
        yield from _paragraphs(self._comments.get(path, ""))
        for index, method in enumerate(service.method):
            stream = "stream " if method.server_streaming else ""
            asked, answered = self._link(method.input_type), self._link(method.output_type)
            yield f"### {service.name}.{method.name}"
            yield ""
            yield f"{asked} → {stream}{answered}"
            yield ""
            yield from _paragraphs(self._comments.get((*path, METHOD, index), ""))

    def _message(self, message: descriptor_pb2.DescriptorProto, path: Path_) -> Iterator[str]:
        yield f"### {message.name}"
        yield ""
        yield from _paragraphs(self._comments.get(path, ""))
        if not message.field:
            yield "No fields."
            yield ""
            return
        yield "| field | type | number | |"
        yield "|---|---|---:|---|"
        entries = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
        for index, field in enumerate(message.field):
            said = [self._comments.get((*path, FIELD, index), "")]
            if field.HasField("oneof_index") and not field.proto3_optional:
                said.insert(0, f"One of `{message.oneof_decl[field.oneof_index].name}`.")
            yield f"| `{field.name}` | {self._type(field, entries)} | {field.number} | {_cell(' '.join(said))} |"
        yield ""
        for index, oneof in enumerate(message.oneof_decl):
            if comment := self._comments.get((*path, ONEOF, index), ""):
                yield f"`{oneof.name}`: {_cell(comment)}"
                yield ""

    def _enum(self, enum: descriptor_pb2.EnumDescriptorProto, path: Path_) -> Iterator[str]:
        yield f"### {enum.name}"
        yield ""
        yield from _paragraphs(self._comments.get(path, ""))
        yield "| value | number | |"
        yield "|---|---:|---|"
        for index, value in enumerate(enum.value):
            yield f"| `{value.name}` | {value.number} | {_cell(self._comments.get((*path, VALUE, index), ''))} |"
        yield ""

    def _type(
        self, field: descriptor_pb2.FieldDescriptorProto, entries: dict[str, descriptor_pb2.DescriptorProto]
    ) -> str:
        entry = entries.get(field.type_name.rpartition(".")[2])
        if entry is not None:
            key, value = (self._type(item, {}) for item in entry.field)
            return f"map of {key} to {value}"
        word = self._link(field.type_name) if field.type_name else SCALARS.Name(field.type)[len("TYPE_") :].lower()
        if field.label == field.LABEL_REPEATED:
            return f"repeated {word}"
        return f"optional {word}" if field.proto3_optional else word

    def _link(self, name: str) -> str:
        """A type's name; one of this file leads to its heading."""
        short = name.removeprefix(f".{self._file.package}.")
        return f"`{name.removeprefix('.')}`" if short == name else f"[{short}](#{short.lower()})"


def _paragraphs(comment: str) -> Iterator[str]:
    """A comment without the blank that follows its slashes."""
    if not comment.strip():
        return
    yield from (line.removeprefix(" ") for line in comment.rstrip("\n").split("\n"))
    yield ""


def _cell(comment: str) -> str:
    """A comment on one line, fit for a table."""
    return " ".join(comment.split()).replace("|", "\\|")


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    files = descriptor_pb2.FileDescriptorSet.FromString(source.read_bytes())
    target.write_text("\n".join(Page(files.file[0]).lines()).rstrip("\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
