#!/usr/bin/env bash
# Makes .venv with pinned, tested versions and this package in it; quick when it is there already.
#
#   scripts/setup.sh                 CPU
#   scripts/setup.sh cuda13x         with CuPy for CUDA 13 (or cuda12x)
#   scripts/setup.sh mpi             with MPI, to train and caption in several processes
#   PYTHON=python3.12 scripts/setup.sh    with that interpreter (3.10 to 3.13)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "setup: $*" >&2; exit 2; }

# The extras in setup.cfg, one a line; there may be no Python yet to read it.
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
elif base=$(.venv/bin/python -c 'import sys; print(sys._base_executable)' 2>/dev/null) &&
        "$base" -c "$suits" 2>/dev/null; then
    PYTHON=$base                                        # the one that was chosen before
else
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c "$suits" 2>/dev/null; then PYTHON=$candidate; break; fi
    done
    [ -n "${PYTHON:-}" ] || fail 'needs Python 3.10 to 3.13: install it, or name one with PYTHON=/path/to/python3'
fi

# What an environment was made from is in its file `installed`, which is written last. An environment with CuPy or MPI
# keeps them when the tests or the demo set up without naming them.
extras=test
wanted=$(printf '%s\n' "$@" | sort -u | paste -sd, -)
stamp=.venv/installed
if [ -z "$wanted" ] && [ -f "$stamp" ]; then wanted=$(sed -n 's/^extras //p' "$stamp"); fi
[ -z "$wanted" ] || extras=$extras,$wanted
version=$("$PYTHON" -c 'import sys; print(*sys.version_info[:3], sys.base_prefix)')
state="extras $wanted
python $version
place $PWD
pins $(cat scripts/constraints.txt scripts/build-constraints.txt setup.cfg pyproject.toml scripts/setup.sh | cksum)"
ready() { [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ]; }
if ready; then exit 0; fi

"$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$PYTHON lacks its venv module: on Debian and Ubuntu, apt-get install python3-venv"

# One set-up at a time. A folder is the lock, because macOS has no flock; the process that made it stands in it.
lock=.venvs/lock
mkdir -p .venvs
until mkdir "$lock" 2>/dev/null; do
    [ -d "$lock" ] || fail "cannot write into $PWD/.venvs"
    holder=$(cat "$lock/pid" 2>/dev/null || true)
    if [ -n "$holder" ] && ! kill -0 "$holder" 2>/dev/null; then
        # That one was killed. It may have been noticed by several.
        if mv "$lock" ".venvs/stale-$$" 2>/dev/null; then rm -rf ".venvs/stale-$$"; fi
        continue
    fi
    [ -n "${waiting:-}" ] || echo "setup: waits for another set-up (process ${holder:-unknown}, $PWD/$lock)" >&2
    waiting=yes
    sleep 1
done
new=.venvs/$$-$(date +%s)
trap 'rm -rf "$lock"; [ -f "$new/installed" ] || rm -rf "$new"' EXIT
trap 'exit 130' INT TERM HUP
echo $$ > "$lock/pid"
if ready; then exit 0; fi

# The environment is made beside the one in use, which running programs keep for a day after it was replaced.
for old in .venvs/*-*; do [ -f "$old/installed" ] || rm -rf "$old"; done
find .venvs -mindepth 1 -maxdepth 1 -name '*-*' -mtime +1 ! -name "$(basename "$(readlink .venv || echo none)")" \
    -exec rm -rf {} +
echo "setup: installing into .venv ($("$PYTHON" --version))" >&2
"$PYTHON" -m venv "$new"
export PIP_CONSTRAINT=scripts/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
"$new/bin/python" -m pip --quiet install --upgrade pip
# setuptools warns of every editable installation.
PYTHONWARNINGS=ignore "$new/bin/python" -m pip --quiet install --build-constraint scripts/build-constraints.txt --editable ".[$extras]"
# Numba compiles once: better now than during a user's first caption.
"$new/bin/python" -c 'from chainer_caption import Captioner
for result in Captioner.load(say=lambda line: None).caption("features/demo/unseen"): pass'
printf '%s\n' "$state" > "$new/installed"
"$PYTHON" - "$new" <<'PROGRAM'
import os
import sys

if os.path.isdir('.venv') and not os.path.islink('.venv'):
    os.rename('.venv', sys.argv[1] + '-before')         # as earlier versions of this script made it
elif os.path.islink('.venv') and os.path.isdir('.venv'):
    os.utime('.venv')                                   # replaced now
link = sys.argv[1] + '-link'
os.symlink(sys.argv[1], link)                          # from where it will stand
os.replace(link, '.venv')
PROGRAM
