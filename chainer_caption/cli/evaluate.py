"""evaluate: scores a model, or captions made by any system, on a split of a dataset."""
from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from chainer_caption.cli import common
from chainer_caption.cli.progress import track
from chainer_caption.data import SPLITS, Dataset, combine
from chainer_caption.errors import InputError
from chainer_caption.storage.files import atomic_write, unwritable

if TYPE_CHECKING:
    from chainer_caption.captioning.captioner import Captioner
    from chainer_caption.evaluation.evaluator import Evaluation, Evaluator
    _Load = Callable[[], tuple[Captioner, list[Any]]]       # the model and the searches to evaluate

DESCRIPTION = "Score a model, or captions made by any system, against a dataset's own."
EXAMPLES = '''\
  evaluate.py features/flickr8k -m model                          BLEU, ROUGE-L, CIDEr, perplexity on test
  evaluate.py features/flickr8k -m model --beam-widths 1,3,5,20 --length-normalization 0 1
  evaluate.py features/coco --captions ours.jsonl theirs.json --json
  evaluate.py features/flickr8k -m model --sample --top-p 0.9 --top 5      and how much five captions differ
  evaluate.py features/flickr8k -m model -m model2                an ensemble of two models
  evaluate.py features/coco -m model --coco-results results.json --html report.html
  evaluate.py features/mine -m model --split val --calibrate      fit the confidence that the model directory has

captions files, one row an image, of which the first caption counts; text is split on white space:
  what generate.py writes (JSON lines, CSV, text, metadata.jsonl), the COCO results format [{"image_id" (the cocoid, or
  the imgid if the dataset has no cocoids), "caption"}, ...], and every format that extract_features.py --captions reads

--json prints {"BLEU-1", ..., "BLEU-4", "ROUGE-L", "CIDEr", "METEOR" (with WordNet's data), "perplexity" (of a model;
null if it is infinite), "distinct", "vocabulary", "mean_length", "novel", "unfinished" (if it is known),
"ECE" (of a model with confidence: its expected calibration error), "name", "images", "split"}, a model's also with
"beam_width", "length_normalization" and whatever else the search was made of, and with --top above 1 with "distinct-1",
"distinct-2", "best-CIDEr"; for several files, widths or normalizations {"results": [such an object for each]}, as for
several datasets, whose objects have "dataset"'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('dataset', nargs='+', metavar='DATASET',
                        help='folder with dataset.json and vgg_feats.mat; several are evaluated one after another')
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('-m', '--model', action='append', metavar='MODEL',
                      help='model directory that train.py wrote; several, each with -m, are an ensemble')
    what.add_argument('--captions', nargs='+', metavar='FILE', help='captions made by any system, see below')
    parser.add_argument('--split', default='test', choices=SPLITS, metavar='SPLIT',
                        help='split to evaluate: train, restval, val or test (default: %(default)s)')
    parser.add_argument('--limit', type=int, metavar='N', help='evaluate the first N images of the split only')
    common.add_device(parser)
    common.add_precision(parser)
    parser.add_argument('--beam-widths', type=common.whole_numbers, metavar='N,N',
                        help='a search for each, 1 is greedy (default: what the model directory says, else 20)')
    parser.add_argument('--length-normalization', type=float, nargs='+', metavar='A',
                        help='compare captions by log-probability / tokens ** A; with each beam width (default: what '
                             'the model directory says, else 0)')
    parser.add_argument('--top', type=int, metavar='N',
                        help='captions an image (1); the likeliest is scored, and for more also distinct 1- and '
                             '2-grams of all and the CIDEr of the best')
    common.add_limits(parser)
    common.add_ways(parser)
    parser.add_argument('--calibrate', action='store_true',
                        help='first fit the confidence of the model to its captions of the split (val, not test), and '
                             'write it into the model directory')
    parser.add_argument('--json', action='store_true', help='print one JSON object')
    parser.add_argument('--per-image', metavar='OUT.jsonl', help='write the scores of each image as JSON lines')
    parser.add_argument('--coco-results', metavar='OUT.json', help='write the captions in the COCO results format')
    parser.add_argument('--html', metavar='REPORT', help='write a page with the best and worst captions')
    parser.add_argument('--images', metavar='FOLDER', help='folder with the images, to show them on that page')


def run(args: argparse.Namespace) -> int:
    _check(args)
    datasets = [Dataset(folder) for folder in args.dataset]
    load = functools.cache(functools.partial(_load_model, args, datasets))      # once for all datasets
    results = [result for folder, dataset in zip(args.dataset, datasets, strict=True)
               for result in _evaluate(args, folder, dataset, load)]
    if args.json:
        print(json.dumps(results[0] if len(results) == 1 else {'results': results}))
    return 0


def _evaluate(args: argparse.Namespace, folder: str, dataset: Dataset, load: _Load) -> list[dict[str, object]]:
    """Evaluates on one dataset; returns the results, of which it prints a table unless they are wanted as JSON."""
    from chainer_caption.evaluation.evaluator import Evaluator
    from chainer_caption.evaluation.metrics import meteor_missing
    from chainer_caption.evaluation.predictions import write_coco_results
    from chainer_caption.report.evaluation_page import score_tables, write_evaluation_page, write_image_scores
    with contextlib.ExitStack() as stack:
        # An output that cannot be written is found out before the first image is captioned.
        out = {name: _open(stack, path) for name, path in common.options(
            args, 'per_image', 'coco_results', 'html').items()}
        if missing := meteor_missing():
            common.say(missing)
        evaluator = Evaluator(dataset, args.split, meteor=not missing, say=common.say, limit=args.limit)
        facts = {'dataset': os.path.basename(os.path.normpath(folder)), 'split': args.split,
                 'images': f'{len(evaluator.images):,}'}
        if args.model is not None:
            evaluations, more = _evaluate_model(args, evaluator, load)
            facts.update(more)
        else:
            evaluations = [evaluator.evaluate_file(path) for path in args.captions]
        filenames = [dataset.captions.filenames[image] for image in evaluator.images]
        if 'per_image' in out:
            write_image_scores(out['per_image'], evaluations, filenames, dataset.captions.image_ids[evaluator.images])
        if 'coco_results' in out:
            write_coco_results(out['coco_results'], dataset, evaluator.images, evaluations[0].predictions)
        if 'html' in out:
            import datetime
            title = f'{facts["model"] if args.model else "Captions"} on {facts["dataset"]}, {args.split}'
            write_evaluation_page(out['html'], evaluations, filenames, evaluator.references, title,
                                  {**facts, 'date': datetime.date.today().isoformat()}, args.images)
    if not args.json:
        between = '' if folder == args.dataset[0] else '\n'
        print(f'{between}{folder}, {args.split}: {len(filenames):,} images\n\n{score_tables(evaluations)}', end='')
    of_dataset = {} if len(args.dataset) == 1 else {'dataset': folder}
    return [{**evaluation.to_json(), 'split': args.split, **of_dataset} for evaluation in evaluations]


def _check(args: argparse.Namespace) -> None:
    if args.captions:
        if args.gpu != '-1':
            raise InputError('-g is for a model; scores are computed on the CPU')
        for name in ('precision', 'sample', *common.LIMITS, *common.OF_SAMPLES, *common.OF_BEAMS):
            if getattr(args, name, None) not in (None, 'float32'):
                raise InputError(f'--{name.replace("_", "-")} is for a model; --captions are as they are')
    if len(args.dataset) > 1:
        for name in ('captions', 'per_image', 'coco_results', 'html'):
            if getattr(args, name) is not None:
                raise InputError(f'--{name.replace("_", "-")} is of one dataset; evaluate each by itself')
    common.check_ways(args)
    if args.images is not None:
        if args.html is None:
            raise InputError('--images belongs to --html')
        if not os.path.isdir(args.images):
            raise InputError(f'{args.images}: no such folder')
    sets = len(args.captions or ()) or len(args.beam_widths or [None]) * len(args.length_normalization or [None])
    if args.calibrate:
        _check_calibration(args, sets)
    if args.coco_results is not None and sets > 1:
        raise InputError(f'--coco-results holds one set of captions, these are {sets}; name one file or beam width')


def _check_calibration(args: argparse.Namespace, sets: int) -> None:
    if not args.model or len(args.model) > 1 or args.split == 'test' or args.limit is not None:
        raise InputError('--calibrate is for one model (-m) and a split that scores are not taken of: --split val')
    if sets > 1:
        raise InputError(f'--calibrate is for one search, these are {sets}')


def _open(stack: contextlib.ExitStack, path: str) -> TextIO:
    try:
        return stack.enter_context(atomic_write(path, 'w', errors='backslashreplace'))
    except OSError as e:
        raise unwritable(path, e) from e


def _evaluate_model(args: argparse.Namespace, evaluator: Evaluator,
                    load: _Load) -> tuple[list[Evaluation], dict[str, str]]:
    """The evaluations of the model, and facts about it."""
    from chainer_caption.functions.matmul import using_precision
    with using_precision(args.precision, common.device(args.gpu), common.say):
        captioner, searches = load()
        evaluations = evaluator.evaluate_model(
            ' + '.join(os.path.basename(os.path.normpath(model)) for model in args.model), captioner, searches,
            1 if args.top is None else args.top, lambda results: track(results, 'evaluate', len(evaluator.images)))
    provenance = captioner.bundle.provenance or {}
    return evaluations, {'model': evaluations[0].name, 'encoder': provenance.get('encoder', 'unknown'),
                         'preprocessing': provenance.get('preprocessing', 'unknown'),
                         'vocabulary': f'{len(captioner.bundle.vocabulary):,} words',
                         'greatest length': f'{searches[0].max_length} words'}


def _load_model(args: argparse.Namespace, datasets: list[Dataset]) -> tuple[Captioner, list[Any]]:
    """The captioner, with a confidence that is fitted to its captions of all datasets if that is asked for, and the
    searches to evaluate."""
    from chainer_caption.captioning.captioner import Captioner
    captioner = Captioner.load(args.model, common.device(args.gpu), images=False)
    searches = [common.search_of(args, captioner, **common.given(width=width, length_normalization=normalization))
                for width in args.beam_widths or [None] for normalization in args.length_normalization or [None]]
    if args.calibrate:
        _calibrate(captioner, combine(datasets), args.split, searches[0])
        captioner = Captioner(captioner.bundle, captioner.device, names=captioner.names)
    return captioner, searches


def _calibrate(captioner: Captioner, dataset: Dataset, split: str, search: Any) -> None:
    """Fits the confidence of the model to its captions, and writes it into the model directory."""
    from chainer_caption.evaluation.calibration import FEWEST, calibrate
    if not calibrate(captioner.bundle, dataset, split, search, captioner.device):
        raise InputError(f'{dataset.dataset_path}: --calibrate needs {FEWEST} images of the split {split} '
                         'with captions')
    try:
        captioner.bundle.save_familiarity(captioner.names[0])
    except OSError as e:
        raise unwritable(e.filename or captioner.names[0], e) from e
