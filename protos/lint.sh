#!/bin/sh
# Lints the wire contract, and holds it against the newest release for breaking changes.
set -eu
cd "$(dirname "$0")/.."
tools=.cache/buf
[ -x "$tools/node_modules/.bin/buf" ] || npm install --silent --no-fund --no-audit --prefix "$tools" @bufbuild/buf@1.75.0
"$tools/node_modules/.bin/buf" lint
release=$(git tag --list 'v*' --sort=-v:refname | head -n 1)
if [ -n "$release" ]; then
  "$tools/node_modules/.bin/buf" breaking --against ".git#tag=$release"
else
  echo "no release to compare the wire contract with yet"
fi
