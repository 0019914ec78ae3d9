"""The same weights give the same features in every file format, and those of Chainer's own VGG."""
import dataclasses
import errno
import mmap
import struct
import sys
import zipfile

import chainer
import numpy as np
import pytest
from chainer.links.model.vision import vgg as chainer_vgg
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from PIL import Image
from safetensors.numpy import load_file, save_file
from torch_writer import WRITERS, write_state_dict
from torch_writer import call as torch_call
from torch_writer import name as torch_name

from chainer_caption.errors import InputError
from chainer_caption.features.encoders import ENCODERS
from chainer_caption.features.encoders.vgg import VGG16, VGG19
from chainer_caption.features.extractor import Extractor
from chainer_caption.features.weights import find_weights, load_weights

NARROW = {'width': 4, 'units': 24, 'size': 32}
NETS = {'vgg16': VGG16, 'vgg19': VGG19}


def random_weights(link, seed=0):
    """Arrays for a link by name, scaled so that activations keep their size."""
    rng = np.random.default_rng(seed)
    return {name.lstrip('/'): rng.standard_normal(p.shape).astype(np.float32) *
            np.float32((2 / np.prod(p.shape[1:])) ** 0.5 if p.ndim > 1 else 0.1)
            for name, p in sorted(link.namedparams())}


def features(link, size=32):
    return features_of(link, np.random.default_rng(1).uniform(-100, 100, (2, 3, size, size)).astype(np.float32))


def features_of(link, x):
    with chainer.using_config('train', False), chainer.no_backprop_mode():
        return link(x).array


def caffe_messages():
    """The messages with weights in Caffe's caffe.proto, as classes of the protobuf library."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name='caffe_weights.proto', package='caffe', syntax='proto2')

    def message(message_name, **fields):
        described = file.message_type.add(name=message_name)
        for key, (number, kind, repeated) in fields.items():
            made = described.field.add(name=key, number=number, label=field.LABEL_REPEATED if repeated else
                                       field.LABEL_OPTIONAL)
            if isinstance(kind, str):
                made.type, made.type_name = field.TYPE_MESSAGE, '.caffe.' + kind
            else:
                made.type = kind
                made.options.packed = repeated and kind != field.TYPE_STRING

    message('BlobShape', dim=(1, field.TYPE_INT64, True))
    message('BlobProto', num=(1, field.TYPE_INT32, False), channels=(2, field.TYPE_INT32, False),
            height=(3, field.TYPE_INT32, False), width=(4, field.TYPE_INT32, False), data=(5, field.TYPE_FLOAT, True),
            diff=(6, field.TYPE_FLOAT, True), shape=(7, 'BlobShape', False), double_data=(8, field.TYPE_DOUBLE, True))
    message('V1LayerParameter', bottom=(2, field.TYPE_STRING, True), top=(3, field.TYPE_STRING, True),
            name=(4, field.TYPE_STRING, False), type=(5, field.TYPE_INT32, False), blobs=(6, 'BlobProto', True),
            blobs_lr=(7, field.TYPE_FLOAT, True))
    message('LayerParameter', name=(1, field.TYPE_STRING, False), type=(2, field.TYPE_STRING, False),
            bottom=(3, field.TYPE_STRING, True), loss_weight=(5, field.TYPE_FLOAT, True),
            blobs=(7, 'BlobProto', True))
    message('NetParameter', name=(1, field.TYPE_STRING, False), layers=(2, 'V1LayerParameter', True),
            input=(3, field.TYPE_STRING, True), layer=(100, 'LayerParameter', True))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName('caffe.NetParameter'))


def write_caffemodel(path, weights, style):
    net = caffe_messages()(name='VGG', input=['data'])
    layers = net.layers if style == 'V1LayerParameter' else net.layer
    for name in dict.fromkeys(key.split('/')[0] for key in weights):
        layer = layers.add(name=name, bottom=['before'])
        for part in 'Wb':
            array = weights[f'{name}/{part}']
            if style == 'V1LayerParameter':             # all arrays have four dimensions, counted from the last
                blob = layer.blobs.add(**dict(zip(('num', 'channels', 'height', 'width'),
                                                  (1,) * (4 - array.ndim) + array.shape, strict=True)))
            else:
                blob = layer.blobs.add()
                blob.shape.dim.extend(array.shape)
            (blob.double_data if style == 'double' else blob.data).extend(array.ravel().tolist())
        layers.add(name='relu of ' + name, bottom=[name])
    path.write_bytes(net.SerializeToString())


def write_of_torch(path, weights, style):
    """With the numbering that torchvision documents: convolutions, their ReLUs and the poolings between blocks."""
    fc6, fc7 = ('pre_logits.fc1', 'pre_logits.fc2') if style == 'timm' else ('classifier.0', 'classifier.3')
    names, number, block = {'fc6': fc6, 'fc7': fc7}, 0, '1'
    for name in sorted({key.split('/')[0] for key in weights if key.startswith('conv')}):
        number += name[4] != block
        block = name[4]
        names[name] = f'features.{number}'
        number += 2
    arrays = {}
    for key, array in weights.items():
        name, part = key.split('/')
        if name in names:
            as_convolution = style == 'timm' and name.startswith('fc') and part == 'W'
            arrays[f'{names[name]}.{"weight" if part == "W" else "bias"}'] = (
                array[:, :, None, None] if as_convolution else array)
    arrays['head.fc.weight'] = np.zeros((10, 24), np.float32)
    if path.suffix == '.safetensors':
        save_file(arrays, path)
    else:
        write_state_dict(path, arrays, 'old', '_rebuild_tensor')


@pytest.mark.parametrize('encoder', NETS)
def test_every_format_gives_the_same_features(tmp_path, encoder):
    net = NETS[encoder]
    weights = random_weights(net(**NARROW))
    with_fc8 = {**weights, 'fc8/W': np.zeros((10, 24), np.float32), 'fc8/b': np.zeros(10, np.float32)}
    np.savez(tmp_path / 'plain.npz', **weights)
    np.savez_compressed(tmp_path / 'compressed.npz', **with_fc8)
    for style in ('V1LayerParameter', 'LayerParameter', 'double'):
        write_caffemodel(tmp_path / f'{style}.caffemodel', with_fc8, style)
    for style in ('torchvision', 'timm'):
        for suffix in ('.safetensors', '.pth'):
            write_of_torch(tmp_path / f'{style}{suffix}', with_fc8, style)
    expected = None
    for path in sorted(tmp_path.iterdir()):
        link = net(**NARROW)
        wanted = load_weights(link, path)
        assert wanted == ('torchvision' if path.suffix in ('.safetensors', '.pth') else None)
        got = features(link)
        expected = got if expected is None else expected
        assert got.std() > 0.1
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('encoder', NETS)
def test_features_equal_chainers_link(monkeypatch, encoder):
    # Chainer's link with its widths scaled down, to be fast
    monkeypatch.setattr(chainer_vgg, 'Convolution2D', lambda c, n, *args, **kwargs: chainer.links.Convolution2D(
        c if c == 3 else c // 16, n // 16, *args, **kwargs))
    monkeypatch.setattr(chainer_vgg, 'Linear', lambda c, n, **kwargs: chainer.links.Linear(
        32 if c == 512 * 7 * 7 else 24, 24, **kwargs))
    theirs = {'vgg16': chainer_vgg.VGG16Layers, 'vgg19': chainer_vgg.VGG19Layers}[encoder](pretrained_model=None)
    ours = NETS[encoder](**NARROW)
    weights = random_weights(ours)
    for name, param in ours.namedparams():
        param.array[...] = weights[name[1:]]
    for name, param in theirs.namedparams():
        if 'fc8' not in name:
            param.array[...] = weights[name[1:]]
    x = np.random.default_rng(1).uniform(-100, 100, (2, 3, 32, 32)).astype(np.float32)
    with chainer.using_config('train', False), chainer.no_backprop_mode():
        expected = theirs(x, layers=['fc7'])['fc7'].array
    np.testing.assert_allclose(features(ours), expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(ours.inference()(x), expected, rtol=1e-5, atol=1e-5 * expected.max())


@pytest.mark.parametrize(('encoder', 'theirs', 'size'), [('resnet101', chainer.links.ResNet101Layers, 64),
                                                           ('googlenet', chainer.links.GoogLeNet, 224)])
def test_caffe_encoders_equal_chainers(encoder, theirs, size, tmp_path):
    theirs, rng = theirs(pretrained_model=None), np.random.default_rng(0)
    for link in theirs.links():
        if isinstance(link, chainer.links.BatchNormalization):
            link.avg_mean[...] = rng.standard_normal(link.avg_mean.shape)
            link.avg_var[...] = rng.uniform(5, 9, link.avg_var.shape)
    state = chainer.serializers.DictionarySerializer()
    state.save(theirs)
    np.savez(tmp_path / 'a.npz', **state.target)        # as Chainer's save_npz, which would compress it for a minute
    ours = ENCODERS[encoder].link()
    load_weights(ours, tmp_path / 'a.npz')
    x = rng.uniform(-100, 100, (2, 3, size, size)).astype(np.float32)
    with chainer.using_config('train', False), chainer.no_backprop_mode():
        expected = theirs(x, layers=['pool5'])['pool5'].array.reshape(2, -1)
    got = features_of(ours, x)
    assert got.shape == (2, ENCODERS[encoder].dim) and got.std() > 0
    np.testing.assert_array_equal(got, expected)


def test_full_size_shapes():
    shapes = {name: p.shape for name, p in VGG19(units=8).namedparams()}
    assert shapes['/conv1_1/W'] == (64, 3, 3, 3)
    assert shapes['/conv5_4/W'] == (512, 512, 3, 3)
    assert shapes['/fc6/W'] == (8, 512 * 7 * 7)
    assert shapes['/fc7/W'] == (8, 8)


@pytest.fixture
def link():
    return VGG16(**NARROW)


def refusal(link, path):
    with pytest.raises(InputError) as caught:
        load_weights(link, path)
    assert str(path) in str(caught.value)
    assert '\n' not in str(caught.value)
    return str(caught.value)


def test_weights_of_another_encoder_are_refused(tmp_path, link):
    weights = random_weights(VGG19(**NARROW))
    np.savez(tmp_path / 'a.npz', **{**weights, 'conv2_1/W': np.zeros((8, 4, 5, 5), np.float32)})
    assert 'conv2_1/W has shape (8, 4, 5, 5) where (8, 4, 3, 3) is wanted' in refusal(link, tmp_path / 'a.npz')
    write_of_torch(tmp_path / 'a.safetensors', weights, 'timm')
    assert 'another encoder' in refusal(link, tmp_path / 'a.safetensors')
    write_caffemodel(tmp_path / 'a.caffemodel', random_weights(link), 'LayerParameter')
    assert 'has no conv3_4/W' in refusal(VGG19(**NARROW), tmp_path / 'a.caffemodel')
    assert not any(p.array.any() for p in link.params())


def test_pickles_and_false_sizes_are_refused(tmp_path, link):
    np.savez(tmp_path / 'a.npz', **{**random_weights(link), 'fc7/b': np.array([print], object)})
    assert 'pickle' in refusal(link, tmp_path / 'a.npz')
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (100000, 100000, 100), }".ljust(117) + b'\n'
    huge = b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header
    np.savez(tmp_path / 'a.npz', **{k: v for k, v in random_weights(link).items() if k != 'fc6/W'})
    with zipfile.ZipFile(tmp_path / 'a.npz', 'a') as archive:
        archive.writestr('fc6/W.npy', huge)
    assert 'fc6/W has not the bytes for its shape (100000, 100000, 100)' in refusal(link, tmp_path / 'a.npz')


@pytest.mark.parametrize('suffix', ['.npz', '.caffemodel', '.safetensors', '.pth'])
def test_damaged_files(tmp_path, link, suffix):
    path = tmp_path / f'a{suffix}'
    assert 'no such file' in refusal(link, path)
    weights = random_weights(link)
    {'.npz': lambda: np.savez(path, **weights),
     '.caffemodel': lambda: write_caffemodel(path, weights, 'V1LayerParameter'),
     '.safetensors': lambda: write_of_torch(path, weights, 'torchvision'),
     '.pth': lambda: write_of_torch(path, weights, 'torchvision')}[suffix]()
    whole = path.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refusal(link, path)
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    refusal(link, path)
    rng = np.random.default_rng(0)
    for _ in range(30):                                 # it loads or is refused
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(0, 2000, 20)] = rng.integers(0, 256, 20)
        path.write_bytes(damaged.tobytes())
        try:
            load_weights(link, path)
        except InputError as e:
            assert '\n' not in str(e)


@pytest.mark.parametrize(('name', 'prefix', 'key'), [
    ('a.pth', 'module.', None), ('a.pth.tar', 'module.', 'state_dict'), ('a.pt', '', 'model_state_dict'),
    ('a.pth', '_orig_mod.module.', 'model'), ('a.pth', 'module.encoder.', 'net')])
@pytest.mark.parametrize('style', WRITERS)
def test_checkpoints_of_pytorch(tmp_path, link, name, prefix, key, style):
    weights = random_weights(link)
    write_of_torch(tmp_path / 'plain.safetensors', weights, 'torchvision')
    load_weights(link, tmp_path / 'plain.safetensors')
    state = {prefix + key: array for key, array in load_file(tmp_path / 'plain.safetensors').items()}
    write_state_dict(tmp_path / name, state, style, within=key)
    again = VGG16(**NARROW)
    assert load_weights(again, tmp_path / name) == 'torchvision'
    np.testing.assert_array_equal(features(again), features(link))


def test_a_whole_model_is_refused_with_the_reason(tmp_path, link):
    model = torch_call(torch_name('torch.nn.parallel.data_parallel', 'DataParallel'))
    WRITERS['zip'](tmp_path / 'a.pth', model, {})
    assert 'holds a Python object (torch.nn.parallel.data_parallel.DataParallel), such as a whole model' in refusal(
        link, tmp_path / 'a.pth')
    (tmp_path / 'b.tar').write_bytes(b'nothing')
    assert 'not a sound file of PyTorch' in refusal(link, tmp_path / 'b.tar')


def test_weights_are_not_mapped(tmp_path, link, monkeypatch):
    weights = random_weights(link)
    write_of_torch(tmp_path / 'a.safetensors', weights, 'torchvision')
    write_caffemodel(tmp_path / 'a.caffemodel', weights, 'LayerParameter')

    def refuse(*args, **kwargs):
        raise OSError(errno.ENODEV, 'No such device')

    monkeypatch.setattr(mmap, 'mmap', refuse)           # as on a file system that cannot map files
    monkeypatch.setitem(sys.modules, 'safetensors', None)                   # whose library maps them, too
    for name in ('a.safetensors', 'a.caffemodel'):
        load_weights(link, tmp_path / name)


def test_unknown_format(tmp_path, link):
    (tmp_path / 'a.h5').touch()
    assert '.npz, .caffemodel, .pth or .safetensors' in refusal(link, tmp_path / 'a.h5')


def test_weights_in_the_folder_of_chainers_models(tmp_path, monkeypatch):
    monkeypatch.setattr(chainer.dataset.download, '_dataset_root', str(tmp_path))
    with pytest.raises(InputError) as caught:
        find_weights(ENCODERS['vgg19'])
    for part in ('https://', '575 MB', str(tmp_path / 'pfnet' / 'chainer' / 'models')):
        assert part in str(caught.value)
    assert not (tmp_path / 'pfnet').exists()
    with pytest.raises(InputError, match=r'elsewhere\.npz: no such file; .*575 MB'):
        find_weights(ENCODERS['vgg19'], 'elsewhere.npz')
    folder = tmp_path / 'pfnet' / 'chainer' / 'models'
    folder.mkdir(parents=True)
    for name in ('VGG_ILSVRC_19_layers.caffemodel', 'VGG_ILSVRC_19_layers.npz'):
        (folder / name).touch()
        assert find_weights(ENCODERS['vgg19']) == str(folder / name)


@pytest.fixture
def narrow_vgg19(monkeypatch):
    narrow = dataclasses.replace(ENCODERS['vgg19'], link=lambda: VGG19(width=1, units=24), dim=24)
    monkeypatch.setitem(ENCODERS, 'vgg19', narrow)
    return random_weights(narrow.link())


def test_extractor(tmp_path, narrow_vgg19):
    np.savez(tmp_path / 'a.npz', **narrow_vgg19)
    write_of_torch(tmp_path / 'a.safetensors', narrow_vgg19, 'torchvision')
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)).save(tmp_path / 'a.png')
    extractor = Extractor.load(weights=tmp_path / 'a.npz')
    assert (extractor.encoder, extractor.preprocessing, extractor.dim) == ('vgg19', 'karpathy', 24)
    batch = extractor.prepare(tmp_path / 'a.png')[None]
    assert batch.shape == (1, 3, 224, 224)
    assert batch.dtype == np.float32
    got = extractor(batch)
    assert isinstance(got, np.ndarray)
    assert got.shape == (1, 24)
    assert got.dtype == np.float32
    assert got.min() == 0 < got.max()
    assert Extractor.load(weights=tmp_path / 'a.safetensors').preprocessing == 'torchvision'
    assert Extractor.load(weights=tmp_path / 'a.safetensors', preprocessing='seed').preprocessing == 'seed'
    with pytest.raises(InputError, match='preprocessing demo gives 96 x 96 pixels, and vgg19 takes 224 x 224'):
        Extractor.load(weights=tmp_path / 'a.npz', preprocessing='demo')
    with pytest.raises(InputError, match="unknown encoder 'vgg18': it is one of vgg19, vgg16"):
        Extractor.load('vgg18')
    with pytest.raises(InputError, match="unknown preprocessing 'x'"):
        Extractor.load(weights=tmp_path / 'a.npz', preprocessing='x')
