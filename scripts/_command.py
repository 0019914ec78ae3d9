"""Runs one command of the package; the other files here name it."""
import os
import sys


def main(name):
    try:
        from chainer_caption.cli import run
    except ModuleNotFoundError as e:
        script = os.path.basename(sys.argv[0])
        print(f'{script}: this Python has no {e.name}; call scripts/setup.sh, then .venv/bin/python scripts/{script}',
              file=sys.stderr)
        raise SystemExit(2) from None
    raise SystemExit(run(name))
