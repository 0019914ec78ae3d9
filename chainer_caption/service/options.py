"""Options of a request: the search options of the command line, in the query of the URL."""
import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from chainer_caption.decoding import Sampling
from chainer_caption.errors import InputError


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a search."""
    kind: type                              #: bool, int or float
    about: str                              #: its description
    least: float | None = None              #: range that a request may ask for; narrower than the search's own
    most: float | None = None
    of: str | None = None                   #: `beams` or `samples`, if it is for one of the two only


OPTIONS = {
    'top': Option(int, 'Captions for each image.', 1, 100),
    'beam_width': Option(int, 'Hypotheses of the beam search; 1 is greedy search.', 1, 100, 'beams'),
    'length_normalization': Option(float, 'Captions are ranked by log-probability / tokens ** A.', 0, 100, 'beams'),
    'beam_groups': Option(int, 'Diverse beam search: number of groups; it divides the beam width.', 1, 100, 'beams'),
    'diversity_penalty': Option(float, 'Nats that a word loses for each hypothesis of an earlier group that has it at '
                                       'the same position.', 0, 1000, 'beams'),
    'sample': Option(bool, 'Sample captions in place of a beam search.'),
    'temperature': Option(float, 'Below 1 likely words are sampled more often.', 0.01, 1000, 'samples'),
    'top_k': Option(int, 'Sample among the K likeliest words.', 1, 2 ** 31 - 1, 'samples'),
    'top_p': Option(float, 'Sample among the likeliest words that together have this probability.', 0, 1, 'samples'),
    'seed': Option(int, 'Random seed; samples depend on it and the image.', 0, 2 ** 53 - 1, 'samples'),
    'max_length': Option(int, 'Maximum number of words.', 1, 200),
    'min_length': Option(int, 'Minimum number of words.', 0, 200),
    'no_repeat_ngram': Option(int, 'No N words in a row occur twice in a caption; 0 allows it.', 0, 200),
    'allow_unk': Option(bool, 'Allow <UNK> in captions.'),
    'min_confidence': Option(float, 'Skip images whose confidence is lower; of a model that has one.', 0, 1),
}


def read_options(captioner: Any, query: Iterable[tuple[str, str]]) -> tuple[Any, float | None]:
    """What a query, pairs of an option and its value, asks for: the search (BeamSearch, DiverseBeamSearch or Sampling),
    and the least confidence or None.

    The captioner's defaults hold for what the query leaves out.

    Raises InputError: an option is unknown or given twice, its value is invalid, two exclude each other, or the model
    has no confidence."""
    given: dict[str, Any] = {}
    for name, text in query:
        if name not in OPTIONS:
            raise InputError(f'{name}: no such option; there are {", ".join(OPTIONS)}')
        if name in given:
            raise InputError(f'{name}: given twice')
        given[name] = _value(name, text)
    samples = given.pop('sample', False)
    for name in given:
        if OPTIONS[name].of == ('beams' if samples else 'samples'):
            raise InputError(f'{name}: not with sample=true' if samples else f'{name}: only with sample=true')
    if 'diversity_penalty' in given and 'beam_groups' not in given:
        raise InputError('diversity_penalty: only with beam_groups')
    if 'beam_width' in given:
        given['width'] = given.pop('beam_width')
    least = given.pop('min_confidence', None)
    if least is not None and not captioner.trust.fitted:
        raise InputError('min_confidence: the model has no confidence')
    try:
        return Sampling(**given) if samples else captioner.search(**given), least
    except InputError as e:
        # Messages may name options of the command line, or fields of the search.
        message = re.sub('--([a-z-]+)', lambda match: match[1].replace('-', '_'), str(e))
        raise InputError(re.sub('^width ', 'beam_width ', message)) from e


def _value(name: str, text: str) -> Any:
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
    if option.least is not None and option.most is not None and not option.least <= value <= option.most:
        raise InputError(f'{name}: must be {what} from {option.least} to {option.most}')
    return value
