"""describe: the content of a dataset, and its faults."""
import argparse
import json

from chainer_caption.cli.common import whole_numbers
from chainer_caption.data import Dataset
from chainer_caption.errors import InputError

EXAMPLES = '''\
  describe.py features/flickr8k
  describe.py features/mine --min-count 2,5
  describe.py features/mine --json        {"splits", "lengths", "vocabulary", "features", "grids", "faults"}'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('dataset', metavar='DATASET', help='folder with dataset.json and a feature file')
    add('--min-count', type=whole_numbers, metavar='N,N',
        help='vocabularies to describe: of the words that occur at least N times in training (1,2,3,5,10)')
    add('--json', action='store_true', help='print one JSON object')


def run(args: argparse.Namespace) -> int:
    for number in args.min_count or ():
        if number < 1:
            raise InputError.of('min_count', number, 'must be at least 1')
    from chainer_caption.data.describe import MIN_COUNTS, describe
    from chainer_caption.report.description import description_text
    description = describe(Dataset(args.dataset), args.min_count or MIN_COUNTS)
    print(json.dumps(description) if args.json else f'{args.dataset}\n\n{description_text(description)}',
          end='\n' if args.json else '')
    return 0
