#!/usr/bin/env bash
# Runs buf, which comes from npm. Where npm is missing it is skipped with a message, but never in CI.
#   buf.sh install FOLDER VERSION      buf.sh PATH_TO_BUF ARGUMENTS...
set -euo pipefail

if [ "$1" = install ]; then
  if command -v npm >/dev/null; then
    mkdir -p "$2"
    npm install --silent --no-audit --no-fund --no-package-lock --prefix "$2" "@bufbuild/buf@$3"
  elif [ -n "${CI:-}" ]; then
    echo "npm is missing; CI needs it for buf" >&2
    exit 1
  fi
  exit 0
fi

buf=$1
shift
if [ -x "$buf" ]; then
  exec "$buf" "$@"
fi
echo "skipped: buf $1 (no npm to install it with)"
