"""The examples of chainer_caption/README.md work: own architectures, objectives and features."""
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import chainer_caption

README = pathlib.Path(chainer_caption.__file__).with_name('README.md')
SMALL = '--epochs', '3', '--hidden', '16', '--batch-size', '16', '--min-count', '1', '--quiet'


def examples():
    """The code of the README by module name."""
    blocks = re.findall(r'```python\n# (\w+)\.py\n(.*?)```', README.read_text('utf-8'), re.DOTALL)
    return dict(blocks)


pytestmark = pytest.mark.skipif(not README.exists(), reason='the package is installed without its README')


@pytest.fixture
def run(tmp_path, package_environment):
    """Calls a command of the command line in a folder with the README's modules; its standard output."""
    for name, code in examples().items():
        (tmp_path / f'{name}.py').write_text(code, encoding='utf-8')
    path = os.pathsep.join(filter(None, [package_environment.get('PYTHONPATH'), str(tmp_path)]))

    def call(*arguments, status=0):
        done = subprocess.run([sys.executable, '-m', 'chainer_caption', *map(str, arguments)], cwd=tmp_path, text=True,
                              env={**package_environment, 'PYTHONPATH': path}, capture_output=True, check=False)
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr
    call.folder = tmp_path
    return call


@pytest.fixture
def grids(make_dataset):
    """A dataset whose features are grids, of the vectors of the made one at three locations."""
    folder = make_dataset()
    import scipy.io
    vectors = scipy.io.loadmat(folder / 'vgg_feats.mat')['feats'].T
    np.save(folder / 'grids.npy', np.stack([vectors, 0.5 * vectors, 0 * vectors], axis=1).astype(np.float16))
    (folder / 'vgg_feats.mat').unlink()
    return folder


def log(run, model):
    return json.loads((run.folder / model / 'log.json').read_text('utf-8'))


def test_the_examples_are_short():
    assert {*examples()} == {'my_models', 'my_objectives', 'my_attention'}
    assert all(code.count('\n') + 1 <= 60 for code in examples().values())


@pytest.mark.parametrize('name, module', [('gru', 'my_models'), ('attend', 'my_attention')])
def test_own_architectures_are_trained_searched_and_sampled(name, module, run, make_dataset, request):
    dataset = request.getfixturevalue('grids') if name == 'attend' else make_dataset()
    own = '--import', module
    run('train', dataset, '-o', 'model', '--architecture', name, *own, *SMALL)
    loss = [entry['validation/main/loss'] for entry in log(run, 'model')]
    assert loss[-1] < loss[0]
    captions = {}
    for search in ((), ('--sample', '--seed', '1'), ('--beam-groups', '2', '--beam-width', '4')):
        captions[search] = run('generate', '-m', 'model', '--dataset', dataset, '--split', 'test', '--top', '2', *own,
                               *search)
    assert captions[()] != captions['--sample', '--seed', '1']
    assert all(text.count('# ') > 5 for text in captions.values())
    scores = json.loads(run('evaluate', dataset, '-m', 'model', '--json', *own, '--quiet').splitlines()[-1])
    assert {'CIDEr', 'perplexity'} <= scores.keys()
    run('train', dataset, '-m', 'model', '-o', 'scst', '--objective', 'self-critical', '--samples', '3', *own, *SMALL)
    entries = log(run, 'scst')
    assert all(entry['main/reward'] > 0 for entry in entries if entry['epoch'])
    line = run('generate', '-m', 'model', '--dataset', dataset, status=2)
    assert f"register '{name}' first: --import the module that defines it" in line


def test_an_own_objective(run, make_dataset):
    dataset, own = make_dataset(), ('--import', 'my_objectives')
    run('train', dataset, '-o', 'model', '--objective', 'label-smoothing', *own, *SMALL)
    entries = log(run, 'model')
    assert entries[-1]['main/loss'] < entries[0]['main/loss'] and 'main/perplexity' not in entries[0]
    assert '# ' in run('generate', '-m', 'model', '--dataset', dataset, '--quiet')
    assert "register 'label-smoothing' first" in run('train', dataset, '-o', 'm', '--objective', 'label-smoothing',
                                                     status=2)
