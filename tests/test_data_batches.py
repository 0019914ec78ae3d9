"""Captions into packed minibatches."""
import numpy as np
import pytest

from chainer_caption import Dataset, Vocabulary
from chainer_caption.data.batches import MAX_WORDS, CaptionDataset, CaptionIterator, PackCaptions, pack
from chainer_caption.data.vocabulary import BOS, EOS


def dataset(lengths, seed=0):
    rng = np.random.default_rng(seed)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    return CaptionDataset(np.arange(len(lengths)), rng.integers(3, 50, bounds[-1]).astype(np.int32), bounds)


@pytest.fixture
def captions():
    return dataset(np.random.default_rng(1).integers(1, 30, 1000))


def test_pack_lays_out_step_after_step():
    captions = [np.array(c, np.int32) for c in ([5, 6, 7, EOS], [8, 9, EOS], [4, 3, EOS], [EOS])]
    words, targets, batch_sizes = pack(captions)
    assert batch_sizes == [4, 3, 3, 1]
    assert targets.tolist() == [5, 8, 4, EOS, 6, 9, 3, 7, EOS, EOS, EOS]
    assert words.tolist() == [*[BOS] * 4, 5, 8, 4, 6, 9, 3, 7]


def test_pack_holds_every_word_and_no_padding(captions):
    batch = sorted((captions[i][1] for i in range(128)), key=lambda c: -len(c))
    words, targets, batch_sizes = pack(batch)
    starts = np.cumsum([0, *batch_sizes])
    assert starts[-1] == len(words) == len(targets) == sum(map(len, batch))
    for i, caption in enumerate(batch):
        rows = starts[:len(caption)] + i
        np.testing.assert_array_equal(targets[rows], caption)
        np.testing.assert_array_equal(words[rows], [BOS, *caption[:-1]])


def test_converter_puts_features_beside_their_captions(captions):
    features = np.random.default_rng(2).random((1000, 5)).astype(np.float16)
    examples = [captions[i] for i in (3, 1, 4, 15)]
    taken, _, targets, batch_sizes = PackCaptions(features)(examples, None)
    assert taken.dtype == np.float32
    for row, first in zip(taken, targets[:4], strict=True):
        owner, = [i for i, caption in examples if (features[i] == row).all()]
        assert captions[owner][1][0] == first
    assert sum(batch_sizes) == sum(len(caption) for _, caption in examples)


@pytest.mark.parametrize('shuffle', [True, False])
def test_an_epoch_has_every_caption_once(captions, shuffle):
    batches = list(CaptionIterator(captions, 64, repeat=False, shuffle=shuffle))
    assert sorted(row for batch in batches for row, _ in batch) == list(range(1000))
    assert [len(batch) for batch in batches].count(64) == 15


def test_the_order_follows_from_seed_and_epoch(captions):
    def rows(iterator, n):
        return [[row for row, _ in next(iterator)] for _ in range(n)]
    one, same, other = (CaptionIterator(captions, 64, seed=seed) for seed in (0, 0, 1))
    first, second = rows(one, 16), rows(one, 16)
    assert rows(same, 16) == first
    assert second != first
    assert rows(other, 16) != first


def test_the_epoch_counters_are_chainers(captions):
    iterator = CaptionIterator(captions, 64)
    assert (iterator.epoch, iterator.epoch_detail, iterator.previous_epoch_detail) == (0, 0, None)
    for _ in range(15):
        next(iterator)
        assert not iterator.is_new_epoch
    next(iterator)
    assert iterator.is_new_epoch
    assert (iterator.epoch, iterator.epoch_detail, iterator.previous_epoch_detail) == (1, 1, 15 / 16)


def test_a_serialized_iterator_goes_on_in_its_place(captions):
    import chainer
    iterator = CaptionIterator(captions, 64)
    for _ in range(21):
        next(iterator)
    saved = chainer.serializers.DictionarySerializer()
    iterator.serialize(saved)
    loaded = CaptionIterator(captions, 64)
    loaded.serialize(chainer.serializers.NpzDeserializer(saved.target))
    for _ in range(20):
        assert [row for row, _ in next(loaded)] == [row for row, _ in next(iterator)]
        assert loaded.epoch_detail == iterator.epoch_detail


def test_overlong_captions_are_cut_and_their_cut_is_no_end():
    captions = dataset([MAX_WORDS, MAX_WORDS + 1, 3 * MAX_WORDS])
    lengths = [len(captions[i][1]) for i in range(3)]
    assert lengths == [MAX_WORDS + 1, MAX_WORDS, MAX_WORDS] == captions.lengths.tolist()
    assert [captions[i][1][-1] == EOS for i in range(3)] == [True, False, False]
    assert captions.overlong == 2


def test_captions_of_a_dataset(make_dataset):
    dataset = Dataset(make_dataset())
    vocabulary = Vocabulary.from_counts(*dataset.word_counts('train', 'restval'))
    captions = CaptionDataset.from_dataset(dataset, vocabulary, 'val')
    spoken = [(int(dataset.captions.image_ids[p]), sentence) for p in dataset.images('val')
              for sentence in dataset.references(p)]
    assert len(captions) == len(spoken)
    for i, (row, tokens) in enumerate(spoken):
        assert captions[i][0] == row
        np.testing.assert_array_equal(captions[i][1], [*vocabulary.encode(tokens), EOS])
