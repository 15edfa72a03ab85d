"""Structured logs: readable lines for people, JSON for collectors. Never prompts, never pictures."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import structlog

from easyanim_server.telemetry import output


def coloured() -> bool:
    """Whether lines for people have colours: on a terminal, unless ``NO_COLOR`` is set."""
    return output.on_terminal() and not os.environ.get("NO_COLOR")


def configure_logging(log_format: str, level: str, colours: bool | None = None) -> None:
    """Send everything, other libraries' records too, to stderr in one form.

    Args:
        log_format: ``console`` or ``json``.
        level: Least severe level that is written: ``debug``, ``info``, ``warning`` or ``error``.
        colours: Whether lines for people have colours. Default: as `coloured`, which a process whose stderr another
            one passes on cannot see.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any]
    if log_format == "json":
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    else:
        # The default formatter shows local variables, and prompts are among them.
        plain = structlog.dev.plain_traceback
        shown = coloured() if colours is None else colours
        last = [structlog.dev.ConsoleRenderer(colors=shown, exception_formatter=plain)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for chatty in ("httpx", "httpcore", "filelock", "urllib3", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
