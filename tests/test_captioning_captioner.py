"""Captioner: from images or features to captions, in order, as they are done, and only where they mean something."""
import io
import json
import pathlib
import shutil

import chainer
import numpy as np
import pytest
import threadpoolctl
from PIL import Image

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

    def search(decoder, features):
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
    with pytest.raises(InputError, match='features of 17 numbers, but the model was trained on 16'):
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


def test_paths_keep_their_order_and_repeats(fake, tmp_path):
    for name in ('folder/2.png', 'folder/10.png', 'b.png', 'a.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'')
    given = [tmp_path / 'b.png', str(tmp_path / 'a.png'), tmp_path / 'folder', tmp_path / 'b.png']
    expected = [str(tmp_path / name) for name in ('b.png', 'a.png', 'folder/10.png', 'folder/2.png', 'b.png')]
    assert [r.path for r in fake.caption(given)] == [r.path for r in fake.caption(iter(given))] == expected


@pytest.fixture(scope='module')
def unseen(demo_model):
    return Captioner.load(demo_model)


def scores(results):
    return [r.error or [round(c.log_prob, 4) for c in r.captions] for r in results]


@pytest.mark.parametrize('mode', ['RGB', 'L', 'P', 'RGBA', 'CMYK'])
def test_an_image_in_memory_is_captioned_as_its_file(mode, unseen, tmp_path):
    with Image.open(UNSEEN / '01.png') as opened:
        image = opened.convert('RGB').convert(mode)
    path = tmp_path / 'image.tiff'
    image.save(path)
    with open(path, 'rb') as f:
        given = [path, image, path.read_bytes(), io.BytesIO(path.read_bytes()), f, f, Image.open(path),
                 np.asarray(image.convert('RGB')) if mode != 'RGBA' else path, bytearray(path.read_bytes())]
        results = list(unseen.caption(given))
    assert scores(results) == scores(results[:1]) * len(given) and results[0].error is None
    assert [r.filename for r in results[1:7]] == ['image 2', 'image 3', 'image 4', *[str(path)] * 3]
    assert [r.path for r in results[1:7]] == [None] * 6


def test_arrays_of_one_image_and_of_several(unseen):
    one = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
    results = list(unseen.caption(one))
    assert [r.filename for r in results] == ['image 1', 'image 2', 'image 3']
    assert scores(results) == scores(unseen.caption(list(one))) == scores(unseen.caption([one[:2], one[2]]))
    assert scores(unseen.caption(one[1])) == scores(results)[1:2]
    assert scores(unseen.caption(one[:, ::-1, ::2])) != scores(results)


def test_a_pil_image_is_turned_by_its_exif_orientation_as_its_file(unseen, demo_model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(UNSEEN / '01.png') as image:
        image.convert('RGB').save(tmp_path / 'turned.png', exif=exif)
    for captioner in (unseen, Captioner.load(demo_model, honour_exif=False)):
        with Image.open(tmp_path / 'turned.png') as image:
            by_path, by_image = scores(captioner.caption([tmp_path / 'turned.png', image]))
        assert by_path == by_image


def test_a_damaged_image_in_memory_is_a_result_with_an_error(unseen):
    damaged = (UNSEEN / '01.png').read_bytes()[:300]
    results = list(unseen.caption([damaged, Image.open(io.BytesIO(damaged)), UNSEEN / '01.png', b'', b'no image']))
    assert [bool(r.error) for r in results] == [True, True, False, True, True]


@pytest.mark.parametrize(('images', 'named'), [
    (3, 'int'), (None, 'NoneType'), ([['a.png']], 'list'), ({'a.png': 1}, 'dict'), ([1.5], 'float'),
    (io.StringIO('a.png'), "mode 'rb'"), (['a.png', io.StringIO()], "mode 'rb'")])
def test_what_is_no_image_is_one_sentence(images, named, fake):
    with pytest.raises(TypeError, match=named) as caught:
        fake.caption(images)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('array', [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8),
                                   np.zeros((3, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_arrays_of_another_shape_or_type(array, fake):
    with pytest.raises(InputError, match=r'\(H, W, 3\) or \(N, H, W, 3\), RGB, of uint8; this is'):
        fake.caption([array])


def test_notices_are_warnings_of_the_logger(unknown_model, caplog):
    Captioner.load(unknown_model, encoder='demo')
    assert [(record.name, record.levelname) for record in caplog.records] == [('chainer_caption', 'WARNING')]


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


def test_images_need_an_encoder(model_dir):
    with pytest.raises(InputError, match='without an encoder'):
        Captioner.load(model_dir, images=False).caption('a.png')


@pytest.mark.skipif(not UNSEEN.is_dir(), reason='needs the embedded dataset')
def test_a_folder_of_images_through_the_small_encoder(demo_model, tmp_path):
    for path in sorted(UNSEEN.glob('*.png'))[:3]:
        shutil.copy(path, tmp_path)
    (tmp_path / '02a.png').write_bytes((tmp_path / '02.png').read_bytes()[:200])
    notices = []
    captioner = Captioner.load(demo_model, say=notices.append)
    results = list(captioner.caption(str(tmp_path)))
    assert notices == [] and (captioner.extractor.encoder, captioner.extractor.preprocessing) == ('demo', 'demo')
    assert [pathlib.Path(r.path).name for r in results] == ['01.png', '02.png', '02a.png', '03.png']
    assert [bool(r.error) for r in results] == [False, False, True, False]
    features = captioner.extractor(np.stack([captioner.extractor.prepare(r.path) for r in results if not r.error]))
    expected = captioner.caption_features(features)
    for best, other in zip((r.captions for r in results if not r.error), expected, strict=True):
        assert best[0].log_prob == pytest.approx(other[0].log_prob, abs=1e-5)


# Where features came from

def test_unknown_provenance_is_said_in_one_line(unknown_model, tmp_path, monkeypatch):
    monkeypatch.setattr('chainer.dataset.download._dataset_root', str(tmp_path / 'nothing'))
    notices = []
    with pytest.raises(InputError, match='no weights for vgg19'):
        Captioner.load(unknown_model, say=notices.append)
    assert len(notices) == 1 and '\n' not in notices[0]
    assert notices[0].startswith(f'{unknown_model}: ') and 'vgg19' in notices[0] and 'karpathy' in notices[0]
    notices.clear()
    assert Captioner.load(unknown_model, **DEMO, say=notices.append).extractor.encoder == 'demo'
    Captioner.load(unknown_model, images=False, say=notices.append)
    assert notices == []


@pytest.mark.parametrize('given', [{'encoder': 'vgg19'}, {'preprocessing': 'karpathy'},
                                   {'encoder': 'vgg19', 'preprocessing': 'karpathy'}], ids=str)
def test_known_and_different_is_refused(given, demo_model):
    with pytest.raises(InputError, match=f'^{next(iter(given))} .*: the model {demo_model} was trained on features of'):
        Captioner.load(demo_model, **given)
    assert Captioner.load(demo_model, **DEMO)


def test_an_encoder_of_another_size(model_dir):
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
