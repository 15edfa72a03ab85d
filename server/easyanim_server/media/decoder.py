"""The frames of a finished video file."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import numpy.typing as npt


def read_frames(file: Path) -> npt.NDArray[np.uint8]:
    """Decode every frame of a file with one video stream.

    Args:
        file: As the encoder writes it; of Matroska files with FFV1 exactly the frames come back that went in.

    Returns:
        (n, height, width, 3) RGB.

    Raises:
        OSError: the file is absent or no video.
    """
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
