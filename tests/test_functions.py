"""The package's functions against Chainer's own, and against numerical gradients."""
import itertools
import sys

import chainer
import chainer.functions as F
import numpy as np
import pytest
from chainer import gradient_check

from chainer_caption.functions import (
    Adam,
    apply_mask,
    beam_topk,
    dropout,
    linear,
    lstm_sequence,
    mask_key,
    sequence_input,
    word_loss,
)

KEY = mask_key(0, 0, 0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


class TestDropout:

    @pytest.mark.parametrize('ratio', [0.1, 0.5, 0.9])
    def test_drops_the_ratio_and_keeps_the_mean(self, ratio):
        mask = apply_mask(np.ones((1000, 1000), np.float32), ratio, KEY)
        assert set(np.unique(mask)) == {0, np.float32(1 / (1 - ratio))}
        assert (mask == 0).mean() == pytest.approx(ratio, abs=0.003)

    def test_masks_of_other_updates_and_sites_are_independent(self):
        ones = np.ones(200_000, np.float32)
        masks = [apply_mask(ones, 0.5, mask_key(*key)) - 1 for key in [(0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)]]
        masks.append(np.roll(masks[0], 1))
        correlation = np.corrcoef(masks) - np.eye(len(masks))
        assert np.abs(correlation).max() < 0.01         # 4.5 standard deviations

    def test_gradient_has_the_mask_of_the_output(self, rng):
        x = chainer.Variable(normal(rng, 20, 30))
        y = dropout(x, 0.3, KEY)
        y.grad = np.ones_like(x.array)
        y.backward()
        np.testing.assert_array_equal(y.array, x.array * x.grad)

    def test_does_nothing_when_not_training(self, rng):
        x = normal(rng, 4, 5)
        with chainer.using_config('train', False):
            np.testing.assert_array_equal(dropout(x, 0.5, KEY).array, x)


class TestSequenceInput:

    def test_equals_chainers_functions(self, rng):
        image, W = chainer.Variable(normal(rng, 3, 8)), chainer.Variable(normal(rng, 11, 8))
        words = np.array([4, 4, 0, 10, 4, 7], np.int32)
        gy = normal(rng, 9, 8)
        mask = apply_mask(np.ones((6, 8), np.float32), 0.5, KEY)

        y = sequence_input(image, W, words, 0.5, KEY)
        y.grad = gy
        y.backward()
        grads = image.grad, W.grad
        image.cleargrad()
        W.cleargrad()
        expected = F.concat([image, F.embed_id(words, W) * mask], axis=0)
        expected.grad = gy
        expected.backward()

        np.testing.assert_array_equal(y.array, expected.array)
        np.testing.assert_allclose(grads[0], image.grad, rtol=1e-6)
        np.testing.assert_allclose(grads[1], W.grad, rtol=1e-5, atol=1e-6)


def stepwise_lstm(x, W_x, b, W_h, batch_sizes):
    """The same recurrence from Chainer's functions, a step at a time."""
    c = h = None
    outputs, start = [], 0
    for rows in batch_sizes:
        gates = F.linear(x[start:start + rows], W_x, b)
        if h is None:
            c = chainer.Variable(np.zeros((rows, W_h.shape[1]), x.dtype))
        else:
            c = c[:rows]
            gates += F.linear(h[:rows], W_h)
        c, h = F.lstm(c, gates)
        outputs.append(h)
        start += rows
    return F.concat(outputs, axis=0)


    @pytest.mark.parametrize('words', [[0, 11], [-1, 3]])
    def test_word_ids_outside_of_the_vocabulary_are_refused(self, rng, words):
        ids = np.array(words, np.int32)
        with pytest.raises(IndexError, match='but the model has 11 words'):
            sequence_input(None, normal(rng, 11, 8), ids, 0, KEY)
        with pytest.raises(IndexError, match='but the model has 11 words'):
            word_loss(normal(rng, 2, 8), normal(rng, 11, 8), normal(rng, 11), ids)


@pytest.mark.parametrize('name', ['linear', 'lstm_sequence', 'sequence_input', 'word_loss'])
def test_the_gradient_of_a_gradient_is_refused_and_not_none(rng, name):
    W, b, ids = chainer.Variable(normal(rng, 8, 3)), normal(rng, 8), np.array([1, 0], np.int32)
    y = {'linear': lambda: linear(normal(rng, 2, 3), W, b),
         'lstm_sequence': lambda: lstm_sequence(normal(rng, 3, 3), W, b, normal(rng, 8, 2), [2, 1]),
         'sequence_input': lambda: sequence_input(None, W, ids, 0, KEY),
         'word_loss': lambda: word_loss(normal(rng, 2, 3), W, b, ids)[0]}[name]()
    loss = F.sum(y * y)
    with pytest.raises(NotImplementedError, match='gradient of its gradient'):
        chainer.grad([loss], [W], enable_double_backprop=True)
    assert chainer.grad([loss], [W])[0].shape == (8, 3)


class TestLSTMSequence:

    @pytest.mark.parametrize('batch_sizes', [[4, 4, 4], [5, 4, 2, 1, 1], [1], [3]])
    def test_equals_chainers_lstm_and_its_gradients(self, rng, batch_sizes):
        arrays = normal(rng, sum(batch_sizes), 6), normal(rng, 28, 6), normal(rng, 28), normal(rng, 28, 7)
        gh = normal(rng, sum(batch_sizes), 7)
        results = []
        for function in (lstm_sequence, stepwise_lstm):
            inputs = [chainer.Variable(a) for a in arrays]
            h = function(*inputs, batch_sizes)
            h.grad = gh
            h.backward()
            results.append([h.array, *(v.grad for v in inputs)])
        for ours, theirs in zip(*results, strict=True):
            # A single step uses the recurrent weights not at all: Chainer gives no gradient, ours is zero.
            np.testing.assert_allclose(ours, 0 if theirs is None else theirs, rtol=2e-5, atol=2e-6)

    def test_numerical_gradients(self, rng):
        batch_sizes = [3, 2, 1]
        inputs = normal(rng, 6, 4), normal(rng, 12, 4), normal(rng, 12), normal(rng, 12, 3)
        gradient_check.check_backward(lambda *a: lstm_sequence(*a, batch_sizes), inputs, normal(rng, 6, 3), eps=1e-2,
                                      rtol=1e-2, atol=1e-3)


class TestWordLoss:

    @pytest.mark.parametrize('block_bytes', [2 ** 26, 4 * 13 * 4])
    def test_equals_chainers_softmax_cross_entropy(self, rng, monkeypatch, block_bytes):
        module = sys.modules['chainer_caption.functions.word_loss']     # the package's name is that of the function
        monkeypatch.setattr(module, 'BLOCK_BYTES', block_bytes)
        arrays = normal(rng, 9, 5), normal(rng, 13, 5), normal(rng, 13)
        targets = rng.integers(0, 13, 9).astype(np.int32)
        results = []
        for function in (word_loss, lambda h, W, b, t: (F.softmax_cross_entropy(F.linear(h, W, b), t),
                                                        F.accuracy(F.linear(h, W, b), t))):
            inputs = [chainer.Variable(a) for a in arrays]
            loss, accuracy = function(*inputs, targets)
            (3 * loss).backward()
            results.append([loss.array, accuracy.array, *(v.grad for v in inputs)])
        for ours, theirs in zip(*results, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)

    def test_weighted_rows(self, rng):
        arrays = normal(rng, 9, 5), normal(rng, 13, 5), normal(rng, 13)
        targets, weights = rng.integers(0, 13, 9).astype(np.int32), normal(rng, 9)

        def weighted(h, W, b, targets):
            each = F.softmax_cross_entropy(F.linear(h, W, b), targets, reduce='no')
            return F.sum(each * weights) / 4

        results = []
        for function in (weighted, lambda *inputs: word_loss(*inputs, tokens=4, weights=weights)[0]):
            inputs = [chainer.Variable(a) for a in arrays]
            loss = function(*inputs, targets)
            loss.backward()
            results.append([loss.array, *(v.grad for v in inputs)])
        for ours, theirs in zip(*results, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)

    def test_without_backprop_gives_the_same_loss_and_no_gradients(self, rng):
        arguments = normal(rng, 9, 5), normal(rng, 13, 5), normal(rng, 13), rng.integers(0, 13, 9).astype(np.int32)
        with chainer.no_backprop_mode():
            loss, _ = word_loss(*arguments)
        assert loss.creator is None
        assert float(loss.array) == pytest.approx(float(word_loss(*arguments)[0].array), rel=1e-6)

    def test_large_scores_do_not_overflow(self):
        h, W, b = np.float32([[1000]]), np.float32([[1], [-1], [0.5]]), np.zeros(3, np.float32)
        loss, accuracy = word_loss(h, W, b, np.array([2], np.int32))
        assert float(loss.array) == pytest.approx(500)
        assert float(accuracy.array) == 0


class TestAdam:

    @pytest.mark.parametrize('options', [{}, {'alpha': 0.01, 'beta1': 0.8, 'eps': 1e-3, 'weight_decay_rate': 0.1},
                                         {'amsgrad': True}])
    def test_updates_as_chainers(self, rng, options):
        chains = []
        for optimizer in (Adam(**options), chainer.optimizers.Adam(**options)):
            chain = chainer.Chain()
            with chain.init_scope():
                chain.w = chainer.Parameter(np.full((30, 40), 0.5, np.float32))
            optimizer.setup(chain)
            gradients = np.random.default_rng(1)
            for _ in range(20):
                chain.w.grad = normal(gradients, 30, 40)
                optimizer.update()
            chains.append(chain.w)
        np.testing.assert_allclose(chains[0].array, chains[1].array, rtol=0, atol=1e-6)
        for state in ('m', 'v'):
            np.testing.assert_allclose(chains[0].update_rule.state[state], chains[1].update_rule.state[state],
                                       rtol=1e-5, atol=1e-7)


class TestSelect:

    @pytest.mark.parametrize('suppressed', [(), (2,), (0, 2)])
    @pytest.mark.parametrize('k', [1, 3, 20])
    def test_equals_a_sort_of_everything(self, rng, suppressed, k):
        bounds = np.array([0, 3, 4, 9])
        scores, bias = 3 * normal(rng, 9, 301), normal(rng, 301)
        log_probs = np.concatenate([np.sort(-5 * rng.random(n))[::-1] for n in np.diff(bounds)])
        expected = F.log_softmax(scores.astype(np.float64) + bias).array + log_probs[:, None]
        expected[:, list(suppressed)] = -np.inf
        floor = np.array([-np.inf, -np.inf, np.sort(expected[4:].ravel())[-2]])
        got = beam_topk(scores.copy(), bias, log_probs, bounds, k, floor, 0.5, suppressed)
        for p, (start, stop) in enumerate(itertools.pairwise(bounds)):
            flat = expected[start:stop].ravel()
            order = [i for i in np.argsort(-flat, kind='stable') if flat[i] > max(floor[p] / 0.5, -1e300)][:k]
            if p == 2:                                  # the floor was given on the scale of the weighted scores
                continue
            n = len(order)
            np.testing.assert_allclose(got[0][p, :n], 0.5 * flat[order], rtol=1e-5)
            np.testing.assert_array_equal(got[1][p, :n] - start, np.array(order) // 301)
            np.testing.assert_array_equal(got[2][p, :n], np.array(order) % 301)

    def test_of_a_row_without_numbers_nothing_is_chosen(self, rng):
        scores = np.concatenate([np.full((1, 50), -np.inf, np.float32), normal(rng, 1, 50),
                                 np.full((1, 50), np.nan, np.float32)])
        score, parent, _, _ = beam_topk(scores, np.zeros(50, np.float32), np.array([-1.0, -2.0, -3.0]),
                                        np.array([0, 3]), 60, np.full(1, -np.inf), 1.0, ())
        assert set(parent[0, :50]) == {1}
        assert np.isneginf(score[0, 50:]).all()

    def test_nothing_under_the_floor_is_chosen(self, rng):
        scores = normal(rng, 2, 50)
        log_p = F.log_softmax(scores).array + np.float32([[-1], [-2]])
        floor = np.array([np.sort(log_p.ravel())[-4] + 1e-6])
        score, _, _, _ = beam_topk(scores, np.zeros(50, np.float32), np.array([-1., -2.]), np.array([0, 2]), 10, floor,
                                   1.0, ())
        np.testing.assert_allclose(score[0, :3], np.sort(log_p.ravel())[::-1][:3], rtol=1e-5)
        assert np.isneginf(score[0, 3:]).all()

    def test_fined_words_lose_what_they_are_fined(self, rng):
        scores, bias, log_probs = normal(rng, 3, 90), normal(rng, 90), np.array([-1.0, -1.5, -2.0])
        penalized = np.array([[4, -1, 4], [-1, -1, -1], [7, 8, -1]])
        penalties = np.array([[0.25, 9, 0.5], [9, 9, 9], [np.inf, 0.125, 9]])
        expected = F.log_softmax(scores.astype(np.float64) + bias).array + log_probs[:, None]
        expected[0, 4] -= 0.75
        expected[2, 7:9] -= np.inf, 0.125
        score, parent, word, value = beam_topk(scores.copy(), bias, log_probs, np.array([0, 3]), 270,
                                               np.full(1, -np.inf), 1.0, (), (penalized, penalties))
        np.testing.assert_allclose(score[0, :269], np.sort(expected.ravel())[:0:-1], rtol=1e-5)
        np.testing.assert_allclose(expected[parent[0, :269], word[0, :269]], score[0, :269], rtol=1e-5)
        assert score[0, 269] == -np.inf
        # The value is the score without the penalty.
        plain = F.log_softmax(scores.astype(np.float64) + bias).array + log_probs[:, None]
        np.testing.assert_allclose(plain[parent[0, :269], word[0, :269]], value[0, :269], rtol=1e-5)


@pytest.mark.gpu
class TestGPU:
    """The kernels give what the compiled loops give."""

    @pytest.fixture
    def device(self):
        device = chainer.get_device('@cupy:0')
        device.use()
        return device

    def both(self, device, function, *arrays):
        """Outputs and gradients on the CPU and on the GPU."""
        results = []
        for where in (chainer.get_device('@numpy'), device):
            inputs = [chainer.Variable(where.send(a)) for a in arrays]
            outputs = function(where, *inputs)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            F.sum(outputs[0] * 3).backward()
            results.append([chainer.get_device('@numpy').send(a) for a in
                            [*(o.array for o in outputs), *(v.grad for v in inputs)]])
        for cpu, gpu in zip(*results, strict=True):
            np.testing.assert_allclose(gpu, cpu, rtol=1e-4, atol=1e-5)

    def test_dropout(self, rng, device):
        self.both(device, lambda where, x: dropout(x, 0.3, KEY), normal(rng, 300, 17))

    def test_sequence_input(self, rng, device):
        words = np.array([4, 4, 0, 10, 4, 7], np.int32)
        self.both(device, lambda where, image, W: sequence_input(image, W, where.send(words), 0.5, KEY),
                  normal(rng, 3, 8), normal(rng, 11, 8))

    @pytest.mark.parametrize('batch_sizes', [[4, 4, 4], [5, 4, 2, 1, 1], [1]])
    def test_lstm_sequence(self, rng, device, batch_sizes):
        self.both(device, lambda where, *a: lstm_sequence(*a, batch_sizes),
                  normal(rng, sum(batch_sizes), 6), normal(rng, 28, 6), normal(rng, 28), normal(rng, 28, 7))

    def test_word_loss(self, rng, device):
        targets = rng.integers(0, 13, 9).astype(np.int32)
        self.both(device, lambda where, *a: word_loss(*a, where.send(targets)),
                  normal(rng, 9, 5), normal(rng, 13, 5), normal(rng, 13))

    @staticmethod
    def selected(device, scores, bias, *others):
        """What the GPU selects, after it has been compared with what the CPU does."""
        cpu = beam_topk(scores.copy(), bias, *others)
        gpu = beam_topk(device.send(scores), device.send(bias), *others)
        there = cpu[0] > -np.inf
        np.testing.assert_array_equal(gpu[0] > -np.inf, there)
        np.testing.assert_allclose(gpu[0][there], cpu[0][there], rtol=1e-6, atol=2e-6)
        np.testing.assert_allclose(gpu[3][there], cpu[3][there], rtol=1e-6, atol=2e-6)
        for ours, theirs in zip(gpu[1:3], cpu[1:3], strict=True):
            np.testing.assert_array_equal(ours[there], theirs[there])
        return gpu[:3]

    @pytest.mark.parametrize('suppressed', [(), (2,), (0, 2)])
    @pytest.mark.parametrize(('k', 'words'), [(1, 301), (20, 301), (20, 3000), (300, 301), (20, 4)])
    def test_select(self, rng, device, suppressed, k, words):
        # The last is a search so much wider than its space that there are fewer than k.
        bounds = np.array([0, 3, 4, 9])
        scores, bias = 3 * normal(rng, 9, words), normal(rng, words)
        log_probs = np.concatenate([np.sort(-5 * rng.random(n))[::-1] for n in np.diff(bounds)])
        found, _, word = self.selected(device, scores, bias, log_probs, bounds, k, np.array([-np.inf, -5.0, -np.inf]),
                                       0.7, suppressed)
        assert found[1].min() == -np.inf or found[1].min() > -5
        assert not np.isin(word[found > -np.inf], suppressed).any()

    def test_select_with_fines(self, rng, device):
        # Among them the best word of each hypothesis, which is the best of its lane.
        scores, bounds = 3 * normal(rng, 9, 700), np.array([0, 3, 4, 9])
        log_probs = np.concatenate([np.sort(-5 * rng.random(n))[::-1] for n in np.diff(bounds)])
        penalized = np.concatenate([np.argsort(-scores, axis=1)[:, :5], np.full((9, 1), -1)], axis=1)
        penalties = np.tile([np.inf, 0.5, 3, np.inf, 0.01, np.inf], (9, 1))
        found, parent, word = self.selected(device, scores, np.zeros(700, np.float32), log_probs, bounds, 20,
                                            np.full(3, -np.inf), 0.7, (2,), (penalized, penalties))
        assert (found > -np.inf).all() and not (penalized[parent][..., [0, 3]] == word[..., None]).any()

    @pytest.mark.parametrize('levels', [1, 3, 40])
    def test_select_ties(self, rng, device, levels):
        # Whole numbers, and rows that are alike: ties within rows and between them, up to nothing but ties.
        scores = np.tile(rng.integers(0, levels, (1, 2000)).astype(np.float32), (7, 1))
        bounds = np.array([0, 1, 5, 7])
        self.selected(device, scores, np.zeros(2000, np.float32), np.full(7, -1.5), bounds, 20, np.full(3, -np.inf),
                      1.0, (2,))

    def test_select_words_and_hypotheses_that_are_impossible(self, rng, device):
        scores = normal(rng, 8, 500)
        scores[:2, 3:] = scores[3:5, 10:] = -np.inf
        scores[7] = -np.inf
        log_probs = np.array([-1, -2, -1, -2, -np.inf, -1, -np.inf, -3])
        found, parent, _ = self.selected(device, scores, normal(rng, 500), log_probs, np.array([0, 2, 5, 8]), 20,
                                         np.full(3, -np.inf), 1.0, (1,))
        assert (found > -np.inf).sum(axis=1).tolist() == [4, 20, 20]
        assert not np.isin(parent[found > -np.inf], [4, 6, 7]).any()

    def test_select_adds_in_float64(self, device):
        # Far from zero float32 has steps wider than what two hypotheses differ by: the second is better by 0.0001.
        scores = np.zeros((2, 4), np.float32)
        scores[:, 3] = 1, 1.0004
        log_probs = np.array([-5000, -5000.0001])
        _, parent, word = self.selected(device, scores, np.zeros(4, np.float32), log_probs, np.array([0, 2]), 1,
                                        np.full(1, -np.inf), 1.0, ())
        assert (parent.item(), word.item()) == (1, 3)
