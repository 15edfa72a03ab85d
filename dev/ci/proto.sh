#!/usr/bin/env bash
# Generates the Python stubs and docs/api.md from proto/, or checks that the committed ones are what would be generated.
# The generator is older than the runtime on purpose: its stubs load with protobuf 6 and 7.
set -euo pipefail
cd "$(dirname "$0")/../.."

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

document() { # FILE
  local descriptors
  descriptors=$(mktemp)
  "$environment/bin/python" -m grpc_tools.protoc -I proto --include_source_info --descriptor_set_out="$descriptors" \
    proto/easyanim/v1/video.proto
  "$environment/bin/python" dev/docs/api_docs.py "$descriptors" "$1"
  rm "$descriptors"
}

case "${1:-}" in
  write)
    generate proto
    document docs/api.md
    ;;
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
    document "$fresh/api.md"
    cmp -s "$fresh/api.md" docs/api.md || {
      echo "docs/api.md is stale: run 'make proto'" >&2
      exit 1
    }
    echo "stubs and docs/api.md are fresh"
    ;;
  *) echo "usage: $0 write|check" >&2; exit 2 ;;
esac
