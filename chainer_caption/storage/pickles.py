"""Untrusted pickles, read without executing anything.

A pickle is a program for a stack machine, and Python's unpickler calls any function that the program names. This
machine has only the instructions that plain values need and the names that its caller allows, each with a stand-in;
`pickletools` decodes the instructions. A string of Python 2 becomes text where it is UTF-8, bytes where it is not."""
import codecs
import contextlib
import io
import pickletools
import re
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from chainer_caption.errors import InputError
from chainer_caption.storage.archives import reject_if, sound
from chainer_caption.storage.files import Path

# A state dict takes some forty instructions for each array, and a few dozen bytes for its name.
_INSTRUCTIONS, _BYTES = 500_000, 2 ** 24
# Instructions whose argument is the value. LONG4 is excluded: its numbers can have millions of digits.
_VALUES = {'BININT', 'BININT1', 'BININT2', 'LONG1', 'INT', 'LONG', 'BINFLOAT', 'FLOAT', 'BINUNICODE',
           'SHORT_BINUNICODE', 'UNICODE', 'BINBYTES', 'SHORT_BINBYTES'}
_OF_PYTHON_2 = 'STRING', 'BINSTRING', 'SHORT_BINSTRING'
_CONSTANTS: dict[str, Callable[[], Any]] = {
    'NONE': lambda: None, 'NEWTRUE': lambda: True, 'NEWFALSE': lambda: False, 'EMPTY_TUPLE': tuple,
    'EMPTY_LIST': list, 'EMPTY_DICT': dict}
_FRAMING = 'PROTO', 'FRAME'
_CODES = {opcode.code.encode('latin-1'): opcode for opcode in pickletools.opcodes}


class ForbiddenCall(ValueError):
    """A pickle would call a function that is not allowed; the message is its name."""


@contextlib.contextmanager
def reading(path: Path, program: str, kind: str) -> Iterator[None]:
    """Turns any error in reading a file of some kind with pickles, which `program` would execute, into an InputError
    that names the file."""
    with sound(path, kind):
        try:
            yield
        except ForbiddenCall as e:
            raise InputError(f'{path}: loading it with {program} would call {e}, and that could do anything; '
                             'refused') from e


class Built:
    """An object that a pickle makes first and fills afterwards, by `build(state)`."""
    def build(self, state: Any) -> None:
        raise NotImplementedError


def read_pickle(f: BinaryIO, known: Mapping[str, Any], persistent: Callable[[Any], Any] | None = None,
                most: int = _BYTES) -> Any:
    """Reads the pickle at the current position of a file, and leaves the file where the pickle ends.

    Args:
        known: The allowed names (`'module.name'`) with their stand-ins. The pickle may call those that are functions,
            with any arguments; other values are data. A `Built` that one returns is built.
        persistent: Takes a reference to an object stored elsewhere and returns that object.
        most: The largest number of bytes to read.

    Raises ForbiddenCall for another name, and ValueError if the pickle is damaged or too long, or has instructions that
    plain values do not need."""
    start, stream = f.tell(), io.BytesIO(f.read(most))
    try:
        value = _run(stream, known, persistent)
    except (IndexError, KeyError, TypeError, Warning) as e:     # it takes what is missing or of another type
        raise ValueError('a damaged pickle') from e
    f.seek(start + stream.tell())
    return value


def _run(stream, known, persistent):
    machine = _Machine(known, persistent)
    for count, (name, argument) in enumerate(_instructions(stream)):
        if count == _INSTRUCTIONS:
            raise ValueError(f'a pickle of more than {_INSTRUCTIONS:,} instructions')
        if name in _VALUES:
            machine.push(argument)
        elif name in _OF_PYTHON_2:
            machine.push(argument)
            with contextlib.suppress(UnicodeDecodeError):
                machine.stack[-1] = argument.decode()
        elif name in _CONSTANTS:
            machine.push(_CONSTANTS[name]())
        elif name in _STEPS:
            _STEPS[name](machine, argument)
        elif name not in _FRAMING and name != 'STOP':
            raise ValueError(f'a pickle with the instruction {name}')
    return machine.stack.pop()


def _instructions(stream):
    """Pairs of an instruction's name and its argument."""
    name = None
    while name != 'STOP':
        opcode = _CODES.get(stream.read(1))
        if opcode is None:
            raise ValueError('no pickle, or one cut short')
        name = opcode.name
        if name == 'STRING':                            # pickletools wants ASCII
            quoted: Any = re.fullmatch(rb'''(["'])(.*)\1''', stream.readline().rstrip(b'\r\n'), re.DOTALL)
            reject_if(not quoted, 'a string without its quotes')
            argument: Any = codecs.escape_decode(quoted[2])[0]
        else:
            argument = opcode.arg.reader(stream) if opcode.arg else None
        yield name, argument.encode('latin-1') if name in _OF_PYTHON_2[1:] else argument


class _Machine:
    def __init__(self, known, persistent):
        self.stack, self.below, self.memo = [], [], {}
        self.known, self.persistent = known, persistent

    def push(self, value):
        self.stack.append(value)

    def mark(self, _):
        self.below.append(self.stack)
        self.stack = []

    def marked(self):
        items, self.stack = self.stack, self.below.pop()
        return items

    def last(self, count):
        items = self.stack[-count:]
        if len(items) < count:
            raise IndexError
        del self.stack[-count:]
        return items

    def extend(self, how):
        items = self.marked()
        how(self.stack[-1], items)

    def put(self, index):
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index):
        self.push(self.memo[index])

    def name(self, argument):
        # Both parts are in one argument, or on the stack.
        name = argument.replace(' ', '.', 1) if argument else '{:s}.{:s}'.format(*self.last(2))
        if name not in self.known:
            raise ForbiddenCall(name)
        self.push(self.known[name])

    def call(self, _):
        function, arguments = self.last(2)
        if not isinstance(function, types.FunctionType) or not isinstance(arguments, tuple):
            raise ValueError('a pickle that calls what is no function')
        self.push(function(*arguments))

    def build(self, _):
        state = self.stack.pop()
        if isinstance(self.stack[-1], Built):           # nothing else here has attributes
            self.stack[-1].build(state)

    def find(self, _):
        reject_if(self.persistent is None, 'a pickle that refers to other objects')
        self.push(self.persistent(self.stack.pop()))


def _append(container, items):
    reject_if(type(container) is not list, 'a pickle that appends to what is no list')
    container.extend(items)


def _set(container, items):
    # The hash of a deeply nested tuple would crash the interpreter.
    if type(container) is not dict or not all(isinstance(key, (str, int, float, bytes)) for key in items[::2]):
        raise ValueError('a pickle that puts items where there can be none')
    container.update(zip(items[::2], items[1::2], strict=True))
    return container


_STEPS: dict[str, Callable[..., Any]] = {
    'MARK': _Machine.mark, 'TUPLE': lambda machine, _: machine.push(tuple(machine.marked())),
    **{f'TUPLE{n}': lambda machine, _, n=n: machine.push(tuple(machine.last(n))) for n in (1, 2, 3)},
    'LIST': lambda machine, _: machine.push(machine.marked()),
    'DICT': lambda machine, _: machine.push(_set({}, machine.marked())),
    'APPEND': lambda machine, _: _append(machine.stack[-2], machine.last(1)),
    'SETITEM': lambda machine, _: _set(machine.stack[-3], machine.last(2)),
    'APPENDS': lambda machine, _: machine.extend(_append), 'SETITEMS': lambda machine, _: machine.extend(_set),
    **dict.fromkeys(('PUT', 'BINPUT', 'LONG_BINPUT', 'MEMOIZE'), _Machine.put),
    **dict.fromkeys(('GET', 'BINGET', 'LONG_BINGET'), _Machine.get),
    'GLOBAL': _Machine.name, 'STACK_GLOBAL': _Machine.name, 'REDUCE': _Machine.call, 'NEWOBJ': _Machine.call,
    'BINPERSID': _Machine.find, 'BUILD': _Machine.build}
