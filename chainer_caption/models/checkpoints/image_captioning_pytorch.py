"""ruotianluo/ImageCaptioning.pytorch, the models `fc` and `newfc`: a state dict, and the pickled infos with the words.
Word 0 begins captions and ends them; `UNK` stands for unknown words."""
import functools

from chainer_caption.errors import InputError
from chainer_caption.models.bundle import Bundle
from chainer_caption.models.checkpoints.parts import make_bundle, named, read_arrays, word_list
from chainer_caption.models.imported import Imported
from chainer_caption.storage.pickle_files import PickledNamespace, read_pickle_file
from chainer_caption.storage.torch_files import read_state_dict

NAME = 'ruotianluo/ImageCaptioning.pytorch'
FILES = 'torch', 'pickle'
DESCRIPTION = 'the model.pth and the infos.pkl'

# By its `caption_model`, what it calls the embedding of the image and the cell.
_NAMES = {'fc': ('img_embed', 'core'), 'newfc': ('fc_embed', '_core')}

# Its features: Caffe's ResNet-101, of images at their own size.
_FEATURE_SIZE, _PROVENANCE = 2048, {'encoder': 'resnet101', 'preprocessing': 'whole'}


def _shapes(image, core, feature_size, embedding, words, hidden):
    # Blocks i, f, o, and the two candidates.
    return {f'{image}.weight': (embedding, feature_size), f'{image}.bias': (embedding,),
            'embed.weight': (words, embedding), f'{core}.i2h.weight': (5 * hidden, embedding),
            f'{core}.i2h.bias': (5 * hidden,), f'{core}.h2h.weight': (5 * hidden, hidden),
            f'{core}.h2h.bias': (5 * hidden,), 'logit.weight': (words, hidden), 'logit.bias': (words,)}


def read(path: str, infos: str) -> Bundle:
    """The model, with an Imported."""
    value = read_pickle_file(infos)
    options, words = (value.get(name) for name in ('opt', 'vocab')) if isinstance(value, dict) else (None, None)
    if not isinstance(options, PickledNamespace) or not isinstance(words, dict):
        raise InputError(f'{infos}: a pickle without opt and vocab; it should be the infos saved with the model')
    kind = options.values.get('caption_model')
    if kind not in [*_NAMES]:
        raise InputError(f'{infos}: its caption_model is {named(kind)}; of those of ImageCaptioning.pytorch only '
                         f'{" and ".join(_NAMES)} can be imported')
    image, core = _NAMES[kind]
    sizes, arrays = read_arrays(path, read_state_dict(path), {
        'feature_size': (f'{image}.weight', 1), 'embedding': (f'{image}.weight', 0), 'words': ('embed.weight', 0),
        'hidden': ('logit.weight', 1)}, functools.partial(_shapes, image, core))
    count = sizes.pop('words')
    numbers = {str(i): i for i in range(1, count)}
    words = word_list(infos, {0: '', **{numbers.get(i, i): word for i, word in words.items()}}, count)
    unknown = words.index('UNK') if 'UNK' in words else None
    arrays = {'word_vec/W': arrays['embed.weight'], 'image_vec/W': arrays[f'{image}.weight'],
              'image_vec/b': arrays[f'{image}.bias'], 'upward/W': arrays[f'{core}.i2h.weight'],
              'upward/b': arrays[f'{core}.i2h.bias'] + arrays[f'{core}.h2h.bias'],
              'lateral/W': arrays[f'{core}.h2h.weight'], 'out_word/W': arrays['logit.weight'],
              'out_word/b': arrays['logit.bias']}
    bundle = make_bundle(infos, words, (0, None, unknown), (None, 0, unknown), Imported,
                         {**sizes, 'cell': 'lstm_maxout'}, arrays)
    bundle.provenance = dict(_PROVENANCE) if sizes['feature_size'] == _FEATURE_SIZE else None
    return bundle
