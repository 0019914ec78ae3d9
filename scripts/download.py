#!/usr/bin/env python3
from chainer_caption.cli import run

raise SystemExit(run('download'))
