#!/usr/bin/env bash
# On a fresh machine: sets up, lints, checks types, tests. Arguments go to pytest: scripts/test.sh tests/test_dataset.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
.venv/bin/python -m ruff check .
.venv/bin/python -m mypy
# Two at once: most tests keep one core busy, or wait.
exec .venv/bin/python -m pytest -n 2 --dist worksteal "$@"
