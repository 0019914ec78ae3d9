"""Plants faults in a copy of the package, one at a time, and prints which test finds each, as a table::

    python tests/standin/faults.py [NUMBER …]

It takes about half a minute for a fault. Where the code has changed so that a fault cannot be planted, it says so.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]

# What is wrong, the file, what stands there, and what is put in its place.
FAULTS = (
    ('embedding read by the row of the element, not by its column', 'functions/sequence_input.py',
     'kept ? W[(ptrdiff_t)word * width + i % width]', 'kept ? W[(ptrdiff_t)word * width + i / width]'),
    ('embedding read one word too far', 'functions/sequence_input.py',
     'kept ? W[(ptrdiff_t)word * width', 'kept ? W[(ptrdiff_t)(word + 1) * width'),
    ('gradients of a word added without atomicAdd', 'functions/sequence_input.py',
     'atomicAdd(&gW[(ptrdiff_t)word * width + i % width], gy * (T)scale)',
     'gW[(ptrdiff_t)word * width + i % width] += gy * (T)scale'),
    ('mask keys swapped on the way back', 'functions/sequence_input.py',
     '*shape, *self.mask, gW)', '*shape, self.mask[1], self.mask[0], *self.mask[2:], gW)'),
    ('gradients added to memory that was not cleared', 'functions/sequence_input.py',
     'gW = xp.zeros(shape', 'gW = (xp.zeros if xp is np else xp.empty)(shape'),
    ('key of the dropout mask rounded to float32', 'functions/dropout.py',
     "'T x, uint32 key0, uint32 key1,", "'T x, float32 key0, uint32 key1,"),
    ('biases of the gates i and f swapped', 'functions/lstm_cell.py',
     '*(bias[:, k] for k in range(4)), c0', '*(bias[:, k] for k in (0, 2, 1, 3)), c0'),
    ('no bias in the forget gate', 'functions/lstm_cell.py', 'gf += rf + bf', 'gf += rf'),
    ('forget gate learns from the cell after and not before', 'functions/lstm_cell.py',
     'ggf = dc * c0 * gf * ((T)1 - gf)', 'ggf = dc * c * gf * ((T)1 - gf)'),
    ('first step of the LSTM reads memory that was not cleared', 'functions/lstm.py',
     'recurrent = xp.zeros(', 'recurrent = (xp.zeros if xp is np else xp.empty)('),
    ('sums of the softmax along the wrong axis of the scores', 'functions/word_loss.py',
     'gradient_kernel()(totals[:, None],', 'gradient_kernel()(totals,'),
    ("softmax's maximum left out of the loss", 'functions/word_loss.py',
     'xp.log(total) + top - target', 'xp.log(total) - target'),
    ('float() in an update', 'functions/word_loss.py', 'self.gradients[i] * gloss', 'self.gradients[i] * float(gloss)'),
    ('targets as int64', 'data/batches.py',
     'words, targets = device.send(words), device.send(targets)',
     'words, targets = device.send(words), device.send(targets.astype(np.int64))'),
    ('targets left on the host', 'data/batches.py',
     'words, targets = device.send(words), device.send(targets)', 'words = device.send(words)'),
    ('loss fetched at each update', 'training/objectives/cross_entropy.py', 'return self.model(*batch, update_key=',
     'return abs(self.model(*batch, update_key=(0, 0)).item()) * 0 + self.model(*batch, update_key='),
    ('features moved to whichever GPU is the current one', 'training/trainer.py',
     'with chainer.using_device(device):', 'if device:'),
    ('features moved to a GPU that has no room for them', 'training/trainer.py',
     'or features.nbytes > _FEATURES_SHARE *', 'or 0 > _FEATURES_SHARE *'),
    ('search on whichever GPU is the current one', 'captioning/captioner.py',
     'with chainer.using_device(self.device), ', 'with '),
    ('encoder on whichever GPU is the current one', 'features/extractor.py',
     'with chainer.using_device(self.device), chainer', 'with chainer'),
    ('search reads the cells of the first hypothesis', 'functions/lstm_cell.py',
     'c0[(ptrdiff_t)parent * units + unit]', 'c0[unit]'),
    ('array of the host given to a kernel', 'models/decoder.py',
     'self.device.send(np.array([parents, tokens], np.int32))', 'np.array([parents, tokens], np.int32)'),
    ('continuations copied to the host without being asked', 'functions/topk_gpu.py',
     'found.get()', 'np.asarray(found)'),
    ('word that must not be said is said', 'functions/topk_gpu.py',
     'is_allowed(word, suppressed) && score >= threshold[of]', 'score >= threshold[of]'),
    ('continuations counted without atomicAdd', 'functions/topk_gpu.py',
     '(int)atomicAdd(&found[at], 1.0)', '(int)(found[at] += 1.0) - 1'),
    ('count of continuations that starts from what was in memory', 'functions/topk_gpu.py',
     'found[image * (1 + 3 * places)] = 0;', ';'),
    ('one lane too many', 'functions/topk_gpu.py', 'lane < stop; lane += groups', 'lane <= stop; lane += groups'),
    ('state of the parent read a unit too far', 'functions/lstm_cell.py',
     'carried = ((ptrdiff_t)row * units + unit) * 4',
     'carried = ((ptrdiff_t)(row + 1) * units + unit) * 4'),
    ('word that must not be said counts as the best of its lane', 'functions/topk_gpu.py',
     'if (is_allowed(word, suppressed) && score > chosen)', 'if (score > chosen)'),
    ('mark above the k-th best', 'functions/topk_gpu.py', 'before == k - 1', 'before == k / 2'),
    ('finished captions not competed with', 'functions/topk_gpu.py', ' && score > least[of]', ''),
    ('ties beyond what is collected left out', 'functions/topk.py', 'if len(crowded):', 'if len(crowded) > 3:'),
    ('batches that fit no more are not cut', 'features/micro_batches.py',
     'except MemoryError', 'except ZeroDivisionError'),
    ('gradients of the processes not averaged', 'parallel.py',
     'self._communicator.multi_node_mean_grad(optimizer.target)', 'optimizer.target.cleargrads'),
)


def test(copy, kernels):
    """Runs what is marked gpu on the stand-in until something fails; (test, why), or None where nothing does."""
    paths = [copy / 'tests' / 'standin', copy]
    done = subprocess.run([sys.executable, '-m', 'pytest', '-m', 'gpu', '-x', '-q', '-p', 'no:cacheprovider', 'tests'],
                          cwd=copy, capture_output=True, text=True, check=False,
                          env={**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, paths)),
                               'STANDIN_CACHE': kernels, 'PYTEST_ON_STANDIN': '1'})
    if not done.returncode:
        return None
    found = re.search(r'^(?:FAILED|ERROR) tests/(.+?)(?: - .*)?$', done.stdout, re.MULTILINE)
    why = re.search(r'^E +(?:AssertionError: *\nE +)?(\S.*)$', done.stdout, re.MULTILINE)
    if not found or not why:
        raise RuntimeError(done.stdout + done.stderr)
    return found[1].removeprefix('test_').replace('.py::', ': ').replace('::', ': '), why[1].rstrip()


def main(numbers):
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as kernels:
        copy = pathlib.Path(folder) / 'copy'
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns('.git', '.venv'), symlinks=True)
        unharmed = test(copy, kernels)
        if unharmed:
            sys.exit(f'{unharmed[0]} fails without any fault: {unharmed[1]}')
        print('| | fault | found by | because |\n| --- | --- | --- | --- |', flush=True)
        for number, (what, name, there, instead) in enumerate(FAULTS, 1):
            if numbers and number not in numbers:
                continue
            path = copy / 'chainer_caption' / name
            text = path.read_text(encoding='utf-8')
            if text.count(there) != 1:
                found = 'cannot be planted any more', ''
            else:
                path.write_text(text.replace(there, instead), encoding='utf-8')
                found = test(copy, kernels) or ('**nothing**', '')
                shutil.copy2(ROOT / 'chainer_caption' / name, path)
            print(f'| {number} | {what} | {found[0]} | {found[1]} |', flush=True)


if __name__ == '__main__':
    main(list(map(int, sys.argv[1:])))
