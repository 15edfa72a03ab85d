#!/usr/bin/env bash
# Installs Go programs into a folder: gotools.sh FOLDER PACKAGE@VERSION...
set -euo pipefail

folder=$1
shift
if ! command -v go >/dev/null; then
  echo "Go is missing, which builds ${*%@*}; install 1.26 or newer from https://go.dev/dl and run this again" >&2
  exit 1
fi
mkdir -p "$folder"
for package in "$@"; do
  echo "building ${package##*/} into $folder"
  GOBIN=$(cd "$folder" && pwd) go install "$package"
done
