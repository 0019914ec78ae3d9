"""Checkpoints of other programs as those programs write them, and their arithmetic, plainly, in double precision.

From the sources of karpathy/neuraltalk (`imagernn/lstm_generator.py`), ruotianluo/ImageCaptioning.pytorch
(`captioning/models/FCModel.py`, `AttModel.py`) and dsanno/chainer-image-caption (`src/net.py`).
"""
import argparse
import pickle

import chainer
import chainer.links as L
import numpy as np
from torch_writer import write_state_dict


def log_softmax(scores):
    return scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Original:
    """A model that other programs run: `start(feature)` and `step(state, word)`, which give the state and the
    log-probabilities of the next word, in the program's own numbers. Word 0 starts captions, `end` ends them."""
    end = 0

    def greedy(self, feature, longest):
        """The words of the greedy caption, its end among them unless it is cut, and their log-probabilities."""
        state, word, words, log_probs = self.start(feature), 0, [], []
        while len(words) < longest:
            state, scores = self.step(state, word)
            word = int(np.argmax(scores))
            words.append(word)
            log_probs.append(scores[word])
            if word == self.end:
                break
        return words, log_probs


class NeuralTalk(Original):
    def __init__(self, words, features=12, hidden=6, tanh=0, seed=0):
        rng = np.random.default_rng(seed)
        scale = {'We': 0.5, 'Ws': 1.5, 'WLSTM': 1, 'Wd': 2, 'be': 0.5, 'bd': 0.5}
        shapes = {'We': (features, hidden), 'be': (1, hidden), 'Ws': (len(words) + 1, hidden),
                  'WLSTM': (2 * hidden + 1, 4 * hidden), 'Wd': (hidden, len(words) + 1), 'bd': (1, len(words) + 1)}
        self.model = {name: scale[name] * rng.standard_normal(shape) for name, shape in shapes.items()}
        self.model['We'] = np.asfortranarray(self.model['We'])
        self.words, self.tanh = ['.', *words], tanh

    def start(self, feature):
        size = len(self.model['Wd'])
        x = feature.astype(float) @ self.model['We'] + self.model['be'][0]
        return self.tick(x, np.zeros(size), np.zeros(size))

    def step(self, state, word):
        h, c = self.tick(self.model['Ws'][word], *state)
        return (h, c), log_softmax(h @ self.model['Wd'] + self.model['bd'][0])

    def tick(self, x, h, c):
        d = len(h)
        gates = np.concatenate([[1], x, h]) @ self.model['WLSTM']
        i, f, o = sigmoid(gates[:d]), sigmoid(gates[d:2 * d]), sigmoid(gates[2 * d:3 * d])
        c = i * np.tanh(gates[3 * d:]) + f * c
        return o * (np.tanh(c) if self.tanh else c), c

    def checkpoint(self, **params):
        return {'it': 7, 'epoch': 0.5, 'model': self.model, 'perplexity': np.float64(21.5),
                'params': {'generator': 'lstm', 'dataset': 'flickr8k', 'hidden_size': len(self.model['Wd']),
                           'tanhC_version': self.tanh, 'drop_prob_encoder': 0.5, **params},
                'wordtoix': {**{word: i for i, word in enumerate(self.words) if i}, '#START#': 0},
                'ixtoword': dict(enumerate(self.words))}

    def write(self, folder, protocol=0, **params):
        path = folder / 'model_checkpoint.p'
        path.write_bytes(pickle.dumps(self.checkpoint(**params), protocol))
        return [path]


# Of the image's embedding and of the cell.
NAMES = {'fc': ('img_embed', 'core'), 'newfc': ('fc_embed', '_core')}


class FullyConnected(Original):
    """`fc` and `newfc`; the last word is UNK."""

    def __init__(self, words, features=12, embedding=5, hidden=6, kind='fc', seed=0):
        rng = np.random.default_rng(seed)
        image, core = NAMES[kind]
        count = len(words) + 2
        shapes = {f'{image}.weight': (embedding, features), f'{image}.bias': (embedding,),
                  'embed.weight': (count, embedding), 'logit.weight': (count, hidden), 'logit.bias': (count,),
                  f'{core}.i2h.weight': (5 * hidden, embedding), f'{core}.i2h.bias': (5 * hidden,),
                  f'{core}.h2h.weight': (5 * hidden, hidden), f'{core}.h2h.bias': (5 * hidden,)}
        self.tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        self.kind, self.words = kind, ['', *words, 'UNK']

    def __getitem__(self, name):
        return self.tensors[name].astype(float)

    def start(self, feature):
        image, core = NAMES[self.kind]
        size = self.tensors['logit.weight'].shape[1]
        x = self[f'{image}.weight'] @ feature.astype(float) + self[f'{image}.bias']
        return self.core(core, x, np.zeros(size), np.zeros(size))

    def step(self, state, word):
        h, c = self.core(NAMES[self.kind][1], self['embed.weight'][word], *state)
        return (h, c), log_softmax(self['logit.weight'] @ h + self['logit.bias'])

    def core(self, name, x, h, c):
        sums = self[f'{name}.i2h.weight'] @ x + self[f'{name}.i2h.bias'] + \
            self[f'{name}.h2h.weight'] @ h + self[f'{name}.h2h.bias']
        i, f, o, one, other = np.split(sums, 5)
        c = sigmoid(f) * c + sigmoid(i) * np.maximum(one, other)
        return sigmoid(o) * np.tanh(c), c

    def infos(self, **options):
        return {'iter': 9, 'epoch': 1, 'best_val_score': np.float64(0.9), 'split_ix': {'train': [3, 1, 2]},
                'opt': argparse.Namespace(caption_model=self.kind, rnn_type='lstm', num_layers=1, **options),
                'vocab': {str(i): word for i, word in enumerate(self.words) if i}}

    def write(self, folder, protocol=2, style='zip', **options):
        write_state_dict(folder / 'model.pth', self.tensors, style)
        (folder / 'infos_fc.pkl').write_bytes(pickle.dumps(self.infos(**options), protocol))
        return [folder / 'infos_fc.pkl', folder / 'model.pth']


class ChainOf2017(chainer.Chain, Original):
    end = 1

    def __init__(self, words, features=12, hidden=6, seed=0):
        super().__init__()
        self.words = ['<S>', '</S>', '<UNK>', *words]
        with self.init_scope():
            self.word_vec = L.EmbedID(len(self.words), hidden)
            self.image_vec = L.Linear(features, hidden)
            self.lstm = L.LSTM(hidden, hidden)
            self.out_word = L.Linear(hidden, len(self.words))
        rng = np.random.default_rng(seed)
        for param in self.params():
            param.array[...] = 1.5 * rng.standard_normal(param.shape)
        self.out_word.b.array[[0, 2]] = -100            # which its users never saw said

    def start(self, feature):
        size = self.out_word.W.shape[1]
        x = self.image_vec.W.array.astype(float) @ feature + self.image_vec.b.array
        return self.tick(x, np.zeros(size), np.zeros(size))

    def step(self, state, word):
        h, c = self.tick(self.word_vec.W.array[word].astype(float), *state)
        return (h, c), log_softmax(self.out_word.W.array.astype(float) @ h + self.out_word.b.array)

    def tick(self, x, h, c):
        gates = self.lstm.upward.W.array.astype(float) @ x + self.lstm.upward.b.array + \
            self.lstm.lateral.W.array.astype(float) @ h
        a, i, f, o = gates.reshape(-1, 4).T             # row 4 * unit + gate
        c = np.tanh(a) * sigmoid(i) + sigmoid(f) * c
        return np.tanh(c) * sigmoid(o), c

    def dataset(self):
        images = {split: {n: np.arange(n, dtype=np.int32) for n in range(3)} for split in ('train', 'val', 'test')}
        return {'images': images, 'sentences': {'train': {2: np.ones((2, 2), np.int32)}},
                'word_ids': {word: i for i, word in enumerate(self.words)}}

    def write(self, folder, protocol=2):
        chainer.serializers.save_hdf5(str(folder / 'caption_0003.model'), self)
        (folder / 'dataset.pkl').write_bytes(pickle.dumps(self.dataset(), protocol))
        return [folder / 'caption_0003.model', folder / 'dataset.pkl']
