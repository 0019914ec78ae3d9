#!/usr/bin/env bash
# Makes .venv with pinned, working versions and this package in it; quick when it is there already.
#
#   scripts/setup.sh                 CPU
#   scripts/setup.sh cuda13x         with CuPy for CUDA 13 (or cuda12x)
#   scripts/setup.sh mpi             with MPI, to train and caption in several processes
#   PYTHON=python3.12 scripts/setup.sh    with that interpreter (3.10 to 3.13)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "setup: $*" >&2; exit 2; }

# Of setup.cfg the names of its extras, one a line; there may be no Python yet to read it.
known=$(sed -n '/^\[options.extras_require\]/,/^\[/s/^\([A-Za-z0-9_-]*\) *=.*/\1/p' setup.cfg)
for extra in "$@"; do
    case "$extra" in
        -h|--help) sed -n '2,7s/^# \{0,1\}//p' "$0"; echo; echo "Extras:" $known; exit 0 ;;
    esac
    grep -qxF -- "$extra" <<< "$known" || fail "unknown extra '$extra'; there are:" $known
done

suits='import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))'
if [ -n "${PYTHON:-}" ]; then
    "$PYTHON" -c "$suits" 2>/dev/null || fail "PYTHON=$PYTHON is no Python 3.10 to 3.13"
else
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c "$suits" 2>/dev/null; then PYTHON=$candidate; break; fi
    done
    [ -n "${PYTHON:-}" ] || fail 'needs Python 3.10 to 3.13: install it, or name one with PYTHON=/path/to/python3'
fi

# What was installed is written last, so that a set-up broken off half-way is done again. An environment with CuPy
# or MPI stays one when the tests or the demo set up without naming it.
extras=photos,test
wanted=$(printf '%s\n' "$@" | sort -u | paste -sd, -)
stamp=.venv/installed
if [ -z "$wanted" ] && [ -f "$stamp" ]; then wanted=$(sed -n 's/^extras //p' "$stamp"); fi
[ -z "$wanted" ] || extras=$extras,$wanted
version=$("$PYTHON" -c 'import sys; print(*sys.version_info[:3], sys.prefix)')
state="extras $wanted
python $version
place $PWD
pins $(cat scripts/constraints.txt setup.cfg pyproject.toml scripts/setup.sh | cksum)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ]; then exit 0; fi

"$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$PYTHON lacks its venv module: on Debian and Ubuntu, apt-get install python3-venv"
echo "setup: installing into .venv ($("$PYTHON" --version))" >&2
"$PYTHON" -m venv --clear .venv
export PIP_CONSTRAINT=scripts/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
pip() { .venv/bin/python -m pip --quiet "$@"; }
# Chainer comes as source and needs setuptools below 81 to build, which an isolated build would not give it.
pip install --upgrade pip setuptools wheel
pip install --no-build-isolation chainer
pip install --no-build-isolation --editable ".[$extras]"
# Numba compiles once: better now than while somebody waits for a first caption.
.venv/bin/python -c 'from chainer_caption import Captioner
for result in Captioner.load(say=lambda line: None).caption("features/demo/unseen"): pass'
printf '%s\n' "$state" > "$stamp"
