#!/usr/bin/env bash
# On a fresh machine: sets up, lints, tests. Arguments go to pytest: scripts/test.sh tests/test_release.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
.venv/bin/ruff check .
exec .venv/bin/python -m pytest "$@"
