"""Captions into packed minibatches."""
import numpy as np
import pytest

from chainer_caption import Dataset, InputError, Vocabulary
from chainer_caption.data.batches import (
    MAX_WORDS,
    CaptionDataset,
    CaptionIterator,
    PackCaptions,
    PackShare,
    pack,
    take_rows,
)
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


@pytest.mark.parametrize('per_image', [False, True])
def test_grids_and_pairs_are_packed_as_vectors_are(captions, per_image, tmp_path):
    vectors = np.random.default_rng(2).random((1000, 5)).astype(np.float32)
    np.save(tmp_path / 'grids.npy', np.random.default_rng(3).random((1000, 4, 5)).astype(np.float16))
    grids = np.load(tmp_path / 'grids.npy', mmap_mode='r')
    examples = [captions[i] for i in (3, 1, 4, 15, 3)]
    packed = [converter(examples, None) for features in (vectors, grids, (vectors, grids))
              for converter in (PackCaptions(features, per_image), PackShare(features, 0, 1, per_image))]
    of_vectors, of_grids = packed[0][0], packed[2][0]
    assert of_vectors.shape == (4 if per_image else 5, 5) and of_grids.shape == (len(of_vectors), 4, 5)
    assert {array.dtype for array in (of_vectors, of_grids)} == {np.dtype(np.float32)}
    for vector, grid in zip(of_vectors, of_grids, strict=True):
        row, = np.flatnonzero((vectors == vector).all(axis=1))
        np.testing.assert_array_equal(grid, grids[row])
    for one, other in ((0, 1), (2, 3)):
        for mine, share in zip(packed[one][:4], packed[other][:4], strict=True):
            np.testing.assert_array_equal(mine, share)
    pair = packed[4][0]
    np.testing.assert_array_equal(pair[0], of_vectors)
    np.testing.assert_array_equal(pair[1], of_grids)
    assert packed[4][3] == packed[0][3]


def test_only_the_rows_of_a_minibatch_are_read():
    class Recorded(np.ndarray):
        read = ()

        def __getitem__(self, rows):
            self.read.append(rows)
            return np.asarray(self)[rows]
    grids = np.zeros((9, 4, 5), np.float16).view(Recorded)
    grids.read = []
    assert take_rows(grids, np.array([7, 2])).shape == (2, 4, 5)
    assert [rows.tolist() for rows in grids.read] == [[7, 2]]


def test_word_ids_outside_the_vocabulary_are_refused():
    captions = [np.array([5, 9, EOS], np.int32), np.array([4, EOS], np.int32)]
    assert pack(captions, 10)[1].max() == 9
    with pytest.raises(InputError, match='a caption has the word id 9, but the model has the ids 0 to 8'):
        pack(captions, 9)
    with pytest.raises(InputError, match='the word id -1'):
        pack([np.array([-1, EOS], np.int32)])
    for converter in (PackCaptions(np.ones((2, 3)), vocabulary_size=9), PackShare(np.ones((2, 3)), 0, 2, False, 9)):
        with pytest.raises(InputError, match='the word id 9'):
            converter(list(enumerate(captions)), None)
