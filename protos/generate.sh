#!/bin/sh
# Generates the stubs with pinned, old tools: gencode runs on its own protobuf version and on newer ones only.
# usage: generate.sh OUTPUT_FOLDER | generate.sh --check
set -eu
cd "$(dirname "$0")/.."
tools=.cache/stub-tools
if [ ! -e "$tools/.installed" ]; then
  "${PYTHON:-python3.11}" -m venv "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check grpcio-tools==1.66.2 mypy-protobuf==3.7.0 'setuptools<81'
  touch "$tools/.installed"
fi
out=${1:-protos}
check=
if [ "$out" = --check ]; then
  check=1
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi
PATH="$PWD/$tools/bin:$PATH" "$tools/bin/python" -m grpc_tools.protoc -Iprotos --python_out="$out" --pyi_out="$out" \
  --grpc_python_out="$out" --mypy_grpc_out=quiet:"$out" protos/feast_recsys/v1/*.proto
if [ -n "$check" ]; then
  for stub in protos/feast_recsys/v1/*_pb2*; do
    diff -u "$stub" "$out/${stub#protos/}" || { echo "$stub is not what the tools generate; run 'make stubs'"; exit 1; }
  done
  echo "stubs are as generated"
fi
