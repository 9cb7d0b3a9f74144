#!/bin/sh
# Fetch the public checkpoint and its WMT16 text into data_model/wmt16; --help lists the options.
# PYTHON= names another interpreter than the project's own .venv.
set -eu
cd "$(dirname "$0")"
if [ -z "${PYTHON:-}" ]; then
  PYTHON=.venv/bin/python
  [ -x "$PYTHON" ] || PYTHON=python3
fi
exec "$PYTHON" -m train_model.data.download "$@"
