#!/usr/bin/env bash
# On a fresh machine: sets up, trains on the embedded dataset features/demo, captions images of no split, counts how many
# of the best captions are true, and writes a gallery.
#
#   scripts/demo.sh            writes into the folder demo/
#   scripts/demo.sh -g 0       trains and captions on the first GPU
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in -h|--help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
scripts/setup.sh
python=.venv/bin/python
mkdir -p demo

echo 'Training on features/demo ...'
$python scripts/train.py features/demo -o demo/model --overwrite \
    --epochs 15 --hidden 256 --batch-size 64 --dropout 0.3 "$@"
echo
echo 'Captions of images of no split, the five best of each:'
$python scripts/generate.py -m demo/model features/demo/unseen "$@"
echo
$python scripts/generate.py -m demo/model features/demo/unseen -o demo/captions.jsonl "$@"
$python features/demo/draw.py demo/captions.jsonl
$python scripts/generate.py -m demo/model features/demo/unseen -o demo/gallery.html "$@"
echo 'Training report: demo/model/run.html'
echo 'Gallery: demo/gallery.html'
echo 'Your own images, with the pretrained model: .venv/bin/chainer-caption generate ~/Pictures -o captions.html'
