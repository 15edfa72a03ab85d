"""What a draft of a generation is: the nearest small bucket, few steps, the same seed and prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from easyanim_client.dimensions import picture_size
from easyanim_client.errors import InvalidRequest, Violation
from easyanim_client.forms import ratio, read_picture
from easyanim_client.offered import refused
from easyanim_client.served import Bucket, ServerInfo

DRAFT_STEPS = 8
"""Less than a quarter of the default, and of its time."""


def draft_arguments(
    arguments: Mapping[str, Any], served: ServerInfo, *, steps: int = DRAFT_STEPS, bucket: str | None = None
) -> dict[str, Any]:
    """What to give to `Client.generate` for a draft.

    Args:
        arguments: Those of the final video; `start_image` is bytes or a path.
        served: What the server offers.
        steps: Denoising steps of the draft.
        bucket: The draft's bucket by name. Default: of those nearest to the final's aspect, the smallest.

    Raises:
        InvalidRequest: there is no such bucket, the final's aspect cannot be told, or the server would refuse the
            draft, or the final for what the draft does not share with it: nobody shall wait for a draft to learn that.
        OSError: the picture cannot be read.
    """
    named = {item.name: item for item in served.buckets}
    wrong = refused(arguments, served)
    wrong += [Violation("draft_steps", item.description) for item in refused({"steps": steps}, served)]
    if bucket is not None and bucket not in named:
        wrong.append(Violation("draft_bucket", f"is {bucket!r}; must be one of {', '.join(named)}"))
    if wrong:
        raise InvalidRequest.of_fields(wrong)
    size = _smallest_nearest(_log_aspect(arguments, served), served) if bucket is None else named[bucket]
    chosen = {"bucket": size.name, "aspect_ratio": None, "steps": steps, "frames": None}
    if (frames := arguments.get("frames")) is not None:
        # As long as the final one, or the nearest to it that this bucket has.
        chosen["frames"] = min(size.frame_counts, key=lambda count: abs(count - frames))
    return {**arguments, **chosen}


def _log_aspect(arguments: Mapping[str, Any], served: ServerInfo) -> float:
    """Logarithm of width over height that the final video will have, as the server will choose its bucket."""
    if (name := arguments.get("bucket")) is not None:
        chosen = next(item for item in served.buckets if item.name == name)
        return math.log(chosen.width / chosen.height)
    if (aspect := arguments.get("aspect_ratio")) is not None:
        value = ratio(aspect)
        if not (math.isfinite(value) and value > 0):
            raise InvalidRequest.of_field("aspect_ratio", f"is {aspect}; must be more than 0")
        return math.log(value)
    data = read_picture("start_image", arguments.get("start_image"))
    if data is None:
        first = served.buckets[0]
        return math.log(first.width / first.height)
    size = picture_size(data)
    if size is None:
        raise InvalidRequest.of_field("start_image", "its size cannot be read; name the video's bucket or aspect")
    return math.log(size[0] / size[1])


def _smallest_nearest(log_aspect: float, served: ServerInfo) -> Bucket:
    def rank(item: Bucket) -> tuple[float, int]:
        return round(abs(math.log(item.width / item.height) - log_aspect), 9), item.width * item.height

    return min(served.buckets, key=rank)
