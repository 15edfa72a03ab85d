"""The call that a job came in: what logs and traces know it by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CallContext:
    """Identifiers of one call. It stands beside the job, whose video does not depend on it."""

    log_context: Mapping[str, str] = field(default_factory=dict)
    """Keys of every log line on the call's job: `request_id`, and `trace_id` where the caller traces."""
    traceparent: str = ""
    """W3C trace context of the call; the spans of its job are its children. Empty where nothing is traced."""


NO_CALL = CallContext()
"""Of a job that came in no call."""
