"""Commands and whole trainings on a GPU: they give what the CPU gives, and the GPU is not waited for in between."""
import contextlib
import gc
import json
import pathlib

import chainer
import numpy as np
import pytest
from chainer.backends import cuda
from conftest import write_dataset
from test_parallel import OPTIONS, SCRIPTS, figures, together  # noqa: F401 (a fixture)

from chainer_caption import Captioner, Dataset, Settings, train
from chainer_caption.data.batches import CaptionDataset, CaptionIterator
from chainer_caption.data.vocabulary import EOS, Vocabulary
from chainer_caption.features.encoders.caffe import GoogLeNet
from chainer_caption.features.encoders.vgg import VGG
from chainer_caption.models import ShowAndTell
from chainer_caption.models.bundle import Bundle
from chainer_caption.parallel import Processes
from chainer_caption.storage.archives import read_npz
from chainer_caption.training import make_converter, make_optimizer, trainer

pytestmark = pytest.mark.gpu

DEMO = pathlib.Path(__file__).resolve().parents[1] / 'features' / 'demo'
SMALL = '--epochs', '3', '--hidden', '16', '--batch-size', '16', '--min-count', '1'

# The losses of a training on the CPU and on a GPU differ by this share, for they are rounded in another order; on a
# card, whose functions are its own and whose atomic additions come in any order, by more than on the stand-in.
ROUNDING = 2e-6 if hasattr(cuda.cupy, 'standin') else 1e-4
# How often the host waits for the GPU in a step of the beam search.
WAITS_A_STEP = 1


@pytest.fixture
def counted():
    """What the stand-in for CuPy counts; skips on a GPU, which counts nothing."""
    if not hasattr(cuda.cupy, 'standin'):
        pytest.skip('needs the stand-in for CuPy')
    return cuda.cupy.standin.counted


@pytest.fixture
def gpu():
    """The number of a GPU: the last one, which is not the current device unless it is made so."""
    return cuda.cupy.cuda.runtime.getDeviceCount() - 1


@pytest.fixture
def ok(call):
    """Calls a command that must succeed; what it prints."""
    def run(name, *argv):
        status, out, err = call(name, *argv)
        assert status == 0, err
        return out
    return run


# ---- Commands

@pytest.mark.parametrize('architecture', [(), ('--architecture', 'merge'),
                                          ('--architecture', 'encoder_decoder', '--max-positions', '9')], ids=str)
def test_training_and_its_validation(architecture, dataset_dir, ok, gpu, tmp_path):
    for name, where in (('cpu', -1), ('gpu', gpu)):
        ok('train', dataset_dir, '-o', tmp_path / name, '-g', where, *SMALL, *architecture)
    on_cpu, on_gpu = figures(tmp_path / 'cpu'), figures(tmp_path / 'gpu')
    assert len(on_gpu) == 3
    for wanted, got in zip(on_cpu, on_gpu, strict=True):
        assert got == pytest.approx(wanted, rel=ROUNDING, abs=ROUNDING)
    weights = read_npz(tmp_path / 'cpu' / 'weights.npz')
    for name, array in read_npz(tmp_path / 'gpu' / 'weights.npz').items():
        np.testing.assert_allclose(array, weights[name], rtol=1e-4, atol=1e-4, err_msg=name)
    argv = '-m', tmp_path / 'cpu', '--dataset', dataset_dir, '--split', 'test', '--beam-width', '9'
    assert ok('generate', *argv, '-g', gpu) == ok('generate', *argv)


@pytest.mark.parametrize(('first', 'then'), [(0, 0), (0, -1), (-1, 0)])
def test_a_training_goes_on_where_it_stopped_and_elsewhere(dataset_dir, ok, tmp_path, first, then):
    ok('train', dataset_dir, '-o', tmp_path / 'whole', '-g', '-1', *SMALL)
    ok('train', dataset_dir, '-o', tmp_path / 'cut', '-g', first, *SMALL, '--epochs', '1')
    ok('train', dataset_dir, '-o', tmp_path / 'cut', '-g', then, *SMALL, '--resume')
    for wanted, got in zip(figures(tmp_path / 'whole'), figures(tmp_path / 'cut'), strict=True):
        assert got == pytest.approx(wanted, rel=ROUNDING, abs=ROUNDING)


def test_a_training_that_starts_from_a_model(dataset_dir, model_dir, ok, tmp_path):
    for name, where in (('cpu', -1), ('gpu', 0)):
        ok('train', dataset_dir, '-o', tmp_path / name, '-g', where, '-m', model_dir, '--epochs', '1')
    assert figures(tmp_path / 'gpu')[0] == pytest.approx(figures(tmp_path / 'cpu')[0], rel=ROUNDING, abs=ROUNDING)


def test_features_for_which_the_gpu_has_no_room_stay_on_the_host(dataset_dir, monkeypatch, tmp_path):
    settings = Settings(epochs=1, batch_size=16, hidden=16)
    train(Dataset(dataset_dir), tmp_path / 'there', settings, device='@cupy:0')
    monkeypatch.setattr(trainer, 'free_bytes', lambda device: 2 ** 10)
    dataset = Dataset(dataset_dir)
    gc.collect()
    cuda.cupy.get_default_memory_pool().free_all_blocks()       # what CuPy keeps is free, too
    assert isinstance(make_converter(dataset.features, chainer.get_device('@cupy:0'), Processes()).features, np.ndarray)
    train(dataset, tmp_path / 'here', settings, device='@cupy:0')
    assert figures(tmp_path / 'here')[0] == pytest.approx(figures(tmp_path / 'there')[0], rel=ROUNDING, abs=ROUNDING)


def test_captions_of_stored_features(dataset_dir, model_dir, ok, gpu):
    argv = '-m', model_dir, '--dataset', dataset_dir, '--split', 'test', '--format', 'jsonl', '--beam-width', '5'
    on_cpu, on_gpu = (list(map(json.loads, ok('generate', *argv, '-g', where).splitlines())) for where in (-1, gpu))
    assert len(on_cpu) == len(on_gpu) == 8
    for wanted, got in zip(on_cpu, on_gpu, strict=True):
        assert [c['tokens'] for c in got['captions']] == [c['tokens'] for c in wanted['captions']]
        assert [c['log_prob'] for c in got['captions']] == pytest.approx([c['log_prob'] for c in wanted['captions']],
                                                                         rel=1e-5)


def test_captions_of_images(demo_model, ok, gpu):
    argv = '-m', demo_model, DEMO / 'unseen', '--max-length', '9'
    on_cpu, on_gpu = (ok('generate', *argv, '-g', where) for where in (-1, gpu))
    assert on_cpu.count('word') > 20 and on_gpu == on_cpu


def test_features_of_images(ok, gpu, tmp_path):
    for name, where in (('cpu', -1), ('gpu', gpu)):
        ok('extract_features', DEMO / 'unseen', '-o', tmp_path / name, '-g', where, '--encoder', 'demo')
    on_cpu, on_gpu = (np.load(tmp_path / name / 'feats.npy') for name in ('cpu', 'gpu'))
    assert on_cpu.any()
    np.testing.assert_array_equal(on_gpu, on_cpu)       # this encoder rounds to quarters
    for where in (-1, gpu):
        assert 'demo' in ok('check_features', tmp_path / 'cpu', DEMO / 'unseen', '-g', where, '--encoder', 'demo')


def test_scores(dataset_dir, model_dir, ok, gpu):
    argv = dataset_dir, '-m', model_dir, '--split', 'test', '--json'
    on_cpu, on_gpu = (json.loads(ok('evaluate', *argv, '-g', where).splitlines()[-1]) for where in (-1, gpu))
    assert on_cpu['perplexity'] > 1 and on_gpu.keys() == on_cpu.keys()
    for key, wanted in on_cpu.items():
        assert on_gpu[key] == (wanted if isinstance(wanted, str) else pytest.approx(wanted, rel=ROUNDING)), key


@pytest.mark.parametrize('what', ['train', 'decode', 'extract'])
def test_benchmarks(what, dataset_dir, model_dir, ok, gpu):
    argv = {'train': (dataset_dir, '--updates', '2', '--hidden', '8'), 'decode': (dataset_dir, '-m', model_dir),
            'extract': ('--encoder', 'demo', '--repeats', '1', '--batch-size', '2')}[what]
    printed = json.loads(ok('benchmark', what, *argv, '-g', gpu, '--json').splitlines()[-1])
    assert min(value for key, value in printed.items() if key.endswith('_per_s')) > 0


# ---- Encoders

@pytest.mark.parametrize(('make', 'size'), [(lambda: VGG((2, 1), width=8, units=16, size=32), 32), (GoogLeNet, 224)],
                         ids=['vgg', 'googlenet'])
def test_encoders(make, size):
    encoder, rng = make(), np.random.default_rng(0)
    for param in encoder.params():
        rng.standard_normal(dtype=np.float32, out=param.array)
        param.array *= (2 / np.prod(param.shape[1:])) ** 0.5 if param.ndim > 1 else 0.1
    images, made = rng.random((1, 3, size, size), np.float32), []
    for name in ('@numpy', '@cupy:0'):
        device = chainer.get_device(name)
        encoder.to_device(device)
        with chainer.using_device(device), chainer.using_config('train', False), chainer.no_backprop_mode():
            made.append(chainer.get_device('@numpy').send(encoder(device.send(images)).array))
    assert made[0].any()
    np.testing.assert_allclose(made[1], made[0], atol=1e-5 * abs(made[0]).max())


# ---- What it costs the host

def test_updates_do_not_wait_for_the_gpu(dataset_dir, monkeypatch, counted):
    dataset = Dataset(dataset_dir)
    vocabulary = Vocabulary.from_counts(*dataset.word_counts('train'), min_count=1)
    data = CaptionDataset.from_dataset(dataset, vocabulary, 'train')
    device = chainer.get_device('@cupy:0')
    model = ShowAndTell(dataset.feature_size, len(vocabulary), 12, seed=0)
    model.to_device(device)
    optimizer, converter = make_optimizer(model, device, Processes()), make_converter(dataset.features, device,
                                                                                      Processes())
    iterator = CaptionIterator(data, 16, seed=0)
    with chainer.using_device(device), cuda.cupy.standin.no_sync(), counted() as counts:
        for update in range(3):
            optimizer.update(model, *converter(iterator.next(), device), update_key=(0, update))
    assert counts.synchronizations == [] and len(counts.uploads) == 3 * 3        # rows, words, targets


def test_a_longer_training_does_not_wait_more_often(monkeypatch, counted, tmp_path):
    # Without an epoch's end between them: validation and the log's figures are waited for.
    dataset = Dataset(write_dataset(tmp_path / 'dataset', splits=('train',)))
    waits = []
    for batch_size in (72, 8):
        with counted() as counts:
            train(dataset, tmp_path / str(batch_size), Settings(epochs=1, batch_size=batch_size, hidden=8, min_count=1),
                  device='@cupy:0')
        waits.append(len(counts.synchronizations))
    assert counts.launches['adam'] > 10 * 9 and waits[0] == waits[1]


def test_a_step_of_the_search_waits_for_the_gpu_as_often_as_is_said(model_dir, counted):
    bundle = Bundle.load(model_dir)
    bundle.model.out_word.b.array[EOS] = -100           # no caption ends before it must
    features, waits = np.eye(4, bundle.model.feature_size, dtype=np.float32), []
    captioner = Captioner(bundle, '@cupy:0')
    for length in (10, 20):
        with counted() as counts:
            found = list(captioner.caption_features(features, width=5, max_length=length))
        assert {len(caption.tokens) for best in found for caption in best} == {length}
        waits.append(len(counts.synchronizations))
    assert (waits[1] - waits[0]) / 10 == WAITS_A_STEP


# ---- Several

def test_devices_are_not_confused(dataset_dir, model_dir):
    if cuda.cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip('needs two GPUs')
    dataset = Dataset(dataset_dir)
    captioners = [Captioner.load(model_dir, f'@cupy:{number}', images=False) for number in (0, 1, 0)]
    # In turns, whichever device is the current one.
    running = [captioner.caption_dataset(dataset, 'test') for captioner in captioners]
    for number, results in enumerate(zip(*running, strict=True)):
        with contextlib.nullcontext() if number % 2 else chainer.using_device('@cupy:1'):
            assert len({result.captions[0].text for result in results}) == 1


def test_two_processes_on_two_gpus_train_as_one(together, dataset_dir, tmp_path):       # noqa: F811
    if cuda.cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip('needs two GPUs')
    for size in (1, 2):
        done = together(size, SCRIPTS / 'train.py', dataset_dir, '-o', tmp_path / str(size), *OPTIONS, '--dropout', '0',
                        '-g', '0')
        assert (done.returncode, done.stderr) == (0, '')
    for wanted, got in zip(figures(tmp_path / '1'), figures(tmp_path / '2'), strict=True):
        assert got == pytest.approx(wanted, abs=1e-5)
    weights = read_npz(tmp_path / '1' / 'weights.npz')
    for name, array in read_npz(tmp_path / '2' / 'weights.npz').items():
        np.testing.assert_allclose(array, weights[name], atol=1e-4)
