"""Other programs' checkpoints say here what they say there."""
import json
import pathlib
import pickle

import chainer
import numpy as np
import pytest
from checkpoint_files import ChainOf2017, FullyConnected, NeuralTalk
from conftest import COLOURS, SHAPES

from chainer_caption import Bundle, Captioner, Dataset, InputError
from chainer_caption.data.vocabulary import BOS, EOS
from chainer_caption.decoding import BeamSearch, DiverseBeamSearch, Sampling
from chainer_caption.models import Imported, ShowAndTell
from chainer_caption.models.checkpoints import read_checkpoint
from chainer_caption.storage.files import read_json

UNSEEN = pathlib.Path(__file__).resolve().parents[1] / 'features' / 'demo' / 'unseen'

# In no order, one beyond ASCII, one beyond Latin, and one that is the end's own name in neuraltalk.
WORDS = ['the', 'zebra', 'a', *COLOURS, 'Überzieher', *SHAPES, '.', 'of', 'there', '犬', 'is']

# With seeds that have them say some words, and end some captions.
PROVENANCEALS = {
    'neuraltalk': (NeuralTalk, {'seed': 5}), 'neuraltalk, tanh': (NeuralTalk, {'tanh': 1, 'seed': 5}),
    'fc': (FullyConnected, {'seed': 7}), 'newfc': (FullyConnected, {'kind': 'newfc', 'seed': 7}),
    'chainer': (ChainOf2017, {'seed': 11})}

FILES = [('neuraltalk', {'protocol': 0}), ('neuraltalk', {'protocol': 2}), ('neuraltalk, tanh', {'protocol': 2}),
         ('fc', {'protocol': 0, 'style': 'zip'}), ('newfc', {'protocol': 2, 'style': 'old'}),
         ('chainer', {'protocol': 2})]


def original_of(name, **kwargs):
    kind, options = PROVENANCEALS[name]
    return kind(WORDS, **{**options, **kwargs})


def features(images, size=12, seed=5):
    return np.random.default_rng(seed).standard_normal((images, size), np.float32)


def ours(original, number):
    """A word as our vocabulary has it."""
    word = original.words[number]
    return '<UNK>' if word == 'UNK' else word


@pytest.mark.parametrize('name, options', FILES, ids=str)
def test_greedy_captions_and_log_probabilities_are_the_originals(name, options, tmp_path):
    original, x = original_of(name), features(12)
    bundle = read_checkpoint(original.write(tmp_path, **options))
    bundle.save(tmp_path / 'model')
    captioner = Captioner.load(tmp_path / 'model', images=False)
    assert captioner.bundle.vocabulary.words[3:] == sorted(WORDS)
    said, finished = set(), 0
    found = captioner.caption_features(x, width=1, max_length=20, allow_unk=True)
    for feature, (caption,) in zip(x, found, strict=True):
        words, log_probs = original.greedy(feature, 20)
        assert caption.finished == (words[-1] == original.end)
        assert caption.tokens == [ours(original, word) for word in words[:len(words) - caption.finished]]
        assert caption.log_prob == pytest.approx(sum(log_probs), abs=1e-5 * len(words))
        said.update(caption.tokens)
        finished += caption.finished
    assert len(said) > 2 and finished > 3


@pytest.mark.parametrize('name', PROVENANCEALS)
def test_every_word_has_the_originals_log_probability(name, tmp_path):
    """Word by word, for hypotheses that are followed and mixed as a search does."""
    original, x = original_of(name, seed=3), features(3)
    bundle = read_checkpoint(original.write(tmp_path))
    vocabulary, decoder = bundle.vocabulary, bundle.model.decoder()
    theirs = [i for i in range(len(original.words)) if i != original.end]
    numbers = [EOS, *(vocabulary.words.index(ours(original, i)) for i in theirs)]
    theirs = [original.end, *theirs]
    state, states = decoder.start(x), [original.start(feature) for feature in x]
    parents, read, rng = np.arange(3), [(BOS, 0)] * 3, np.random.default_rng(0)
    for _ in range(6):
        state, scores = decoder.step(state, parents, np.array([number for number, _ in read]))
        scores = scores.astype(float) + decoder.bias
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        found = [original.step(states[parent], word) for parent, (_, word) in zip(parents, read, strict=True)]
        for row, (_, expected) in zip(scores, found, strict=True):
            np.testing.assert_allclose(row[numbers], expected[theirs], rtol=0, atol=1e-5)
            assert np.exp(np.delete(row, numbers)).sum() == 0, 'what is never said has no probability'
        states = [state for state, _ in found]
        parents = rng.integers(0, 3, 4)
        read = [(numbers[i], theirs[i]) for i in rng.integers(1, len(numbers), 4)]


def test_searches_need_to_know_nothing(tmp_path):
    bundle = read_checkpoint(original_of('neuraltalk').write(tmp_path))
    captioner = Captioner(bundle)
    for search in (BeamSearch(), BeamSearch(allow_unk=True), DiverseBeamSearch(beam_groups=5, allow_unk=True),
                   Sampling(top=20, temperature=3, allow_unk=True)):
        for captions in captioner.caption_features(features(8), search):
            assert captions and all(not {'<S>', '</S>', '<UNK>'} & {*caption.tokens} for caption in captions)
    best, = captioner.caption_features(features(1), top=1)
    greedy, = captioner.caption_features(features(1), width=1)
    assert best[0].log_prob >= greedy[0].log_prob


def test_models_whose_words_stood_in_another_order_caption_together(tmp_path):
    first, second = NeuralTalk(WORDS, seed=1), NeuralTalk(WORDS[::-1], seed=2)
    for original, name in ((first, 'a'), (second, 'b')):
        (tmp_path / name).mkdir()
        read_checkpoint(original.write(tmp_path / name)).save(tmp_path / name / 'model')
    captioner = Captioner.load([tmp_path / 'a' / 'model', tmp_path / 'b' / 'model'], images=False)
    feature, = features(1)
    (caption, *_), = captioner.caption_features(feature[None])
    probabilities = []
    for original in (first, second):
        numbers = [original.words.index(word, 1) for word in caption.tokens]
        state, found = original.start(feature), []
        for word, following in zip([0, *numbers], [*numbers, 0], strict=True):
            state, log_probs = original.step(state, word)
            found.append(np.exp(log_probs[following]))
        probabilities.append(found)
    assert caption.log_prob == pytest.approx(np.log(np.mean(probabilities, axis=0)).sum(), abs=1e-5)


def test_the_model_directory_says_what_it_is(tmp_path):
    for name, expected in (
            ('neuraltalk', {'model': 'imported', 'cell': 'lstm_linear_output', 'unsaid': ['<S>', '<UNK>']}),
            ('neuraltalk, tanh', {'model': 'imported', 'cell': 'lstm', 'unsaid': ['<S>', '<UNK>']}),
            ('newfc', {'model': 'imported', 'cell': 'lstm_maxout', 'unsaid': ['<S>'], 'embedding': 5}),
            ('chainer', {'model': 'show_and_tell', 'hidden': 6, 'features': None})):
        read_checkpoint(original_of(name).write(tmp_path)).save(tmp_path / 'model')
        config = read_json(tmp_path / 'model' / 'config.json')
        assert {key: config[key] for key in expected} == expected
        assert read_json(tmp_path / 'model' / 'vocabulary.json')['words'] == ['<S>', '</S>', '<UNK>', *sorted(WORDS)]
        again = Bundle.load(tmp_path / 'model')
        assert type(again.model) is (ShowAndTell if name == 'chainer' else Imported)
        again.save(tmp_path / 'again')
        for file in ('config.json', 'vocabulary.json', 'weights.npz'):
            assert (tmp_path / 'again' / file).read_bytes() == (tmp_path / 'model' / file).read_bytes()


def test_whose_features_it_learned_from(tmp_path):
    whole = {'encoder': 'resnet101', 'preprocessing': 'whole'}
    declared = {'encoder': 'vgg16', 'preprocessing': 'karpathy'}
    for original, provenance, expected in (
            (FullyConnected(WORDS, features=2048), None, whole),
            (FullyConnected(WORDS, features=2048), declared, declared), (FullyConnected(WORDS), None, None),
            (NeuralTalk(WORDS), None, None), (NeuralTalk(WORDS), declared, declared)):
        assert read_checkpoint(original.write(tmp_path), provenance).provenance == expected


def test_images_whose_features_are_not_made_here(refused, call, tmp_path):
    bundle = read_checkpoint(FullyConnected(WORDS, features=2048).write(tmp_path))
    bundle.provenance = {'encoder': 'bottom_up', 'preprocessing': 'regions'}
    bundle.save(tmp_path / 'model')
    message = refused('generate', '-m', tmp_path / 'model', UNSEEN / '01.png')
    assert 'trained on features of bottom_up with the preprocessing regions, which cannot be computed here' in message
    np.save(tmp_path / 'feats.npy', features(1, 2048))
    (tmp_path / 'dataset.json').write_text('{"images": [{"filename": "1.png", "imgid": 0, "split": "test", '
                                           '"sentences": [{"tokens": ["a"]}]}]}')
    status, out, err = call('generate', '-m', tmp_path / 'model', '--dataset', tmp_path, '--top', '1')
    assert (status, err) == (0, '') and out.startswith('# 1.png\n')


@pytest.mark.parametrize('changes', [
    {'cell': 'gru'}, {'cell': None}, {'cell': ['lstm']}, {'unsaid': ['a']}, {'unsaid': None}, {'unsaid': [[]]},
    {'embedding': 0}, {'embedding': 7}, {'cell': 'lstm_maxout'}], ids=str)
def test_configurations_that_make_no_sense(changes, tmp_path):
    read_checkpoint(original_of('neuraltalk').write(tmp_path)).save(tmp_path / 'model')
    config = read_json(tmp_path / 'model' / 'config.json')
    (tmp_path / 'model' / 'config.json').write_text(json.dumps({**config, **changes}))
    with pytest.raises(InputError, match=f'^{tmp_path}/model/'):
        Bundle.load(tmp_path / 'model')


# ---- From the command line

@pytest.fixture
def imported(dataset_dir, call, tmp_path):
    """A neuraltalk model of the small dataset that does not know its word `is`, as a model directory."""
    known = [word for word in WORDS if word != 'is']
    original = NeuralTalk(known, features=16)
    status, out, err = call('import_model', *original.write(tmp_path), '-o', tmp_path / 'imported')
    assert (status, out) == (0, '') and err == f'{tmp_path}/imported: a model of karpathy/neuraltalk, ' \
        f'{len(known) + 3} words, features of 16 numbers (made by: unknown)\n'
    return original, tmp_path / 'imported'


def test_imported_models_caption_and_are_evaluated(imported, dataset_dir, call):
    original, model = imported
    status, out, err = call('generate', '-m', model, '--dataset', dataset_dir, '--top', '1', '--beam-width', '1')
    assert (status, err) == (0, '') and len(out.splitlines()) == 16
    status, out, err = call('evaluate', dataset_dir, '-m', model, '--json', '--beam-widths', '3')
    assert status == 0, err
    # Words that it does not know are left out, as neuraltalk does.
    dataset, nats, tokens = Dataset(dataset_dir), 0, 0
    for image in dataset.images('test'):
        for sentence in dataset.references(image):
            numbers = [original.words.index(word) for word in sentence if word in original.words]
            state = original.start(dataset.features[dataset.captions.image_ids[image]])
            for word, following in zip([0, *numbers], [*numbers, 0], strict=True):
                state, log_probs = original.step(state, word)
                nats -= log_probs[following]
                tokens += 1
    assert json.loads(out.splitlines()[-1])['perplexity'] == pytest.approx(np.exp(nats / tokens), rel=1e-5)
    status, out, err = call('evaluate', dataset_dir, '-m', model, '-m', model, '--json', '--beam-widths', '3')
    assert status == 0 and json.loads(out.splitlines()[-1])['perplexity'] == pytest.approx(np.exp(nats / tokens),
                                                                                           rel=1e-5)


def test_what_cannot_be_trained_on_says_so(imported, dataset_dir, refused, tmp_path):
    _, model = imported
    for objective in ('cross-entropy', 'self-critical'):
        message = refused('train', dataset_dir, '-m', model, '-o', tmp_path / 'out', '--objective', objective)
        assert message.startswith(f'{model}: ') and 'cannot be trained' in message
    assert 'cannot be resumed' in refused('train', dataset_dir, '-o', model, '--resume')


def test_a_model_of_2017_is_trained_on(dataset_dir, call, tmp_path):
    words = [word for word in WORDS if word not in ('of', 'zebra')]
    files = ChainOf2017(words, features=16).write(tmp_path)
    assert call('import_model', *files[::-1], '-o', tmp_path / 'model')[0] == 0
    status, _, err = call('train', dataset_dir, '-m', tmp_path / 'model', '-o', tmp_path / 'more', '--epochs', '1',
                          '--score-every', '0')
    assert status == 0, err
    assert Bundle.load(tmp_path / 'more').vocabulary.words[3:] == sorted(words)


def test_what_is_there_is_replaced_only_if_asked_for(imported, call, refused, tmp_path):
    original, model = imported
    files, before = original.write(tmp_path), (model / 'weights.npz').read_bytes()
    assert refused('import_model', *files, '-o', model).endswith('--overwrite replaces it')
    (tmp_path / 'broken.p').write_bytes(b'(lp0\n')
    refused('import_model', tmp_path / 'broken.p', '-o', model, '--overwrite')
    refused('import_model', tmp_path / 'broken.p', '-o', tmp_path / 'new')
    assert (model / 'weights.npz').read_bytes() == before and not (tmp_path / 'new').exists()
    assert '--preprocessing belong together' in refused('import_model', *files, '-o', model, '--encoder', 'vgg16')
    (model / 'run.html').write_text('of what was there')
    status, _, _ = call('import_model', *original.write(tmp_path, tanhC_version=1), '-o', model, '--overwrite',
                        '--encoder', 'vgg16', '--preprocessing', 'karpathy')
    assert status == 0 and Bundle.load(model).provenance == {'encoder': 'vgg16', 'preprocessing': 'karpathy'}
    assert Bundle.load(model).model.cell == 'lstm' and not (model / 'run.html').exists()


# ---- What is refused

def refusal(files):
    with pytest.raises(InputError) as caught:
        read_checkpoint(files)
    message = str(caught.value)
    assert message.isprintable() and message.startswith(str(files[0].parent))
    return message


@pytest.mark.parametrize('protocol', [0, 2])
@pytest.mark.parametrize('name', ['neuraltalk', 'fc', 'chainer'])
def test_a_call_in_a_pickle_is_refused_and_nothing_runs(name, protocol, payload, tmp_path):
    original = original_of(name)
    files = original.write(tmp_path)
    hidden = next(path for path in files if path.suffix in ('.p', '.pkl'))
    value = {'neuraltalk': NeuralTalk.checkpoint, 'fc': FullyConnected.infos, 'chainer': ChainOf2017.dataset}[name]
    harmful = pickle.dumps({**value(original), 'more': payload}, protocol)
    hidden.write_bytes(harmful)
    assert 'would call posix.mkdir, and that could do anything; refused' in refusal(files)
    assert not payload.ran
    pickle.loads(harmful)
    assert payload.ran


def test_files_of_no_format_or_of_several(tmp_path):
    neuraltalk, (infos, pth) = *original_of('neuraltalk').write(tmp_path), original_of('fc').write(tmp_path)
    known = 'the .p of karpathy/neuraltalk'
    for files in ([infos, neuraltalk], [pth], [pth, infos, neuraltalk]):
        assert known in refusal(files)
    assert 'no checkpoint of neuraltalk' in refusal([infos])
    assert 'without opt and vocab' in refusal([neuraltalk, pth])
    assert refusal([tmp_path / 'nothing']).endswith('no such file')
    (tmp_path / 'im2txt.index').write_bytes(b'\0\0\x0bglobal_step' + bytes(100))
    assert 'no pickle' in refusal([tmp_path / 'im2txt.index'])


@pytest.mark.parametrize('change, message', [
    (lambda c: c['params'].update(generator='rnn'), "its generator is 'rnn'"),
    (lambda c: c['params'].update(generator=[]), 'its generator is of the type list'),
    (lambda c: c['model'].pop('Wd'), 'lacks the matrix Wd'),
    (lambda c: c['model'].update(We=[[1.0]]), 'lacks the matrix We'),
    (lambda c: c['model'].update(bd=np.zeros((1, 3))), 'bd is float64 of shape (1, 3)'),
    (lambda c: c['model'].update(be=np.zeros((1, 6), int)), 'be is int64 of shape (1, 6)'),
    (lambda c: c['model'].update(be=np.full((1, 6), np.nan)), 'be holds values that are not finite'),
    (lambda c: c['model'].update(be=np.full((1, 6), 1e300)), 'be holds values that are not finite'),
    (lambda c: c['ixtoword'].pop(3), 'words of 14 numbers, where the weights have 15'),
    (lambda c: c['ixtoword'].update({3: 7}), 'some of its words are no text'),
    (lambda c: c['ixtoword'].update({3: 'other'}), 'do not have the same words'),
    (lambda c: c['wordtoix'].pop('#START#'), 'do not have the same words'),
    (lambda c: c.pop('params'), 'without model, params, wordtoix, ixtoword')])
def test_neuraltalks_that_do_not_hold_together(change, message, tmp_path):
    original = original_of('neuraltalk')
    checkpoint = original.checkpoint()
    change(checkpoint)
    (tmp_path / 'a.p').write_bytes(pickle.dumps(checkpoint, 2))
    assert message in refusal([tmp_path / 'a.p'])


@pytest.mark.parametrize('change, message', [
    (lambda i: vars(i['opt']).update(caption_model='topdown'), "its caption_model is 'topdown'"),
    (lambda i: vars(i['opt']).update(caption_model=[]), 'its caption_model is of the type list'),
    (lambda i: vars(i['opt']).update(caption_model='newfc'), 'lacks the matrix fc_embed.weight'),
    (lambda i: i['vocab'].pop('4'), 'words of 15 numbers, where the weights have 16'),
    (lambda i: i['vocab'].update({'9' * 5000: 'a'}), 'words of 17 numbers'),
    (lambda i: i['vocab'].update({'4': i['vocab']['5']}), 'repeats no word'),
    (lambda i: i.pop('vocab'), 'without opt and vocab')])
def test_infos_that_do_not_belong_to_the_model(change, message, tmp_path):
    original = original_of('fc')
    files, infos = original.write(tmp_path), original.infos()
    change(infos)
    files[0].write_bytes(pickle.dumps(infos, 2))
    assert message in refusal(files)


def test_a_model_of_2017_with_another_dataset(tmp_path):
    model, dataset = original_of('chainer').write(tmp_path)
    other = ChainOf2017(WORDS[1:]).dataset()
    for value, message in (({}, 'without "word_ids"'), ({'word_ids': {'a': 0}}, 'without "word_ids"'),
                           (other, 'words of 16 numbers, where the weights have 17')):
        dataset.write_bytes(pickle.dumps(value, 2))
        assert message in refusal([model, dataset])
    chainer.serializers.save_hdf5(str(model), chainer.links.Linear(3, 2))
    assert 'holds no array "image_vec/W"' in refusal([model, dataset])


@pytest.mark.gpu
@pytest.mark.parametrize('name', ['neuraltalk', 'fc'])
def test_gpu_says_what_the_cpu_says(name, tmp_path):
    read_checkpoint(original_of(name).write(tmp_path)).save(tmp_path / 'model')
    captioners = [Captioner.load(tmp_path / 'model', device, images=False) for device in ('@numpy', '@cupy:0')]
    on_cpu, on_gpu = ([*captioner.caption_features(features(6), width=4)] for captioner in captioners)
    assert [[caption.tokens for caption in captions] for captions in on_gpu] == [
        [caption.tokens for caption in captions] for captions in on_cpu]
