"""How images are prepared for an ONNX encoder: the settings in FILE.json beside FILE.onnx."""
from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from chainer_caption.errors import InputError
from chainer_caption.features.preprocessing import PREPROCESSINGS, Preprocessing, center_crop, squash
from chainer_caption.storage.files import Path, read_json

# What is assumed where nothing is said: torchvision's preprocessing, for which most networks are trained. A network
# that takes pixels from 0 to 255 usually normalizes them itself.
_DEFAULTS = {'resize': 'crop', 'crop_pct': 0.875, 'interpolation': 'bilinear', 'channels': 'RGB', 'pixel_max': 1,
             'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}
_NORMALIZES = {'mean': (0.0,) * 3, 'std': (1.0,) * 3}
_OTHERS = 'layout', 'output', 'preprocessing'
_LARGEST = 4096                 # pixels of a side


def settings_path(path: Path) -> str:
    """The settings of an ONNX file: FILE.json for FILE.onnx."""
    return os.path.splitext(path)[0] + '.json'


def read_settings(path: Path) -> dict[str, Any]:
    """Reads the settings of an ONNX file; empty where there are none. `size` is (height, width). Raises InputError for
    an unknown key or an impossible value."""
    where = settings_path(path)
    return checked(read_json(where, 2 ** 20), where) if os.path.exists(where) else {}


def checked(settings: Any, where: Path) -> dict[str, Any]:
    """Settings from the file `where`, each in its form; InputError as of `read_settings`."""
    if not isinstance(settings, dict):
        raise InputError(f'{where}: should be an object with settings such as {{"size": 224}}')
    found = {}
    for key, value in settings.items():
        if key not in _FORMS:
            close = difflib.get_close_matches(key, list(_FORMS), 1)
            raise InputError(f'{where}: no setting is called {key!r}; ' + (
                f'did you mean {close[0]!r}?' if close else f'there are {", ".join(_FORMS)}'))
        form, wanted = _FORMS[key]
        found[key] = form(value)
        if found[key] is None:
            raise InputError(f'{where}: {key!r} should be {wanted}, not {value!r}')
    if 'preprocessing' in found and (more := sorted(found.keys() - set(_OTHERS))):
        raise InputError(f'{where}: "preprocessing" says what {more[0]!r} is; leave one of them out')
    return found


def preprocessing_of(settings: Mapping[str, Any], size: tuple[int, int]) -> Preprocessing:
    """The preprocessing that settings describe, for images of a size (height, width) unless they have one."""
    if 'preprocessing' in settings:
        return PREPROCESSINGS[settings['preprocessing']]
    full = {'size': size, **_DEFAULTS, **(_NORMALIZES if settings.get('pixel_max') == 255 else {}),
            **{key: value for key, value in settings.items() if key not in _OTHERS}}
    if full == {'size': (224, 224), **_DEFAULTS}:
        return PREPROCESSINGS['torchvision']            # recorded by its name, and exactly the same
    resample = getattr(Image.Resampling, full['interpolation'].upper())
    fit: Callable[[Any, Any], Any] = functools.partial(squash, resample)
    if full['resize'] == 'crop':
        fit = functools.partial(center_crop, resample, full['crop_pct'])
    else:
        del full['crop_pct']
    mean, std = (tuple(255 / full['pixel_max'] * value for value in full[key]) for key in ('mean', 'std'))
    return Preprocessing(' '.join(f'{key}={_text(value)}' for key, value in full.items()), full['size'],
                         lambda rgb, size: fit(rgb, *size), full['channels'], mean, std)


def find_preprocessing(name: str) -> Preprocessing:
    """The preprocessing of a name as features and models record it: one of `PREPROCESSINGS`, or settings as text.
    Raises InputError if it is neither."""
    if name in PREPROCESSINGS:
        return PREPROCESSINGS[name]
    unknown = InputError(f'unknown preprocessing {name!r}: it is one of {", ".join(PREPROCESSINGS)}')
    settings: dict[str, Any] = {}
    for part in name.split():
        key, _, text = part.partition('=')
        try:
            values: list[Any] = [text] if key not in _NUMBERS else \
                list(map(int if key == 'size' else float, text.replace('x', ',').split(',')))
        except ValueError:
            raise unknown from None
        settings[key] = values if len(values) > 1 else values[0]
    if not {'size', 'resize'} <= settings.keys() or settings.keys() & set(_OTHERS):
        raise unknown
    settings = checked(settings, f'preprocessing {name!r}')
    return preprocessing_of(settings, settings['size'])


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ('x' if isinstance(value[0], int) else ',').join(map(_text, value))
    return str(value) if isinstance(value, str) else repr(float(value)).removesuffix('.0')


def _number(value: Any, low: float, high: float) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    return float(value) if good else None


def _size_of(value: Any) -> tuple[int, int] | None:
    sides = value if isinstance(value, list) and len(value) == 2 else [value, value]
    good = all(isinstance(side, int) and _number(side, 1, _LARGEST) for side in sides)
    return (sides[0], sides[1]) if good else None


def _triple(low: float, high: float) -> Callable[[Any], Any]:
    def form(value: Any) -> tuple[float, ...] | None:
        numbers = tuple(_number(one, low, high) for one in value) if isinstance(value, list) else ()
        return None if len(numbers) != 3 or None in numbers else numbers    # type: ignore[return-value]
    return form


def _one_of(*choices: Any) -> tuple[Callable[[Any], Any], str]:
    def form(value: Any) -> Any:
        return next((choice for choice in choices if value == choice and not isinstance(value, bool)), None)
    return form, ' or '.join(map(repr, choices))


_NUMBERS = 'size', 'crop_pct', 'mean', 'std', 'pixel_max'
# Of each setting: a function to its form, or None where it is impossible; and what it should be.
_FORMS: dict[str, tuple[Callable[[Any], Any], str]] = {
    'size': (_size_of, f'a whole number of pixels, 1 to {_LARGEST}, or [height, width]'),
    'resize': _one_of('crop', 'squash'),
    'crop_pct': (lambda value: _number(value, 0.1, 1), 'a number from 0.1 to 1'),
    'interpolation': _one_of('nearest', 'bilinear', 'bicubic', 'lanczos'),
    'channels': _one_of('RGB', 'BGR'),
    'pixel_max': _one_of(1, 255),
    'mean': (_triple(-1e4, 1e4), 'a list of three numbers'),
    'std': (_triple(1e-4, 1e4), 'a list of three positive numbers'),
    'layout': _one_of('NCHW', 'NHWC'),
    'output': (lambda value: value if isinstance(value, str) and value else None, 'the name of an output'),
    'preprocessing': _one_of(*(name for name, known in PREPROCESSINGS.items() if known.size is not None)),
}
