"""Every reader of untrusted files, each with valid files made by code and with a use of the result."""
import contextlib
import dataclasses
import functools
import io
import json
import os
import pathlib
import shutil
import struct
import zipfile

import chainer
import fuzz_inputs as inputs
import fuzz_onnx
import h5py
import numpy as np
import scipy.io
from checkpoint_files import ChainOf2017, FullyConnected, NeuralTalk
from conftest import read_image, write_dataset
from PIL import Image
from torch_writer import WRITERS, write_state_dict

from chainer_caption import Bundle, Dataset, Settings, Vocabulary, train
from chainer_caption.captioning.results import Caption, Result
from chainer_caption.captioning.resumable import CaptionFile, Images
from chainer_caption.data import building, record_provenance
from chainer_caption.data.building import extract_features
from chainer_caption.data.caption_parsers import read_caption_file
from chainer_caption.data.dataset import read_provenance
from chainer_caption.data.describe import describe
from chainer_caption.data.matrix import open_matrix
from chainer_caption.data.tokenization import tokenize_words
from chainer_caption.decoding import BeamSearch
from chainer_caption.evaluation.evaluator import Evaluator
from chainer_caption.features.encoders.vgg import VGG
from chainer_caption.features.preprocessing import PREPROCESSINGS
from chainer_caption.features.weights import load_weights
from chainer_caption.models import ShowAndTell
from chainer_caption.models.checkpoints import read_checkpoint
from chainer_caption.report.evaluation_page import score_tables, write_evaluation_page, write_image_scores
from chainer_caption.storage.archives import read_npz
from chainer_caption.storage.torch_files import read_state_dict
from chainer_caption.storage.unpack import unpack
from chainer_caption.training.snapshots import restore
from chainer_caption.training.trainer import make_trainer

ROWS = np.random.default_rng(0).random((7, 5)).astype(np.float32)
REBUILD = '_rebuild_tensor', '_rebuild_tensor_v2'
SETTINGS = Settings(epochs=2, batch_size=8, hidden=4, min_count=1)


@dataclasses.dataclass
class Reader:
    """A reader to be fuzzed.

    Attributes:
        seeds (list of bytes): Valid files.
        read (callable): Takes the path of a file, reads it and uses the result.
        make (callable or None): Takes a `random.Random` and the seeds and returns hostile bytes of the format, used
            beside those of `fuzz_inputs.mutate`.
        suffix (str): The suffix of the file's name.
        share (float): The share of the inputs, relative to other readers.
    """
    seeds: list
    read: object
    make: object = None
    suffix: str = ''
    share: float = 1


def readers(folder):
    """All readers by name; they work in `folder`."""
    place = pathlib.Path(folder)
    os.environ['XDG_CACHE_HOME'] = str(place / 'cache')
    dataset = write_dataset(place / 'dataset', 12, 5)
    model = place / 'model'
    train(Dataset(dataset), model, dataclasses.replace(SETTINGS, epochs=1))
    return {**_of_datasets(place, dataset), **_of_weights(place), **_of_models(place, dataset, model),
            **_of_checkpoints(place), **_of_captions(place, dataset), **_archives(place), **_images()}


def _bytes(save):
    stream = io.BytesIO()
    save(stream)
    return stream.getvalue()


def _mat73(**kwargs):
    stream = io.BytesIO()
    with h5py.File(stream, 'w', userblock_size=512, libver=kwargs.pop('libver', None)) as f:
        f.create_dataset('feats', data=ROWS, **kwargs)
    return stream.getvalue()


def _of_datasets(place, dataset):
    np.save(place / 'feats.npy', np.random.default_rng(1).random((12, 5)).astype(np.float32))
    data = (dataset / 'dataset.json').read_bytes()
    coco = json.loads(data)
    coco['images'] = [{**image, 'cocoid': 100 + i, 'filepath': 'val2014', 'sentids': [1]}
                      for i, image in enumerate(coco['images'][:4])]

    def use_dataset(path):
        opened = Dataset(dataset=path, features=place / 'feats.npy')
        describe(opened)
        for splits in (('train', 'restval'), ('test',)):
            opened.word_counts(*splits)

    def use_matrix(path):
        np.asarray(open_matrix(path, 7)).sum()

    mats = [_bytes(lambda f, c=c, d=d: scipy.io.savemat(f, {'a': 1.0, 'feats': ROWS.T.astype(d)}, do_compression=c))
            for c in (False, True) for d in 'fd']
    mats.append(_bytes(lambda f: scipy.io.savemat(f, {'feats': ROWS.T.astype('d')}, format='4')))
    mats.append(_bytes(lambda f: scipy.io.savemat(f, {'feats': {'a': [1, 'b']}, 's': np.array([[1, 'x']], object)})))
    hdf5 = [_mat73(), _mat73(chunks=(2, 5), compression='gzip', shuffle=True),
            _mat73(chunks=(2, 5), compression='gzip', fletcher32=True, libver='latest'),
            _mat73(chunks=(2, 5), maxshape=(None, 5), libver='latest')]
    arrays = [_bytes(lambda f, a=a: np.save(f, a)) for a in (ROWS, np.asfortranarray(ROWS), ROWS.astype('f2'),
                                                           ROWS.astype('>f8'), np.array([[1, 'a']], object))]
    archives = [_bytes(lambda f, save=save: save(f, feats=ROWS, other=np.arange(3)))
                for save in (np.savez, np.savez_compressed)]
    return {
        'dataset': Reader([data, json.dumps(coco).encode()], use_dataset, inputs.hostile_json, '.json', 1.5),
        'mat5': Reader(mats, use_matrix, inputs.mat5, share=0.35),
        'mat73': Reader(hdf5, use_matrix, share=0.35),
        'npy': Reader(arrays, use_matrix, lambda rng, seeds: inputs.npy(rng, ROWS.tobytes()), share=1.5),
        'npz': Reader(archives, use_matrix, inputs.npz, share=1.5),
        'sidecar': Reader([b'{"encoder": "vgg19", "preprocessing": "karpathy", "weights": null}'],
                          functools.partial(_use_sidecar, place), inputs.hostile_json),
        'cached captions': Reader(*_cached(place, dataset, 'captions.npz'), inputs.npz, '.npz'),
        'cached matrix': Reader(*_cached(place, dataset, 'features.npy'),
                                lambda rng, seeds: inputs.npy(rng, bytes(240)), '.npy'),
    }


def _use_sidecar(place, path):
    shutil.copyfile(path, place / 'm.npy.json')
    read_provenance(place / 'm.npy')
    record_provenance(place / 'm.npy', 'vgg16', 'karpathy')


def _cached(place, dataset, name):
    """A damaged cache entry is ignored, or usable."""
    copy = shutil.copytree(dataset, place / f'of {name}')
    (copy / 'vgg_feats.mat').unlink()
    np.save(copy / 'feats.npy', np.random.default_rng(1).random((12, 5)))      # float64, so that it is copied
    opened = Dataset(copy)
    kept = (place / 'cache').rglob(name)
    entry, seed = max((path.stat().st_mtime_ns, path, path.read_bytes()) for path in kept)[1:]

    def use(path):
        shutil.copyfile(path, entry)
        again = Dataset(copy)
        describe(again)
        assert again.features.shape == opened.features.shape or name == 'features.npy'
    return [seed], use


def _torch_file(folder, arrays, style, rebuild):
    write_state_dict(folder / 'seed.pth', {**arrays, 'counter': np.array(3), 'empty': arrays['classifier.0.bias'][:0]},
                     style, rebuild)
    return (folder / 'seed.pth').read_bytes()


def _use_torch_file(link, path):
    for stored in read_state_dict(path).values():
        stored.read()
    load_weights(link, path)


def _of_weights(folder):
    link = VGG((1, 1), 2, 5, 8)
    blobs = {name.strip('/'): np.random.default_rng(2).random(param.shape).astype(np.float32)
             for name, param in link.namedparams()}

    def tensors(names):
        header, body = {}, b''
        for name, array in names.items():
            header[name] = {'dtype': 'F32', 'shape': array.shape, 'data_offsets': [len(body), len(body) + array.nbytes]}
            body += array.tobytes()
        text = json.dumps(header).encode()
        return struct.pack('<Q', len(text)) + text + body

    def field(number, body):
        length, out = len(body), b''
        while length > 127:
            out, length = out + bytes([length & 127 | 128]), length >> 7
        return bytes([number << 3 & 127 | 2 | (128 if number > 15 else 0)]) + (b'\6' if number > 15 else b'') + \
            out + bytes([length]) + body

    def caffe(number, name_field, blob_field):
        out = b''
        for layer in sorted({name.split('/')[0] for name in blobs}):
            of = [blobs[f'{layer}/{part}'] for part in 'Wb']
            out += field(number, field(name_field, layer.encode()) + b''.join(
                field(blob_field, field(7, field(1, bytes(array.shape))) + field(5, array.tobytes())) for array in of))
        return out

    torch = {f'{theirs}.{part}': blobs[f'{ours}/{our_part}'] for theirs, ours in (
        ('features.0', 'conv1_1'), ('features.3', 'conv2_1'), ('classifier.0', 'fc6'), ('classifier.3', 'fc7'))
        for part, our_part in (('weight', 'W'), ('bias', 'b'))}
    archives = [_bytes(lambda f, save=save: save(f, **blobs)) for save in (np.savez, np.savez_compressed)]
    read = functools.partial(load_weights, link)
    return {'caffemodel': Reader([caffe(100, 1, 7)], read, inputs.caffemodel, '.caffemodel', 1.5),
            'safetensors': Reader([tensors(torch)], read, inputs.safetensors, '.safetensors', 1.5),
            **{f'torch {style}': Reader([_torch_file(folder, torch, style, rebuild) for rebuild in REBUILD],
                                        functools.partial(_use_torch_file, link), inputs.torch_file, '.pth', 1.5)
               for style in WRITERS},
            'encoder weights': Reader(archives, read, inputs.npz, '.npz'),
            'onnx': Reader(fuzz_onnx.onnx_seeds(folder), fuzz_onnx.use, fuzz_onnx.hostile, '.onnx'),
            'onnx settings': Reader(fuzz_onnx.SETTINGS, fuzz_onnx.use_settings, inputs.hostile_json, share=0.5)}


def _of_models(place, dataset, model):
    def part(name, make, share=1.0):
        copy = shutil.copytree(model, place / f'model of {name}')

        def read(path):
            shutil.copyfile(path, copy / name)
            _use_model(Bundle.load(copy))
        return Reader([(model / name).read_bytes()], read, make, share=share)

    opened = Dataset(dataset)
    out = place / 'resumed'

    def resume(path):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        before = Bundle.load(model)
        current = Bundle(before.model, before.vocabulary, None, {})
        trainer = make_trainer(opened, current, out, SETTINGS)
        arrays = read_npz(path)
        arrays.pop('checksum', None)                    # an attacker can write a valid checksum
        restore(arrays, trainer, path)
        trainer.run(show_loop_exception_msg=False)

    return {'config': part('config.json', inputs.hostile_json),
            'vocabulary': part('vocabulary.json', inputs.hostile_json),
            'model weights': part('weights.npz', inputs.npz),
            'snapshot': Reader([next(model.glob('snapshot-*.npz')).read_bytes()], resume, inputs.npz, share=0.3),
            'journal': _journal(place), 'extraction': _extraction(place)}


def _of_checkpoints(place):
    """Each file of each format, beside the others of its checkpoint."""
    words = ['b', 'a', 'naïve']
    originals = {'neuraltalk': NeuralTalk(words, 3, 2), 'fc': FullyConnected(words, 3, 2, 2),
                 'chainer': ChainOf2017(words, 3, 2)}
    found = {}
    for name, original in originals.items():
        folder = place / name
        folder.mkdir()
        for number, whole in enumerate(original.write(folder)):
            seeds = []
            for protocol in (0, 2):
                original.write(folder, protocol)
                seeds.append(whole.read_bytes())
            make = {'.p': inputs.pickled, '.pkl': inputs.pickled, '.pth': inputs.torch_file}.get(whole.suffix)
            found[f'{name} {whole.suffix}'] = Reader(seeds, functools.partial(
                _use_checkpoint, original.write(folder), number), make, whole.suffix, 0.35 if make is None else 1)
    return found


def _use_checkpoint(files, number, path):
    bundle = read_checkpoint([*files[:number], path, *files[number + 1:]])
    _use_model(bundle)
    decoder = bundle.model.decoder()
    with np.errstate(all='ignore'):                     # weights may be of any size
        state = decoder.start(np.ones((2, bundle.model.feature_size), np.float32))
        decoder.step(state, np.arange(2), np.zeros(2, int))


def _use_model(bundle):
    bundle.vocabulary.log_frequencies()
    bundle.vocabulary.decode(bundle.vocabulary.encode(['a', 'x']))


class _StandIn:
    """A stand-in for a captioner and for an extractor."""
    encoder = preprocessing = 'demo'
    device = chainer.get_device('@numpy')
    dim = 3

    def __init__(self):
        vocabulary = Vocabulary.from_counts({'a': 5}, 5)
        self.bundles, self.extractor = [Bundle(ShowAndTell(3, len(vocabulary), 2), vocabulary)], self
        self.identity = {'encoder': 'demo', 'weights': None}

    def search(self, search):
        return search or BeamSearch()

    def caption_files(self, paths, search, min_confidence=None):
        return (Result(path, path, captions=[Caption(['a'], -1.0, -0.5, True)]) for path in paths)

    def prepare(self, path):
        return np.zeros((3, 2, 2), np.float32)

    def __call__(self, batch):
        return np.ones((len(batch), 3), np.float32)


def _journal(place):
    captioner, paths = _StandIn(), []
    for i in range(33):
        paths.append(str(place / f'{i:02}.png'))
        Image.new('RGB', (2, 2)).save(paths[-1])
    output = place / 'captions.csv'
    captions = CaptionFile(Images(captioner, paths), output)
    list(captions.results())
    captions.__exit__()
    seed = (place / 'captions.csv.part').read_bytes()

    def read(path):
        shutil.copyfile(path, f'{output}.part')
        with CaptionFile(Images(captioner, paths), output) as again:
            list(again.results())
            again.finish('csv')
    return Reader([seed], read, _lines(inputs.hostile_json))


def _extraction(place):
    folder, output = place / 'images', place / 'extracted'
    folder.mkdir()
    for i in range(18):
        Image.new('RGB', (2, 2)).save(folder / f'{i:02}.png')
    extract_features(folder, output, _StandIn())
    record, matrix = (output / 'feats.npy.json').read_bytes(), (output / 'feats.npy').read_bytes()
    settings = json.loads(record)
    stamps = settings.pop('stamps')
    del settings['failed']
    stamps = [stamps[i:i + 16] for i in range(0, len(stamps), 16)]
    layout = building._digest(sorted(path.name for path in folder.iterdir()))[:16]
    rows = ({'of': layout, 'begin': True, 'rows': {}}, {'of': layout, 'rows': {i: (stamps[i],
        None) for i in range(16)}},
            {'of': layout, 'rows': {16: (stamps[16], None), 17: (stamps[17], 'x')}})
    part = output / f'feats.npy.{layout}.part'
    journal = b''.join(json.dumps(line).encode() + b'\n' for line in (settings, *rows))

    def read(path):
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        data = pathlib.Path(path).read_bytes()
        if data[:1] == b'\x93':
            (output / part.name).write_bytes(data)
            (output / 'feats.npy.part.jsonl').write_bytes(journal[:-1])
        elif b'failed' in data[:1000]:
            (output / 'feats.npy.json').write_bytes(data)
            (output / 'feats.npy').write_bytes(matrix)
        else:
            (output / 'feats.npy.part.jsonl').write_bytes(data)
            (output / part.name).write_bytes(matrix)
        extract_features(folder, output, _StandIn())
    by_line = _lines(inputs.hostile_json)
    return Reader([journal, record, matrix], read, lambda rng, seeds: by_line(rng, seeds[:1]) if rng.random() < 0.5
                  else inputs.hostile_json(rng, seeds[1:2]), share=0.5)


def _lines(make):
    """Turns a maker of JSON into one of JSON lines, some of them changed."""
    def made(rng, seeds):
        lines = rng.choice(seeds).splitlines(keepends=True)
        for _ in range(rng.choice((1, 1, 3))):
            i = rng.randrange(len(lines))
            lines[i] = make(rng, [json.dumps(json.loads(lines[i])).encode()]) + b'\n' * (rng.random() < 0.95)
            if rng.random() < 0.1:
                lines.insert(i, rng.choice(lines))
            if not all(map(_is_json, lines)):
                break
        return b''.join(lines)
    return made


def _is_json(line):
    try:
        json.loads(line)
        return True
    except (ValueError, RecursionError):
        return False


def _of_captions(place, dataset):
    evaluator = Evaluator(Dataset(dataset), 'test')
    names = [evaluator.dataset.captions.filenames[i] for i in evaluator.images]
    ids = evaluator.dataset.captions.image_ids[evaluator.images]
    lines = b''.join(json.dumps({'filename': name, 'image_id': int(i), 'captions': [
        {'caption': 'a red circle', 'tokens': ['a', 'red', 'circle'], 'finished': True}]}).encode() + b'\n'
        for name, i in zip(names, ids, strict=True))
    listed = json.dumps([{'image_id': int(i), 'caption': 'a red circle'} for i in ids]).encode()

    def score(path):
        evaluation = evaluator.evaluate_file(path)
        score_tables([evaluation])
        write_image_scores(io.StringIO(), [evaluation], names, ids)
        write_evaluation_page(io.StringIO(), [evaluation], names, evaluator.references, 'x', {}, place)

    def use(path):
        for name, described in read_caption_file(path).items():
            os.path.normpath(name)
            json.dumps([tokenize_words(caption) for caption in described.captions])

    sheet = b'filename,caption,split\n1.png,A dog.,train\n1.png,"Two\ndogs, here",train\n2.png,x,test\n'
    coco = json.dumps({'images': [{'id': 7, 'file_name': 'a.png'}, {'id': 8, 'file_name': 'b/c.png'}],
                       'annotations': [{'image_id': 7, 'id': 1, 'caption': 'A dog.'}, {'image_id': 8, 'caption': 'x'}]})

    karpathy = json.dumps({'images': [{
        'filepath': 'val2014', 'filename': 'a.png', 'split': 'restval', 'cocoid': 7, 'imgid': 0, 'sentids': [0],
        'sentences': [{'tokens': ['a', 'dog'], 'raw': 'A dog.', 'imgid': 0, 'sentid': 0}]}], 'dataset': 'coco'})
    metadata = (b'{"file_name": "a.png", "text": "A dog.", "split": "val"}\n'
                b'{"file_name": "b.png", "captions": ["x", "y"]}\n')
    flickr = b'a.png#0\tA dog .\na.png#1\tTwo dogs .\nb.png#0\tx\n'

    def use_sidecar(path):
        shutil.copyfile(path, place / 'of text' / 'a.txt')
        for described in read_caption_file(place / 'of text', ['a.png', 'b.png']).values():
            json.dumps([tokenize_words(caption) for caption in described.captions])
    (place / 'of text').mkdir()

    def make_predictions(rng, seeds):
        whole = rng.random() < 0.5
        return inputs.hostile_json(rng, seeds[1:]) if whole else _lines(inputs.hostile_json)(rng, seeds[:1])

    return {'predictions': Reader([lines, listed], score, make_predictions, share=1.2),
            'captions CSV': Reader([sheet], use, suffix='.csv', share=1.5),
            'captions COCO': Reader([coco.encode()], use, inputs.hostile_json, '.json', 1.5),
            'captions Karpathy': Reader([karpathy.encode()], use, inputs.hostile_json, '.json'),
            'captions metadata': Reader([metadata], use, _lines(inputs.hostile_json), '.jsonl'),
            'captions Flickr': Reader([flickr], use, suffix='.txt', share=0.5),
            'captions text': Reader([b'A dog.\nTwo dogs.\n'], use_sidecar, suffix='.txt', share=0.5)}


def _archives(place):
    names = {'flickr8k/dataset.json': b'{}', 'flickr8k/a/b.txt': b'x' * 99, '../outside': b'x', '/tmp/outside': b'x'}

    def zipped(*chosen):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, 'w', zipfile.ZIP_DEFLATED) as archive:
            for name in chosen:
                archive.writestr(name, names[name])
        return stream.getvalue()

    def use(path):
        folder = place / 'archive' / 'in'
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.parent.mkdir()
        with contextlib.suppress(OSError):              # names that are too long, or of a file and of a folder
            unpack(path, folder, strip=True)
        assert os.listdir(folder.parent) in ([], ['in'])
        assert not any(found.is_symlink() for found in folder.rglob('*'))
    first, second, *_ = names
    return {'archive': Reader([zipped(first, second), zipped(*names)], use, suffix='.zip', share=0.5)}


def _images():
    x, y = np.mgrid[:24, :32]
    image = Image.fromarray(np.stack([x * 10 % 256, y * 8, x * y % 256], 2).astype(np.uint8))
    modes = {mode: image.convert(mode) for mode in ('1', 'L', 'P', 'RGBA', 'CMYK', 'LA')}
    modes['I;16'] = Image.fromarray((x * 1000 + y).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010e] = 'x' * 30

    def saved(kind, *modes_and_options):
        return [_bytes(lambda f, mode=mode, options=options: modes.get(mode, image).save(f, kind, **options))
                for mode, options in modes_and_options]

    seeds = {
        'JPEG': saved('JPEG', (None, {'exif': exif}), (None, {'progressive': True}), ('L', {}), ('CMYK', {})),
        'PNG': saved('PNG', (None, {'exif': exif}), ('P', {'transparency': 3}), ('RGBA', {}), ('I;16', {}), ('1', {})),
        'GIF': saved('GIF', ('P', {}), ('P', {'save_all': True, 'append_images': [modes['L']], 'transparency': 1})),
        'WEBP': saved('WEBP', (None, {'exif': exif}), ('RGBA', {'lossless': True}),
                      (None, {'save_all': True, 'append_images': [image]})),
        'BMP': saved('BMP', (None, {}), ('P', {}), ('RGBA', {}), ('1', {})),
        'TIFF': saved('TIFF', (None, {}), (None, {'compression': 'tiff_lzw'}), ('L', {'compression': 'jpeg'}),
                      ('1', {'compression': 'group4'}), ('I;16', {'compression': 'tiff_adobe_deflate'})),
        'PPM': [*saved('PPM', (None, {}), ('1', {}), ('I;16', {})), b'P3 2 2 255 ' + b'1 2 3 ' * 4, b'P1 2 2 1 0 0 1'],
        'JPEG2000': saved('JPEG2000', (None, {}), (None, {'no_jp2': True}), ('RGBA', {'tile_size': (16, 16)})),
        'AVIF': saved('AVIF', (None, {'exif': exif}), ('RGBA', {})),
    }

    def read(path):
        array = read_image(path, max_pixels=1_000_000)
        assert array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8 and array.size <= 3_000_000
        if array[0, 0, 0] % 8 == 0:
            PREPROCESSINGS['karpathy'].prepare(array)
    return {kind: Reader(own, read, inputs.png if kind == 'PNG' else None, share=0.8) for kind, own in seeds.items()}
