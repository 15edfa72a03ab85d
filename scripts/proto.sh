#!/usr/bin/env bash
# Generates the Python stubs from proto/, or checks that the committed ones are what would be generated.
# The generator is older than the runtime on purpose: its stubs load with protobuf 6 and 7.
set -euo pipefail
cd "$(dirname "$0")/.."

GENERATOR="grpcio-tools==1.76.0"
PYTHON=${PYTHON:-python3}
environment=.cache/proto-$GENERATOR

if [ ! -e "$environment/.installed" ]; then
  "$PYTHON" -m venv "$environment"
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$GENERATOR"
  touch "$environment/.installed"
fi

generate() { # FOLDER
  "$environment/bin/python" -m grpc_tools.protoc -I proto \
    --python_out="$1" --pyi_out="$1" --grpc_python_out="$1" proto/easyanim/v1/*.proto
}

case "${1:-}" in
  write) generate proto ;;
  check)
    fresh=$(mktemp -d)
    trap 'rm -rf "$fresh"' EXIT
    generate "$fresh"
    for stub in "$fresh"/easyanim/v1/*; do
      cmp -s "$stub" "proto/easyanim/v1/$(basename "$stub")" || {
        echo "proto/easyanim/v1/$(basename "$stub") is stale: run 'make proto'" >&2
        exit 1
      }
    done
    echo "stubs are fresh"
    ;;
  *) echo "usage: $0 write|check" >&2; exit 2 ;;
esac
