"""Kills a training at random moments, has it go on, and compares what comes out with a training that was never killed.

    python tests/kills.py --kills 100 [--objective self-critical] [--finetune conv5]

Each training is killed up to three times by SIGKILL, at moments drawn uniformly over the time that an undisturbed one
takes, and started again with `--resume`; every third one replaces an old model. At its end everything must be that of
the undisturbed training: weights, log (but for clock times), captions, snapshots with Adam's state, and the list of
files. After each kill the folder must be a sound model or say that it is none yet.

The trainings are forks of this process, which has everything imported and compiled, so that a kill falls into the work
and not into the start of Python; the undisturbed one is a process of its own. In the forks archives are written in
small pieces, and there are pauses within the evaluation and around the log, so that all of these take a share of the
time worth killing in; the curves, which would take the most of it, are not drawn.
"""
import argparse
import collections
import contextlib
import io
import json
import mmap
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

# One thread: what is forked may have no others.
for _name in ('OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
    os.environ[_name] = '1'

import numpy as np  # noqa: E402
import tqdm  # noqa: E402
from conftest import draw_images, left_by_training, write_dataset  # noqa: E402

from chainer_caption import Bundle, InputError, cli  # noqa: E402
from chainer_caption.models import bundle  # noqa: E402
from chainer_caption.storage import files  # noqa: E402
from chainer_caption.training import extensions, snapshots  # noqa: E402

tqdm.tqdm.monitor_interval = 0                          # or it starts a thread

ROOT = pathlib.Path(__file__).resolve().parents[1]
OPTIONS = ['--epochs', '4', '--hidden', '24', '--batch-size', '16', '--snapshot-every', '2', '--patience', '9']

# What is being done at the moment, where the parent can see it: a byte.
PHASES = ['starting', 'loading a snapshot', 'update', 'evaluation', 'keeping the best', 'log', 'run page', 'snapshot',
          'in between']
_phase = mmap.mmap(-1, 1)


def mark(owner, name, phase, pause=0.0):
    """Has a function or method tell when it is running, and take longer by a pause before its work and one after."""
    function = getattr(owner, name)

    def marked(*args, **kwargs):
        before = _phase[0]
        _phase[0] = PHASES.index(phase)
        try:
            time.sleep(pause)
            result = function(*args, **kwargs)
            time.sleep(pause)
            return result
        finally:
            _phase[0] = before
    setattr(owner, name, marked)


def instrument():
    """In a fork: marks the phases, writes slowly, draws nothing."""
    import chainer  # not before the package, which makes it run on today's NumPy
    mark(chainer.training.Trainer, 'run', 'in between')
    mark(chainer.training.updaters.StandardUpdater, 'update', 'update')
    mark(extensions.TokenEvaluator, 'evaluate', 'evaluation', 0.01)
    mark(bundle.Bundle, 'save_weights', 'keeping the best')
    mark(extensions.log, 'write_json', 'log', 0.002)
    mark(extensions.CaptionScores, '__call__', 'evaluation')
    mark(extensions.RunPage, '__call__', 'run page')
    mark(snapshots, 'save_snapshot', 'snapshot')
    mark(snapshots.Snapshots, 'load_latest', 'loading a snapshot', 0.005)
    extensions.curves._draw = lambda f, curves, measure: None
    savez = np.savez

    def slowly(f, **arrays):
        content = io.BytesIO()
        savez(content, **arrays)
        size = len(content.getvalue()) // 8 + 1
        for start in range(0, len(content.getvalue()), size):
            f.write(content.getvalue()[start:start + size])
            f.flush()
            time.sleep(0.001)
    files.np.savez = slowly


def forked(argv, output):
    """Starts a command in a fork; gives its process id."""
    assert len(os.listdir('/proc/self/task')) == 1, 'a thread would not survive the fork'
    _phase[0] = 0
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        with open(output, 'a', encoding='utf-8') as f:
            os.dup2(f.fileno(), 1)
            os.dup2(f.fileno(), 2)
            instrument()
            status = cli.run(argv[0], argv[1:], 'kills.py')
            sys.stdout.flush()
    except BaseException:
        with open(output, 'a', encoding='utf-8') as f:
            traceback.print_exc(file=f)
    finally:
        os._exit(status)


def ended(pid, output):
    """Waits for a fork that is not killed."""
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise SystemExit(f'a training ended with status {status}:\n{pathlib.Path(output).read_text(encoding="utf-8")}')


def outcome(folder, of):
    """All that a training leaves, and what its model says of a dataset or, by an encoder of its own, of images."""
    captions = folder.with_suffix('.jsonl')
    assert cli.run('generate', ['-m', str(folder), *of, '-o', str(captions)]) == 0
    return {**left_by_training(folder), 'captions': captions.read_bytes()}


def differences(one, other):
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def check_folder(folder):
    """What is there after a kill: a model that loads, or one line that says why there is none."""
    try:
        Bundle.load(folder)
    except InputError as e:
        assert ' lacks ' in str(e) or 'no such model directory' in str(e), e


def main():
    parser = argparse.ArgumentParser(description='Kill trainings, have them go on, compare.')
    parser.add_argument('--kills', type=int, default=10, metavar='N', help='(%(default)s)')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of the moments (%(default)s)')
    parser.add_argument('--objective', default='cross-entropy', help="the trainings' (%(default)s)")
    parser.add_argument('--finetune', metavar='LAYER', help="has the demo's encoder learn, too, from this layer on")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ['XDG_CACHE_HOME'] = folder
        return kill(args.kills, args.objective, args.finetune, np.random.default_rng(args.seed), pathlib.Path(folder))


def kill(number, objective, layer, rng, folder):
    dataset, output = write_dataset(folder / 'dataset', dim=4096 if layer else 16), folder / 'output'
    options, of = OPTIONS, ['--dataset', str(dataset)]
    if objective != 'cross-entropy' or layer:
        words = str(folder / 'words')
        with contextlib.redirect_stdout(io.StringIO()):
            cli.run('train', [str(dataset), '-o', words, '--epochs', '1', '--hidden', '24'])
        options = [*OPTIONS, '-m', words, '--objective', objective, '--average', '5']
    if layer:
        images = draw_images(folder / 'images', 48)
        options = [*options, '--finetune', layer, '--images', str(images), '--encoder', 'demo', '--preprocessing',
                   'demo']
        of = [str(images)]
    command = ['train', str(dataset), *options, '-o']
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))}
    subprocess.run([sys.executable, ROOT / 'scripts' / 'train.py', *command[1:], folder / 'undisturbed'], check=True,
                   env=environment, stdout=subprocess.DEVNULL)
    expected = outcome(folder / 'undisturbed', of)
    with contextlib.redirect_stdout(io.StringIO()):     # what is compiled and imported now, the forks have
        cli.run('train', [str(dataset), '-o', str(folder / 'old'), '--epochs', '1', '--hidden', '12', '--seed', '1'])
    began = time.monotonic()
    ended(forked([*command, str(folder / 'timed')], output), output)
    duration = time.monotonic() - began
    different = differences(expected, outcome(folder / 'timed', of))
    assert not different, different

    print(f'an undisturbed training takes {duration:.2f} s', flush=True)
    killed, equal, runs, phases = 0, 0, 0, collections.Counter()
    while killed < number:
        runs += 1
        model = folder / f'model{runs}'
        if runs % 3 == 0:
            shutil.copytree(folder / 'old', model)
        kills_of_run = []
        for _ in range(min(int(rng.integers(1, 4)), number - killed)):
            pid = forked([*command, str(model), again(model)], output)
            time.sleep(rng.uniform(0, duration))
            os.kill(pid, signal.SIGKILL)                # one that has ended waits for its parent, and is not killed
            _, status = os.waitpid(pid, 0)
            if not os.WIFSIGNALED(status):
                break
            kills_of_run.append(PHASES[_phase[0]])
            check_folder(model)
        ended(forked([*command, str(model), again(model)], output), output)
        different = differences(expected, outcome(model, of))
        killed += len(kills_of_run)
        phases.update(kills_of_run)
        if different:
            print(f'training {runs}, killed in {", ".join(kills_of_run)}: {len(different)} things differ, the first of '
                  f'them {different[0]}', flush=True)
        else:
            equal += len(kills_of_run)
            shutil.rmtree(model)
    print(f'{equal} of {killed} kills, in {runs} trainings, end equal to the undisturbed one')
    print(', '.join(f'{phase} {phases[phase]}' for phase in PHASES))
    return 0 if equal == killed else 1


def again(model):
    """How to go on: the old model that was to be replaced may still be there."""
    config = json.loads((model / 'config.json').read_text()) if (model / 'config.json').exists() else None
    return '--overwrite' if config and config['training']['seed'] == 1 else '--resume'


if __name__ == '__main__':
    sys.exit(main())
