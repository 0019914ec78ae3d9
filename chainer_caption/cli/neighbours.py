"""neighbours: the nearest words in a model's embedding."""
import argparse
import dataclasses
import json

EXAMPLES = '''\
  chainer-caption neighbours model horse
  chainer-caption neighbours model horse dog beach --top 5
  chainer-caption neighbours model horse --json        {"horse": [{"word", "cosine", "count"}, ...]}'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('model', metavar='MODEL', help='model directory that train wrote')
    add('words', nargs='+', metavar='WORD', help='words of its vocabulary')
    add('--top', type=int, default=10, metavar='N', help='neighbours of a word (default: %(default)s)')
    add('--json', action='store_true', help='print one JSON object')


def run(args: argparse.Namespace) -> int:
    from chainer_caption.models.bundle import Bundle
    from chainer_caption.models.neighbours import find_neighbours, word_id
    from chainer_caption.report.tables import table
    bundle = Bundle.load(args.model)
    found = {word: find_neighbours(bundle, word, args.top) for word in args.words}
    if args.json:
        print(json.dumps({word: list(map(dataclasses.asdict, nearest)) for word, nearest in found.items()}))
        return 0
    counts = bundle.vocabulary.counts
    print('\n'.join(table([[n.word, f'{n.cosine:.3f}', f'{n.count:,}'] for n in nearest],
                          [word, 'cosine', f'seen ({counts[word_id(bundle.vocabulary, word)]:,})'])
                    for word, nearest in found.items()), end='')
    return 0
