"""Captioner: from images or features to captions, in order, as they are done, and only where they mean something."""
import json
import pathlib
import shutil

import chainer
import numpy as np
import pytest
import threadpoolctl

from chainer_caption import Bundle, Caption, Captioner, Dataset, InputError, Result
from chainer_caption.features.images import ImageError

UNSEEN = pathlib.Path(__file__).resolve().parents[1] / 'features' / 'demo' / 'unseen'
DEMO = {'encoder': 'demo', 'preprocessing': 'demo'}


class FakeExtractor:
    """Stands for an encoder: an image `red_circle.png` has the features of a red circle, and `bad` ones fail."""
    encoder, preprocessing, dim = 'fake', 'fake', 16

    def __init__(self):
        self.prepared, self.batches = [], []

    def prepare(self, path):
        self.prepared.append(path)
        if 'bad' in path:
            raise ImageError(path, 'not an image')
        return np.random.default_rng(len(path)).random((3, 2, 2), np.float32)

    def __call__(self, batch):
        self.batches.append(len(batch))
        return np.tile(np.stack(batch).reshape(len(batch), 12), (1, 2))[:, :16]


@pytest.fixture
def fake(model_dir):
    return Captioner(Bundle.load(model_dir), extractor=FakeExtractor())


@pytest.fixture
def unknown_model(demo_model, tmp_path):
    bundle = Bundle.load(demo_model)
    bundle.provenance = None
    bundle.save(tmp_path / 'unknown')
    return tmp_path / 'unknown'


# Stored features

def test_the_search_leaves_each_core_to_a_thread_of_its_own(model_dir):
    # Those of BLAS wait for each other by spinning, and beside anything else a search takes twice the time.
    captioner, threads = Captioner.load(model_dir, images=False), set()

    def search(stepper, features):
        threads.update(pool['num_threads'] for pool in threadpoolctl.threadpool_info() if pool['user_api'] == 'blas')
        return [[] for _ in features]

    list(captioner.caption_features(np.zeros((2, 16), np.float32), search))
    assert threads == {1}


def test_fields(model_dir, dataset_dir):
    dataset = Dataset(dataset_dir)
    results = list(Captioner.load(model_dir, images=False).caption_dataset(dataset, 'test'))
    images = dataset.images('test')
    assert [r.filename for r in results] == [dataset.captions.filenames[p] for p in images]
    assert [r.image_id for r in results] == dataset.captions.image_ids[images].tolist()
    for result in results:
        assert isinstance(result, Result) and result.path is None and result.error is None
        assert len(result.captions) == 5 and type(result.image_id) is int
        assert [c.log_prob for c in result.captions] == sorted((c.log_prob for c in result.captions), reverse=True)
        for caption in result.captions:
            assert isinstance(caption, Caption) and all(isinstance(token, str) for token in caption.tokens)
            assert caption.text == ' '.join(caption.tokens) and '<' not in caption.text
            assert caption.log_prob_per_token == pytest.approx(
                caption.log_prob / (len(caption.tokens) + caption.finished))


def test_features_give_the_captions_of_the_dataset(model_dir, dataset_dir):
    captioner, dataset = Captioner.load(model_dir, images=False), Dataset(dataset_dir)
    rows = dataset.captions.image_ids[dataset.images('val')]
    expected = [result.captions for result in captioner.caption_dataset(dataset, 'val', top=3)]
    assert list(captioner.caption_features(dataset.features[rows], top=3)) == expected
    assert [best[0].tokens for best in captioner.caption_features(dataset.features[rows].astype(np.float64))] == \
        [best[0].tokens for best in expected]


def test_many_rows_and_none(model_dir, dataset_dir):
    captioner, dataset = Captioner.load(model_dir, images=False), Dataset(dataset_dir)
    many = np.resize(dataset.features, (1100, 16))
    found = list(captioner.caption_features(many, width=2, top=1))
    assert len(found) == 1100
    few = list(captioner.caption_features(dataset.features, width=2, top=1))
    for i in (0, 511, 512, 1099):
        assert found[i][0].tokens == few[i % 48][0].tokens
        assert found[i][0].log_prob == pytest.approx(few[i % 48][0].log_prob, abs=1e-5)
    assert list(captioner.caption_features(many[:0])) == []


def test_rows_follow_imgid_and_not_the_order_of_the_list(model_dir, make_dataset):
    folder = make_dataset()
    captioner = Captioner.load(model_dir, images=False)
    expected = {r.filename: r.captions for r in captioner.caption_dataset(Dataset(folder), 'test')}
    data = json.loads((folder / 'dataset.json').read_text())
    data['images'].reverse()
    (folder / 'dataset.json').write_text(json.dumps(data))
    results = list(captioner.caption_dataset(Dataset(folder), 'test'))
    assert [r.filename for r in results] == list(reversed(expected))
    for result in results:
        assert [c.tokens for c in result.captions] == [c.tokens for c in expected[result.filename]]


def test_features_of_another_size(model_dir, make_dataset):
    captioner = Captioner.load(model_dir, images=False)
    with pytest.raises(InputError, match='features of 17 numbers, but the model learned from 16'):
        captioner.caption_features(np.ones((2, 17), np.float32))
    folder = make_dataset(dim=17)
    with pytest.raises(InputError, match=r'vgg_feats\.mat has features of 17 numbers'):
        captioner.caption_dataset(Dataset(folder), 'test')
    with pytest.raises(InputError, match='no image is of the split val'):
        captioner.caption_dataset(Dataset(make_dataset(splits=['train'])), 'val')


def test_features_of_another_provenance(model_dir, make_dataset):
    folder, bundle = make_dataset(), Bundle.load(model_dir)
    dataset = Dataset(folder)
    dataset.provenance = {'encoder': 'vgg19', 'preprocessing': 'karpathy'}
    assert list(Captioner(bundle).caption_dataset(dataset, 'test'))     # the model's is unknown
    bundle.provenance = {'encoder': 'vgg16', 'preprocessing': 'karpathy'}
    with pytest.raises(InputError, match=r'vgg_feats\.mat: features of vgg19/karpathy, but .* vgg16/karpathy'):
        Captioner(bundle).caption_dataset(dataset, 'test')
    dataset.provenance = None
    assert list(Captioner(bundle).caption_dataset(dataset, 'test'))


@pytest.mark.parametrize('options', [{'width': 3, 'top': 4}, {'top': 0}, {'width': 0}, {'max_length': 0}], ids=str)
def test_options_that_contradict(options, model_dir):
    captioner = Captioner.load(model_dir, images=False)
    with pytest.raises(InputError):
        list(captioner.caption_features(np.ones((1, 16), np.float32), **options))


# Images

def test_images_in_sorted_order_and_bad_ones_among_them(fake, tmp_path):
    for name in ('b/2.png', 'b/10.jpg', 'a.png', 'bad.png', 'c.txt', 'Z.PNG'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'')
    results = list(fake.caption(tmp_path, top=2))
    assert [r.path for r in results] == [str(tmp_path / name)
                                         for name in ('Z.PNG', 'a.png', 'b/10.jpg', 'b/2.png', 'bad.png')]
    assert [r.filename for r in results] == [r.path for r in results]
    assert [r.error for r in results] == [None] * 4 + ['not an image']
    assert [len(r.captions) for r in results] == [2] * 4 + [0]
    assert fake.extractor.batches == [4]


def test_only_bad_images(fake):
    assert [(r.path, r.error) for r in fake.caption(['bad1', 'bad2'])] == [('bad1', 'not an image'),
                                                                           ('bad2', 'not an image')]
    assert fake.extractor.batches == [] and list(fake.caption([])) == []


def test_a_list_keeps_its_order(fake):
    names = ['c.png', 'a.png', 'c.png', 'bad', 'b.png']
    assert [r.path for r in fake.caption_files(iter(names))] == names


def test_neighbours_that_fail_change_nothing(fake):
    alone = [r.captions for r in fake.caption_files(['a.png', 'bbbb.png'])]
    among = [r.captions for r in fake.caption_files(['bad', 'a.png', 'bad', 'bbbb.png', 'bad']) if not r.error]
    assert [[c.tokens for c in best] for best in alone] == [[c.tokens for c in best] for best in among]


def test_results_stream(fake):
    names = [f'{i:04}.png' for i in range(500)]
    results = fake.caption_files(names)
    assert fake.extractor.prepared == [], 'nothing is read before it is asked for'
    assert next(results).path == '0000.png'
    assert len(fake.extractor.prepared) < 100
    results.close()
    assert len(fake.extractor.prepared) < 100, 'who stops early waits for nothing'
    assert [r.path for r in fake.caption_files(names)] == names


def test_other_failures_are_not_hidden(fake, monkeypatch):
    def fail(path):
        raise ZeroDivisionError
    monkeypatch.setattr(fake.extractor, 'prepare', fail)
    with pytest.raises(ZeroDivisionError):
        list(fake.caption_files(['a.png']))


def test_images_need_a_encoder(model_dir):
    with pytest.raises(InputError, match='without an encoder'):
        Captioner.load(model_dir, images=False).caption('a.png')


@pytest.mark.skipif(not UNSEEN.is_dir(), reason='needs the embedded dataset')
def test_a_folder_of_images_through_the_small_encoder(demo_model, tmp_path):
    for path in sorted(UNSEEN.glob('*.png'))[:3]:
        shutil.copy(path, tmp_path)
    (tmp_path / '02a.png').write_bytes((tmp_path / '02.png').read_bytes()[:200])
    said = []
    captioner = Captioner.load(demo_model, say=said.append)
    results = list(captioner.caption(str(tmp_path)))
    assert said == [] and (captioner.extractor.encoder, captioner.extractor.preprocessing) == ('demo', 'demo')
    assert [pathlib.Path(r.path).name for r in results] == ['01.png', '02.png', '02a.png', '03.png']
    assert [bool(r.error) for r in results] == [False, False, True, False]
    features = captioner.extractor(np.stack([captioner.extractor.prepare(r.path) for r in results if not r.error]))
    expected = captioner.caption_features(features)
    for best, other in zip((r.captions for r in results if not r.error), expected, strict=True):
        assert best[0].log_prob == pytest.approx(other[0].log_prob, abs=1e-5)


# Where features came from

def test_unknown_provenance_is_said_in_one_line(unknown_model, tmp_path, monkeypatch):
    monkeypatch.setattr('chainer.dataset.download._dataset_root', str(tmp_path / 'nothing'))
    said = []
    with pytest.raises(InputError, match='no weights for vgg19'):
        Captioner.load(unknown_model, say=said.append)
    assert len(said) == 1 and '\n' not in said[0]
    assert said[0].startswith(f'{unknown_model}: ') and 'vgg19' in said[0] and 'karpathy' in said[0]
    said.clear()
    assert Captioner.load(unknown_model, **DEMO, say=said.append).extractor.encoder == 'demo'
    Captioner.load(unknown_model, images=False, say=said.append)
    assert said == []


@pytest.mark.parametrize('given', [{'encoder': 'vgg19'}, {'preprocessing': 'karpathy'},
                                   {'encoder': 'vgg19', 'preprocessing': 'karpathy'}], ids=str)
def test_known_and_different_is_refused(given, demo_model):
    with pytest.raises(InputError, match=f'^{demo_model}: learned from features of the ({"|".join(given)}) demo'):
        Captioner.load(demo_model, **given)
    assert Captioner.load(demo_model, **DEMO)


def test_a_network_of_another_size(model_dir):
    with pytest.raises(InputError, match='the encoder demo has features of 4096 numbers, but the model'):
        Captioner.load(model_dir, **DEMO)


def test_missing_weights(demo_model, tmp_path):
    with pytest.raises(InputError, match=f'^{tmp_path}/none.npz: no such file'):
        Captioner.load(demo_model, encoder_weights=tmp_path / 'none.npz')


@pytest.mark.gpu
def test_captions_of_the_gpu_are_those_of_the_cpu(model_dir, dataset_dir):
    dataset = Dataset(dataset_dir)
    cpu, gpu = (list(Captioner.load(model_dir, device, images=False).caption_dataset(dataset, 'test'))
                for device in ('@numpy', '@cupy:0'))
    for a, b in zip(cpu, gpu, strict=True):
        assert [c.tokens for c in a.captions] == [c.tokens for c in b.captions]
        np.testing.assert_allclose([c.log_prob for c in a.captions], [c.log_prob for c in b.captions], rtol=1e-4)
    assert Captioner.load(model_dir, chainer.get_device('@cupy:0'), images=False).bundle.model.device.xp is not np


@pytest.mark.gpu
def test_a_search_that_finds_no_room_on_the_gpu(model_dir, dataset_dir, room):
    captioner = Captioner.load(model_dir, '@cupy:0', images=False)
    room(2 ** 10)
    with pytest.raises(InputError, match=r'^-g 0: Out of memory .*; free some or lower --beam-width or leave out -g$'):
        list(captioner.caption_dataset(Dataset(dataset_dir), 'test'))
