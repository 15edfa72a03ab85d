"""The main job on this machine: a server on builtin:demo, one video of a photograph, and the server stopped again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PHOTOGRAPH = ROOT / "examples" / "coffee.jpg"
PROMPT = "the camera zooms in slowly on a cup of coffee"
VIDEO = ROOT / "out" / "demo.mp4"


def main() -> int:
    VIDEO.parent.mkdir(exist_ok=True)
    serve: list[str | Path] = [BIN / "easyanim-server", "serve", "--model", "builtin:demo", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().removeprefix("listening on ").strip()
            if not address:
                return server.wait()
            client = [BIN / "easyanim-client"]
            subprocess.run([*client, "health", "--address", address, "--wait", "600"], check=True)
            options: list[str | Path] = ["--image", PHOTOGRAPH, "--seed", "1", "--address", address]
            options += ["--out", VIDEO, "--force"]
            subprocess.run([*client, "generate", PROMPT, *options], check=True)
        except subprocess.CalledProcessError as failed:
            return failed.returncode
        except KeyboardInterrupt:
            return 130
        finally:
            server.terminate()
            server.wait(timeout=30)
    print(f"the video is at {VIDEO}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
