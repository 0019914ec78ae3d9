"""Kills a training at random moments, resumes it, and compares the outcome with that of a training never killed.

    python tests/kills.py --kills 100 [--objective self-critical] [--finetune conv5]

Each training is killed up to three times by SIGKILL, at moments sampled uniformly over the time that an undisturbed one
takes, and started again with `--resume`; every third one replaces an old model. At its end everything must equal the
undisturbed training: weights, log (except clock times), captions, snapshots with Adam's state, and the list of files.
After each kill the folder must be a sound model or report that it is none yet.

In addition, trainings with `--patience 1` are killed just before their first and before their second update.

The trainings are forks of this process, which has everything imported and compiled, so that a kill hits the work and
not the start of Python; the undisturbed one is a process of its own. In the forks archives are written in small pieces,
and there are pauses in the evaluation and around the log, so that kills hit these, too; the curves, which take the most
time, are not drawn.
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

# A fork must have no other threads.
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

# The current phase, a byte in memory that the parent shares.
PHASES = ['starting', 'loading a snapshot', 'update', 'evaluation', 'keeping the best', 'log', 'run page', 'snapshot',
          'in between']
_phase = mmap.mmap(-1, 1)


def mark(owner, name, phase, pause=0.0):
    """Wraps a function or method to mark its phase, with a pause before and after its work."""
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


def instrument(last):
    """In a fork: marks the phases, writes slowly, draws nothing; SIGKILL after update `last`, if that is not None."""
    import chainer  # not before the package, which makes it run on today's NumPy
    update_core = chainer.training.updaters.StandardUpdater.update_core

    def killed(self):
        if self.iteration == last:
            os.kill(os.getpid(), signal.SIGKILL)
        update_core(self)
    chainer.training.updaters.StandardUpdater.update_core = killed
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


def forked(argv, output, last=None):
    """Starts a command in a fork and returns its process id; it is killed after update `last`."""
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
            instrument(last)
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
    """All that a training leaves, and the captions of its model for a dataset or, with its own encoder, for images."""
    captions = folder.with_suffix('.jsonl')
    assert cli.run('generate', ['-m', str(folder), *of, '-o', str(captions)]) == 0
    return {**left_by_training(folder), 'captions': captions.read_bytes()}


def differences(one, other):
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def check_folder(folder):
    """After a kill there is a model that loads, or one line on why there is none."""
    try:
        Bundle.load(folder)
    except InputError as e:
        assert ' lacks ' in str(e) or 'no such model directory' in str(e), e


def main():
    parser = argparse.ArgumentParser(description='Kill trainings, resume them, compare.')
    parser.add_argument('--kills', type=int, default=10, metavar='N', help='(%(default)s)')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of the moments (%(default)s)')
    parser.add_argument('--objective', default='cross-entropy', help="the trainings' (%(default)s)")
    parser.add_argument('--finetune', metavar='LAYER', help="fine-tune the demo's encoder from this layer on")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ['XDG_CACHE_HOME'] = folder
        return kill(args.kills, args.objective, args.finetune, np.random.default_rng(args.seed), pathlib.Path(folder))


def kill_early(command, of, folder, output):
    """Kills trainings with `--patience 1` before their first and before their second update, and compares."""
    for last in 0, 1:
        # The last --patience counts.
        early = [*command[:-1], '--patience', '1', '-o']
        models = [folder / f'{name}{last}' for name in ('whole', 'early')]
        ended(forked([*early, str(models[0])], output), output)
        _, status = os.waitpid(forked([*early, str(models[1])], output, last), 0)
        assert os.WIFSIGNALED(status), pathlib.Path(output).read_text(encoding='utf-8')
        check_folder(models[1])
        ended(forked([*early, str(models[1]), '--resume'], output), output)
        different = differences(*(outcome(model, of) for model in models))
        assert not different, f'killed after update {last}: {different}'


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

    kill_early(command, of, folder, output)
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
    """How to start again: the old model that is to be replaced may still be there."""
    config = json.loads((model / 'config.json').read_text()) if (model / 'config.json').exists() else None
    return '--overwrite' if config and config['training']['seed'] == 1 else '--resume'


if __name__ == '__main__':
    sys.exit(main())
