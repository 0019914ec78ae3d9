#!/usr/bin/env bash
# On a fresh machine: sets up, lints, tests. Arguments go to pytest: scripts/test.sh tests/test_dataset.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
.venv/bin/ruff check .
# Two at once: most tests keep one core busy, or wait.
exec .venv/bin/python -m pytest -n 2 --dist worksteal "$@"
