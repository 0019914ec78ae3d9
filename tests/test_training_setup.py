"""Settings, plans and objectives of your own."""
import dataclasses
import json
import os
import subprocess
import sys
import textwrap

import chainer
import numpy as np
import pytest
from conftest import write_dataset
from test_training import SMALL, assert_equal_weights, log
from test_training_snapshots import stop_after
from test_training_trainer import PlainModel

from chainer_caption import Bundle, Captioner, Dataset, InputError, Settings, Vocabulary, train
from chainer_caption.cli import parser_of
from chainer_caption.functions.matmul import PRECISIONS
from chainer_caption.models.encoder_decoder import MAX_POSITIONS
from chainer_caption.training import make_trainer, register_objective
from chainer_caption.training.extensions import FIGURES
from chainer_caption.training.objectives import CrossEntropy
from chainer_caption.training.settings import GROUPS, rules

SMOOTHING = '''
    import dataclasses

    import chainer
    import chainer.functions as F

    from chainer_caption.training import register_objective
    from chainer_caption.training.objectives import CrossEntropy


    @register_objective('label-smoothing')
    @dataclasses.dataclass
    class LabelSmoothing(CrossEntropy):
        """Cross-entropy with (1 - smoothing) of the probability on the target, the rest on all words alike."""
        smoothing: float = 0.1

        reports = 'main/loss',
        per_token = False

        def loss(self, update, features, words, targets, batch_sizes, tokens=None, images=None):
            model = self.model
            h = model.outputs(features, words, batch_sizes, self.update_key(update))
            log_p = F.log_softmax(F.linear(h, model.out_word.W, model.out_word.b))
            nats = -(1 - self.smoothing) * F.select_item(log_p, targets) - self.smoothing * F.mean(log_p, axis=1)
            loss = F.sum(nats) / (tokens or len(targets))
            chainer.report({'loss': loss}, model)
            return loss
'''
exec(textwrap.dedent(SMOOTHING))                        # as a user's module does
LabelSmoothing = globals()['LabelSmoothing']


@pytest.fixture
def dataset(make_dataset):
    # Six updates of 16 captions an epoch.
    return Dataset(make_dataset())


# ---- Settings

def test_each_setting_has_an_option_with_a_meaning():
    assert {*rules()} == {field.name for field in dataclasses.fields(Settings)}
    assert sum(len(rules(group)) for group in GROUPS) == len(rules())
    text = parser_of('train', 'train').format_help()
    for name, rule in rules().items():
        assert f'--{name.replace("_", "-")}' in text and len(rule.help.split()) > 1, name


def test_choices_and_bounds_are_those_of_the_code():
    # The settings import nothing heavy, so they repeat these.
    assert rules()['precision'].choices == PRECISIONS
    assert rules()['keep_best'].choices == tuple(FIGURES)
    assert rules()['max_positions'].most == MAX_POSITIONS


def test_short_forms_of_options():
    parse = parser_of('train', 'train').parse_args
    args = parse(['d', '-o', 'm', '--lr', '0.5', '--encoder-lr', '0.25', '--iter', '3'])
    assert (args.learning_rate, args.encoder_learning_rate, args.epochs) == (0.5, 0.25, 3)


def test_names_that_are_not_registered():
    for name in 'objective', 'architecture':
        with pytest.raises(InputError, match=f"^{name} mine: register 'mine' first: --import the module that defines"):
            Settings(**{name: 'mine'})


# ---- Objectives of your own

def test_label_smoothing_without_smoothing_is_cross_entropy(dataset, tmp_path):
    settings = Settings(epochs=2, score_every=0, **SMALL)
    train(dataset, tmp_path / 'xe', settings)
    train(dataset, tmp_path / 'smooth', settings, objective=LabelSmoothing(0.0))
    for one, other in zip(log(tmp_path / 'xe'), log(tmp_path / 'smooth'), strict=True):
        assert other['main/loss'] == pytest.approx(one['main/loss'], rel=1e-4)
        assert 'main/perplexity' not in other


def test_an_objective_of_your_own_is_recorded_and_goes_on(dataset, tmp_path):
    settings = Settings(epochs=2, **SMALL)
    train(dataset, tmp_path / 'whole', settings, objective=LabelSmoothing(0.2))
    train(dataset, tmp_path / 'parts', settings, objective=LabelSmoothing(0.2), stop=stop_after(7))
    with pytest.raises(InputError, match=r'trained with smoothing 0\.2, not 0\.1'):
        train(dataset, tmp_path / 'parts', settings, objective='label-smoothing', resume=True)
    bundle = train(dataset, tmp_path / 'parts', settings, objective=LabelSmoothing(0.2), resume=True)
    assert_equal_weights(tmp_path / 'whole', tmp_path / 'parts')
    assert (bundle.training['objective'], bundle.training['smoothing']) == ('label-smoothing', 0.2)
    trainer = make_trainer(dataset, bundle, tmp_path / 'other', Settings(objective='label-smoothing', batch_size=16))
    trainer.updater.update()


def test_an_objective_of_your_own_on_the_command_line(make_dataset, package_environment, tmp_path):
    (tmp_path / 'smoothing.py').write_text(textwrap.dedent(SMOOTHING))
    call = [sys.executable, '-m', 'chainer_caption', 'train', make_dataset(), '-o', 'model', '--epochs', '1',
            '--hidden', '8', '--objective', 'label-smoothing']
    path = os.pathsep.join(filter(None, [package_environment.get('PYTHONPATH'), str(tmp_path)]))

    def run(*options):
        return subprocess.run([*call, *options], cwd=tmp_path, env={**package_environment, 'PYTHONPATH': path},
                              capture_output=True, text=True, check=False)
    if '--import' not in parser_of('train', 'train')._option_string_actions:
        pytest.skip('TODO: the command line has no --import yet')
    done = run()
    assert done.returncode == 2 and "register 'label-smoothing' first: --import the module" in done.stderr
    done = run('--import', 'smoothing')
    assert (done.returncode, done.stderr) == (0, '')
    training = json.loads((tmp_path / 'model' / 'config.json').read_text())['training']
    assert (training['objective'], training['smoothing']) == ('label-smoothing', 0.1)


def test_one_name_is_one_objective():
    with pytest.raises(ValueError, match='cross-entropy'):
        register_objective('cross-entropy')(type('Other', (CrossEntropy,), {}))
    with pytest.raises(InputError, match='register_objective'):
        train(None, 'out', objective=type('Mine', (CrossEntropy,), {})())


# ---- Models of your own

class LossOnly(PlainModel):
    """Reports no accuracy."""

    def __call__(self, features, words, targets, batch_sizes, tokens=None, update_key=None):
        reporter = chainer.Reporter()
        reporter.add_observer('', self)
        with reporter.scope({}):
            loss = super().__call__(features, words, targets, batch_sizes, tokens, update_key)
        chainer.report({'loss': loss}, self)
        return loss


def test_a_model_that_reports_only_its_loss_trains_and_is_validated(dataset, tmp_path):
    vocabulary = Vocabulary.from_counts(*dataset.word_counts(*dataset.training_splits))
    model = LossOnly(dataset.feature_size, len(vocabulary))
    make_trainer(dataset, Bundle(model, vocabulary), tmp_path / 'out', Settings(epochs=2, score_every=0)).run()
    for entry in log(tmp_path / 'out'):
        assert {'main/loss', 'validation/main/loss', 'validation/main/perplexity'} <= entry.keys()
        assert not [name for name in entry if 'accuracy' in name]


def test_a_model_with_another_number_of_words_is_refused(dataset, model_dir, tmp_path):
    bundle = Bundle.load(model_dir)
    bundle.vocabulary = Vocabulary(['<S>', '</S>', '<UNK>', 'a'], [1, 1, 1, 1])
    with pytest.raises(InputError, match='but the vocabulary has 4; make the model with vocabulary_size=4'):
        make_trainer(dataset, bundle, tmp_path / 'out')


# ---- Vocabularies of small datasets

def with_captions(folder, captions):
    """A dataset with one caption for each image: a list of str."""
    write_dataset(folder, images=len(captions), splits=['train'] * 7 + ['val'])
    data = json.loads((folder / 'dataset.json').read_text())
    for image, caption in zip(data['images'], captions, strict=True):
        image['sentences'] = [{'tokens': caption.split(), 'raw': caption}]
    (folder / 'dataset.json').write_text(json.dumps(data))
    return Dataset(folder)


FORTY = [f'{"a" if i % 2 else "the"} {colour}{i // 8} {shape}{i // 10} on some {shape}' for i, (colour, shape) in
         enumerate([('red', 'ball'), ('blue', 'box'), ('green', 'car'), ('grey', 'cat')] * 10)]


def test_forty_captions_give_a_captioner_that_generates_words(tmp_path):
    dataset, lines = with_captions(tmp_path / 'dataset', FORTY), []
    settings = {'epochs': 20, 'hidden': 16, 'batch_size': 8, 'learning_rate': 0.01}
    bundle = train(dataset, tmp_path / 'model', Settings(**settings), say=lines.append)
    chosen = bundle.training['min_count']
    assert 1 <= chosen < 5 and [line for line in lines if f'min_count {chosen}, not 5' in line]
    assert json.loads((tmp_path / 'model' / 'config.json').read_text())['training']['min_count'] == chosen
    counts, _ = dataset.word_counts('train')
    unknown = [sum(n for n in counts.values() if n < least) / sum(counts.values()) for least in (chosen, chosen + 1)]
    assert unknown[0] <= 0.2 < unknown[1]
    assert all(result.captions[0].tokens for result in Captioner.load(tmp_path / 'model', images=False)
               .caption_dataset(dataset, 'val'))
    train(dataset, tmp_path / 'model', Settings(**{**settings, 'epochs': 21}), resume=True)


def test_a_min_count_that_is_named_stays_and_the_unknown_share_is_said(tmp_path):
    dataset, lines = with_captions(tmp_path / 'dataset', FORTY), []
    bundle = train(dataset, tmp_path / 'model', Settings(epochs=0, hidden=4, min_count=8), say=lines.append)
    assert bundle.training['min_count'] == 8
    assert any('% of the training tokens are not in the vocabulary (<UNK>); lower --min-count' in line
               for line in lines)


def test_a_vocabulary_without_words_is_refused(tmp_path):
    dataset = with_captions(tmp_path / 'dataset', [f'word{i}' for i in range(8)])
    with pytest.raises(InputError, match='no word occurs 5 times or more in the 7 training captions; lower min_count'):
        train(dataset, tmp_path / 'model', Settings(min_count=5))
    assert not (tmp_path / 'model' / 'config.json').exists()
    lines = []
    bundle = train(dataset, tmp_path / 'model', Settings(epochs=0, hidden=4), say=lines.append)
    assert len(bundle.vocabulary) == 3 + 7 and 'one word each: split them with another --tokenizer' in lines[0]


# ---- Stopped before the first update

@pytest.mark.parametrize('update', [0, 1])
def test_patience_of_one_resumed_at_the_start(update, model_dir, dataset_dir, tmp_path):
    """The entry of epoch 0 is compared once."""
    dataset = Dataset(dataset_dir)
    settings = Settings(epochs=2, batch_size=40, objective='self-critical', patience=1, learning_rate=1e-9)

    @chainer.training.make_extension(trigger=(1, 'iteration'), priority=-200)
    def kill(trainer):
        raise KeyboardInterrupt

    kill.initialize = None if update else kill
    train(dataset, tmp_path / 'whole', settings, start_from=model_dir)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / 'parts', dataclasses.replace(settings, snapshot_every=1), start_from=model_dir,
              extensions=[kill])
    train(dataset, tmp_path / 'parts', settings, start_from=model_dir, resume=True)
    assert log(tmp_path / 'parts') == log(tmp_path / 'whole') and len(log(tmp_path / 'whole')) == 2
    assert_equal_weights(tmp_path / 'whole', tmp_path / 'parts')


def test_the_reward_is_prepared_once(dataset_dir, model_dir, tmp_path, monkeypatch):
    from chainer_caption.evaluation.metrics import reward
    dataset, words = Dataset(dataset_dir), Bundle.load(model_dir).vocabulary.words
    first, second = (np.array([3, 4, 5, 1]), np.array([7, 3, 4, 1])), [0, 3]
    expected = reward.training_reward(dataset, words)(first, second)
    monkeypatch.setattr(reward.CiderTables, 'build', None)
    np.testing.assert_array_equal(reward.training_reward(dataset, words)(first, second), expected)
