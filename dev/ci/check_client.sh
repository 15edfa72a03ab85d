#!/usr/bin/env bash
# The client's wheel in a clean environment: imports without torch and numpy, says what is missing, runs its CLI.
set -euo pipefail
cd "$(dirname "$0")/../.."

PYTHON=${PYTHON:-python3}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$PYTHON" -m build --quiet --wheel --outdir "$place" . 2>/dev/null || "$PYTHON" -m build --wheel --outdir "$place" .
wheel=$(ls "$place"/*.whl)
"$PYTHON" -m venv "$place/env"
install() { "$place/env/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints/constraints.txt "$1"; }

install "$wheel"
cd "$place" # away from the sources
env/bin/python - <<'EOF'
import importlib.util
import sys
from pathlib import Path

import easyanim_client
from easyanim.v1 import video_pb2

for name in ("torch", "numpy", "PIL", "pydantic"):
    assert importlib.util.find_spec(name) is None, f"{name} was installed with the client"
for folder in (Path(easyanim_client.__file__).parent, Path(video_pb2.__file__).parents[1]):
    assert (folder / "py.typed").is_file(), f"type checkers pass over {folder.name}, which has no py.typed"
print(f"client imports on Python {sys.version.split()[0]} with {len(easyanim_client.__all__)} public names")
EOF
if env/bin/easyanim-client --help 2>error; then
  echo "the CLI ran without its extra" >&2
  exit 1
fi
grep -q "easyanim\[cli\]" error || { cat error >&2; exit 1; }
cd - >/dev/null
install "$wheel[cli]"
"$place/env/bin/easyanim-client" --help >/dev/null
"$place/env/bin/easyanim-client" health --address 127.0.0.1:1 2>/dev/null || test $? = 3
echo "the client's wheel and CLI work in a clean environment"
