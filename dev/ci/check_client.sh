#!/usr/bin/env bash
# The distributions in clean environments. The client: small, without torch, numpy and weights, from its own folder, its
# sdist and a clone; says what is missing, runs its CLI. The server: the wheel that a clone's extra builds.
set -euo pipefail
cd "$(dirname "$0")/../.."

MAX_WHEEL_BYTES=250000
PYTHON=${PYTHON:-python3}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
clone=$PWD
# By way of the sdist, which must be complete for that.
"$PYTHON" -m build --outdir "$place" client >"$place/build.log" 2>&1 || { cat "$place/build.log" >&2; exit 1; }
wheel=$(ls "$place"/*.whl)
size=$(stat --format %s "$wheel")
if [ "$size" -ge $MAX_WHEEL_BYTES ]; then
  echo "the client's wheel has $size bytes; must be less than $MAX_WHEEL_BYTES" >&2
  exit 1
fi
"$PYTHON" -m venv "$place/env"
install() { "$place/env/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints/constraints.txt "$@"; }

install "$wheel"
cd "$place" # away from the sources
env/bin/python - <<'EOP'
import importlib.util
import sys
from importlib.metadata import distribution
from pathlib import Path

import easyanim_client
from easyanim.v1 import video_pb2

for name in ("torch", "numpy", "PIL", "pydantic", "easyanim_server"):
    assert importlib.util.find_spec(name) is None, f"{name} was installed with the client"
files = distribution("easyanim-client").files or []
code = ("", ".py", ".pyi", ".pyc", ".typed", ".proto")
strange = [str(file) for file in files if file.suffix not in code and ".dist-info" not in file.parts[0]]
assert not strange, f"the client's wheel has {', '.join(strange)}"
for folder in (Path(easyanim_client.__file__).parent, Path(video_pb2.__file__).parents[1]):
    assert (folder / "py.typed").is_file(), f"type checkers pass over {folder.name}, which has no py.typed"
print(f"client imports on Python {sys.version.split()[0]} with {len(easyanim_client.__all__)} public names")
EOP
if env/bin/easyanim-client --help 2>error; then
  echo "the CLI ran without its extra" >&2
  exit 1
fi
grep -q "\[cli\]" error || { cat error >&2; exit 1; }
cd "$clone"
install "$wheel[cli]"
"$place/env/bin/easyanim-client" --help >/dev/null
"$place/env/bin/easyanim-client" health --address 127.0.0.1:1 2>/dev/null || test $? = 3
echo "the client's wheel of $size bytes and its CLI work in a clean environment"

"$PYTHON" -m venv --clear "$place/env"
install .
(cd "$place" && env/bin/python -c "import easyanim_client; from easyanim.v1 import video_pb2")
install '.[cli]'
test "$(cd "$place" && env/bin/easyanim-client --version)" = "$("$place/env/bin/python" -c 'from importlib.metadata import version; print(version("easyanim"))')"
# Its libraries are there already where this script runs: they take gigabytes.
"$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$(echo "$place"/env/lib/python*/site-packages)/libraries.pth"
install '.[server]'
said=$(cd "$place" && env/bin/easyanim-server --help)
grep -q doctor <<<"$said" || { echo "$said" >&2; exit 1; }
(cd "$place" && env/bin/python - <<'EOP'
import sys
from pathlib import Path

import easyanim_server

folder = Path(easyanim_server.__file__).parent
assert folder.is_relative_to(Path(sys.prefix).resolve()), f"the server is imported from {folder}"
assert (folder / "models/demo/transformer/diffusion_pytorch_model.safetensors").is_file(), "the demo has no weights"
EOP
)
for _ in first again; do
  install --editable '.[server]'
done
(cd "$place" && env/bin/python -c "
import sys, easyanim_client, easyanim_server
from easyanim.v1 import video_pb2
for module in (easyanim_client, easyanim_server, video_pb2):
    assert module.__file__.startswith(sys.argv[1]), f'{module.__file__} is not that of the clone'
" "$clone")
echo "a clone installs a client, its CLI and the server, and editable its own sources"
