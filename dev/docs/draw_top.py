"""Draws what `easyanim-client top` shows of a running server at this moment, as docs/top.svg.

python dev/docs/draw_top.py localhost:50051
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from easyanim_client import Client, Phase
from easyanim_client.top import Screen

FILE = Path(__file__).resolve().parents[2] / "docs" / "top.svg"
LOOKS = 40
"""Before the picture is taken, a second apart: what the curve goes back."""


def main(address: str) -> None:
    console = Console(record=True, width=96, force_terminal=True, file=open("/dev/null", "w"))  # noqa: SIM115
    screen = Screen(address)
    with Client(address) as client:
        for look in range(LOOKS * 4):
            info = client.info()
            screen.see(info)
            if (
                look >= LOOKS
                and len(info.activity) >= 3
                and info.activity[0].phase is Phase.DENOISE
                and info.activity[0].completed > 3
            ):
                break
            time.sleep(1)
    console.print(screen)
    # Without the fonts that rich would have every reader's browser fetch from elsewhere.
    form = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    FILE.write_text(console.export_svg(title="easyanim-client top", code_format=form))
    print(f"wrote {FILE.name}")


if __name__ == "__main__":
    main(sys.argv[1])
