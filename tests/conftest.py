"""Shared fixtures: a small learnable dataset, a model trained on it, and a cache of the tests' own."""
import json
import os
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import scipy.io
from PIL import Image

import chainer_caption
from chainer_caption import Bundle, Captioner, Dataset, Settings, Vocabulary, cli, train
from chainer_caption.features.images import open_image
from chainer_caption.models import ShowAndTell
from chainer_caption.storage.archives import read_npz
from chainer_caption.storage.files import read_json

SHARED = pathlib.Path(__file__).resolve().parents[2] / 'shared' / 'data'

COLOURS = 'red', 'green', 'blue'
SHAPES = 'circle', 'square'
SPLITS = 'train', 'train', 'train', 'restval', 'val', 'test'


def gpu_is_there():
    """Whether there are a GPU and CuPy."""
    from chainer.backends import cuda
    return cuda.available and cuda.cupy.cuda.is_available()


def pytest_runtest_setup(item):
    if item.get_closest_marker('gpu') and not gpu_is_there():
        pytest.skip('needs a CUDA device and CuPy')


@pytest.fixture(autouse=True, scope='session')
def _session_cache(tmp_path_factory):
    # For fixtures that outlive a test.
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """The package's cache folder for this test; it does not exist yet."""
    base = tmp_path_factory.mktemp('cache')
    monkeypatch.setenv('XDG_CACHE_HOME', str(base))
    return base / 'chainer_caption'


@pytest.fixture
def shared():
    """The folder of genuine datasets beside the repository; skips the test where there is none."""
    if not SHARED.is_dir():
        pytest.skip('needs the genuine datasets in ../shared/data')
    return SHARED


def read_image(path, **options):
    """A decoded image, RGB (H, W, 3) uint8; options are those of `open_image`."""
    with open_image(path, **options) as image:
        return np.asarray(image)


def write_dataset(folder, images=48, dim=16, seed=0, splits=SPLITS, dtype=np.float32):
    """Writes a dataset whose captions can be predicted from its features: each image has a colour and a shape, one
    feature for each, and noise. Splits take turns; columns are in the images' order; three sentences each."""
    rng = np.random.default_rng(seed)
    colour, shape = rng.integers(len(COLOURS), size=images), rng.integers(len(SHAPES), size=images)
    feats = rng.normal(0, 0.1, (dim, images))
    feats[colour, range(images)] += 1
    feats[len(COLOURS) + shape, range(images)] += 1
    records = []
    for i in range(images):
        words = {'colour': COLOURS[colour[i]], 'shape': SHAPES[shape[i]]}
        spoken = [text.format(**words) for text in ('a {colour} {shape}', 'the {shape} is {colour}',
                                                    'there is a {shape}')]
        records.append({'filename': f'{i:04}.png', 'imgid': i, 'split': splits[i % len(splits)],
                       'sentences': [{'tokens': text.split(), 'raw': f'{text.capitalize()}.'} for text in spoken]})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'dataset.json').write_text(json.dumps({'dataset': 'small', 'images': records}), encoding='utf-8')
    scipy.io.savemat(folder / 'vgg_feats.mat', {'feats': feats.astype(dtype)}, do_compression=True)
    return folder


def draw_images(folder, count):
    """Writes small images of noise with the names of `write_dataset`."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8)).save(folder / f'{i:04}.png')
    return folder


def left_by_training(folder):
    """Everything that a training leaves in a model directory except clock times and plots, as a dict to compare."""
    left = {'files': sorted(os.listdir(folder)), 'config.json': read_json(folder / 'config.json'),
            'vocabulary.json': read_json(folder / 'vocabulary.json'),
            'log.json': [{key: value for key, value in entry.items() if key != 'elapsed_time'}
                         for entry in read_json(folder / 'log.json')]}
    for path in [folder / 'weights.npz', *folder.glob('familiarity.npz'), *folder.glob('encoder*.npz'),
                 *folder.glob('snapshot-*.npz')]:
        for name, array in read_npz(path).items():
            if name != 'checksum' and not name.endswith(('elapsed_time', '/_log')):
                left[f'{path.name} {name}'] = array.dtype.str, array.shape, array.tobytes()
    return left


@pytest.fixture
def make_dataset(tmp_path):
    """A factory of small datasets: `make_dataset(folder=None, **options of write_dataset)` returns the folder."""
    def make(folder=None, **kwargs):
        return write_dataset(tmp_path / 'dataset' if folder is None else pathlib.Path(folder), **kwargs)
    return make


@pytest.fixture(scope='session')
def dataset_dir(tmp_path_factory):
    """The dataset of `model_dir`; read-only."""
    return write_dataset(tmp_path_factory.mktemp('shared') / 'dataset')


@pytest.fixture(scope='session')
def model_dir(dataset_dir):
    """A briefly trained model directory; read-only."""
    folder = dataset_dir.with_name('model')
    train(Dataset(dataset_dir), folder, Settings(epochs=2, batch_size=32, hidden=16))
    return folder


@pytest.fixture(scope='session')
def demo_model(tmp_path_factory):
    """An untrained model for features of the embedded demo encoder; read-only."""
    vocabulary = Vocabulary.from_counts({f'word{i}': 9 for i in range(20)}, 9)
    folder = tmp_path_factory.mktemp('demo') / 'model'
    # With a seed: some weights generate empty captions.
    model = ShowAndTell(4096, len(vocabulary), 8, seed=0)
    Bundle(model, vocabulary, {'encoder': 'demo', 'preprocessing': 'demo'}).save(folder)
    return folder


@pytest.fixture(scope='session')
def served_model(tmp_path_factory):
    """An untrained model directory that generates a different caption for each image; read-only."""
    import serving
    return serving.make_model(tmp_path_factory.mktemp('served') / 'model')


@pytest.fixture(scope='session')
def served_captioner(served_model):
    """The captioner of `served_model`."""
    return Captioner.load(served_model)


@pytest.fixture(scope='session')
def package_environment():
    """The environment of interpreters that the tests start: they import this package from any folder."""
    root = str(pathlib.Path(chainer_caption.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get('PYTHONPATH')]))
    return {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'}


# The parts of CuPy that Chainer imports, as CuPy 14 behaves on a machine without a GPU: no cuDNN, a warning where NCCL
# is missing, an error where the folder of kernels cannot be made.
CUPY = {
    'cupy/__init__.py': """
        import os
        os.makedirs(os.environ.get('CUPY_CACHE_DIR', os.path.expanduser('~/.cupy/kernel_cache')), exist_ok=True)
        from cupy import cuda
        __version__ = '14.2.0'
        class ndarray: pass
        class ElementwiseKernel:
            def __init__(self, *args, **kwargs): pass
        def memoize(for_each_device=False): return lambda function: function
        fuse = memoize
        def get_default_memory_pool(): pass
        get_default_pinned_memory_pool = get_default_memory_pool""",
    'cupy/_util.py': 'class PerformanceWarning(Warning): pass',
    'cupy/cuda/__init__.py': """
        class Device: pass
        class Event: pass
        class Stream: pass
        def is_available(): return False""",
    'cupy/cuda/cublas.py': '',
    'cupy/cuda/nccl.py': 'import warnings; warnings.warn("nccl library could not be loaded.")',
    'cupyx/__init__.py': '',
    'cupyx/scipy/__init__.py': '',
    'cupyx/scipy/linalg.py': '',
    'cupyx/scipy/special.py': '',
}


@pytest.fixture
def cupy_environment(package_environment, tmp_path):
    """`package_environment` with a stand-in for CuPy 14 on a machine without a GPU."""
    for name, text in CUPY.items():
        path = tmp_path / 'stand_in' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding='utf-8')
    # After the package itself: `test_compat.ALONE` looks for it there.
    return {**package_environment, 'HOME': str(tmp_path),
            'PYTHONPATH': os.pathsep.join([package_environment['PYTHONPATH'], str(tmp_path / 'stand_in')])}


class Payload:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)

    @property
    def ran(self):
        return self.mark.exists()


@pytest.fixture
def payload(tmp_path):
    """A malicious pickle's object: `payload.ran` tells whether it was executed."""
    return Payload(tmp_path / 'it_ran')


@pytest.fixture
def call(capsys, monkeypatch):
    """Calls a command in this process: `call('train', …)` returns (exit status, stdout, stderr)."""
    def run(name, *argv):
        monkeypatch.setattr(sys, 'argv', [f'{name}.py'])
        capsys.readouterr()
        try:
            status = cli.run(name, [os.fspath(a) if isinstance(a, os.PathLike) else str(a) for a in argv])
        except SystemExit as e:
            status = e.code
        return status, *capsys.readouterr()
    return run


@pytest.fixture
def refused(call):
    """Calls a command that must exit with 2 and one line on stderr, which is returned."""
    def run(name, *argv):
        status, out, err = call(name, *argv)
        assert status == 2 and out == '', (status, out, err)
        assert err.count('\n') == 1 and err.startswith(f'{name}.py: ') and 'Traceback' not in err, err
        return err.removeprefix(f'{name}.py: ').rstrip('\n')
    return run


@pytest.fixture
def disk(tmp_path):
    """A file system of 128 KiB; skips the test where none can be mounted."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    try:
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=128k', 'tmpfs', folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip('no file system can be mounted here')
    yield folder
    subprocess.run(['umount', folder], check=True)


@pytest.fixture
def room():
    """Limits the free memory of the first GPU for the rest of the test: `room(2 ** 20)` bytes."""
    from chainer.backends import cuda

    def leave(size):
        with cuda.cupy.cuda.Device(0):
            pool = cuda.cupy.get_default_memory_pool()
            pool.free_all_blocks()
            pool.set_limit(pool.used_bytes() + size)

    yield leave
    with cuda.cupy.cuda.Device(0):
        cuda.cupy.get_default_memory_pool().set_limit(0)
