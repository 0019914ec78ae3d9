"""Names of encoders in ONNX files, as features and models record them."""
from __future__ import annotations

import os
import re
from typing import NamedTuple

from chainer_caption.errors import printable

_DIGITS = 12                    # of the file's SHA-256, in the name
_PATTERN = re.compile(rf'onnx:(?P<file>.*) \((?P<digest>[0-9a-f]{{{_DIGITS}}})\) output (?P<output>.+)', re.DOTALL)


class OnnxName(NamedTuple):
    """The name of an encoder in an ONNX file. Names are equal whose digest and output are, whatever the file is called;
    compare them by `same_encoder`."""

    file: str                               #: the file's name without its suffix
    digest: str                             #: the first digits of its SHA-256 (`OnnxFile.digest`), or all
    output: str                             #: the output that the features are

    def __str__(self) -> str:
        return f'onnx:{printable(self.file)} ({self.digest[:_DIGITS]}) output {self.output}'

    @classmethod
    def parse(cls, name: str) -> OnnxName | None:
        """The parts of a name; None for another kind of encoder."""
        match = _PATTERN.fullmatch(name)
        return match and cls(*match.groups())


def is_onnx_file(encoder: object) -> bool:
    """Whether an encoder is named by its file, FILE.onnx."""
    return isinstance(encoder, str | os.PathLike) and os.fspath(encoder).lower().endswith('.onnx')


def is_onnx(encoder: object) -> bool:
    """Whether an encoder is an ONNX file, named by its file or as features and models record it."""
    return is_onnx_file(encoder) or (isinstance(encoder, str) and OnnxName.parse(encoder) is not None)


def same_encoder(a: str, b: str) -> bool:
    """Whether two recorded names are those of the same encoder."""
    one, other = OnnxName.parse(a), OnnxName.parse(b)
    return a == b if one is None or other is None else one[1:] == other[1:]
