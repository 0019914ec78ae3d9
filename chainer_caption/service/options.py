"""The search that a request asks for, by the query of its address: the command line's options, under the same names."""
import dataclasses
import re

from chainer_caption.decoding import Sampling
from chainer_caption.errors import InputError


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a search.

    Attributes:
        kind (type): bool, int or float.
        about (str): What it is.
        least, most (number or None): What a request may ask for. Searches have limits of their own; these keep one
            request from taking the machine from all others.
        of (str or None): `beams` or `samples`, where it means nothing to the other.
    """
    kind: type
    about: str
    least: float | None = None
    most: float | None = None
    of: str | None = None


OPTIONS = {
    'top': Option(int, 'Captions for an image.', 1, 100),
    'beam_width': Option(int, '1 is greedy search.', 1, 100, 'beams'),
    'length_normalization': Option(float, 'Captions are compared by log-probability / tokens ** A.', 0, 100, 'beams'),
    'beam_groups': Option(int, 'Diverse beam search: as many groups avoid each other\'s words.', 1, 100, 'beams'),
    'diversity_penalty': Option(float, 'Nats that a word loses for each hypothesis of an earlier group that says it.',
                                0, 1000,
                        'beams'),
    'sample': Option(bool, 'Draw captions in place of searching for the likeliest.'),
    'temperature': Option(float, 'Below 1 likely words are drawn more often.', 0.01, 1000, 'samples'),
    'top_k': Option(int, 'Draw among so many words, the likeliest.', 1, 2 ** 31 - 1, 'samples'),
    'top_p': Option(float, 'Draw among the likeliest words that have together this probability.', 0, 1, 'samples'),
    'seed': Option(int, 'What is drawn follows from it and the image.', 0, 2 ** 53 - 1, 'samples'),
    'max_length': Option(int, 'Words at most.', 1, 200),
    'min_length': Option(int, 'Words at least.', 0, 200),
    'no_repeat_ngram': Option(int, 'Say no so many words in a row twice in a caption; 0 allows it.', 0, 200),
    'allow_unk': Option(bool, 'Let captions say <UNK>.'),
}


def search_of(captioner, query):
    """The search that a query asks for.

    Args:
        captioner (Captioner): Says what holds where the query says nothing.
        query (iterable of tuple): Pairs of a name and its value, both str.

    Returns:
        BeamSearch, DiverseBeamSearch or Sampling.

    Raises:
        InputError: There is no such option, its value is impossible, or two contradict each other.
    """
    given = {}
    for name, text in query:
        if name not in OPTIONS:
            raise InputError(f'{name}: no such option; there are {", ".join(OPTIONS)}')
        if name in given:
            raise InputError(f'{name}: given twice')
        given[name] = _value(name, text)
    samples = given.pop('sample', False)
    for name in given:
        if OPTIONS[name].of == ('beams' if samples else 'samples'):
            raise InputError(f'{name}: is for beams, and sample draws captions' if samples else
                             f'{name}: belongs to sample=true')
    if 'diversity_penalty' in given and 'beam_groups' not in given:
        raise InputError('diversity: belongs to beam_groups')
    if 'beam_width' in given:
        given['width'] = given.pop('beam_width')
    try:
        return Sampling(**given) if samples else captioner.search(**given)
    except InputError as e:
        # Searches call their options as the command line does.
        raise InputError(re.sub('--([a-z-]+)', lambda match: match[1].replace('-', '_'), str(e))) from e


def _value(name, text):
    option = OPTIONS[name]
    if option.kind is bool:
        if text not in ('true', 'false'):
            raise InputError(f'{name}: must be true or false')
        return text == 'true'
    what = 'a whole number' if option.kind is int else 'a number'
    try:
        value = option.kind(text)
    except ValueError as e:
        raise InputError(f'{name}: must be {what}') from e
    if not option.least <= value <= option.most:
        raise InputError(f'{name}: must be {what} from {option.least} to {option.most}')
    return value
