"""Pickles of strangers, read without running anything.

A pickle is a program for a small machine with a stack, and Python's own machine calls whatever the program names. This
one knows only the instructions that plain values need, and of the names only those that its caller gives it, with what
stands for them here; `pickletools` takes the instructions apart. Python's unpickler is not used at all.

A string of Python 2 is bytes that were mostly meant as text. It is text here where it is UTF-8, and bytes where it is
not; so nothing of it is lost.
"""
import codecs
import contextlib
import io
import pickletools
import types

from chainer_caption.errors import InputError
from chainer_caption.storage.archives import ARCHIVE_ERRORS
from chainer_caption.storage.files import unreadable

# A state dict takes some forty instructions for each of its arrays, and a few dozen bytes for its name.
_INSTRUCTIONS = 500_000
_BYTES = 2 ** 24

# Their argument is the value. LONG4 is not among them: its numbers can have millions of digits.
_VALUES = {'BININT', 'BININT1', 'BININT2', 'LONG1', 'INT', 'LONG', 'BINFLOAT', 'FLOAT', 'BINUNICODE',
           'SHORT_BINUNICODE', 'UNICODE', 'BINBYTES', 'SHORT_BINBYTES'}
_OF_PYTHON_2 = 'STRING', 'BINSTRING', 'SHORT_BINSTRING'
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'EMPTY_TUPLE': ()}
_EMPTY = {'EMPTY_LIST': list, 'EMPTY_DICT': dict}
_FRAMING = 'PROTO', 'FRAME'

_CODES = {opcode.code.encode('latin-1'): opcode for opcode in pickletools.opcodes}


class ForbiddenCall(ValueError):
    """A pickle that would call what it must not; the message is the name."""


@contextlib.contextmanager
def reading(path, program, kind):
    """Whatever goes wrong in reading a file with pickles in it becomes one line that names it.

    Args:
        path (str or os.PathLike): The file.
        program (str): What else would load it.
        kind (str): What it should be.

    Raises:
        InputError: The line.
    """
    try:
        yield
    except InputError:
        raise
    except OSError as e:
        raise unreadable(path, e) from e
    except ForbiddenCall as e:
        raise InputError(f'{path}: loading it with {program} would call {e}, and that could do anything; '
                         'refused') from e
    except ARCHIVE_ERRORS as e:
        raise InputError(f'{path}: not a sound {kind} ({e})') from e


class Built:
    """What a pickle makes first and gives its content afterwards: `build(state)` takes that."""

    def build(self, state):
        raise NotImplementedError


def read_pickle(f, known, persistent=None, most=_BYTES):
    """The value that a pickle spells.

    Args:
        f (binary file): Where it begins; the file is left where it ends.
        known (dict): The names that may stand in it (`'module.name'`), and what each stands for. Functions may be
            called by the pickle, with any arguments; other values are data. Where one gives a `Built`, that is built.
        persistent (callable or None): Takes what the pickle says of an object kept elsewhere, and gives that object.
        most (int): The bytes that are read at most.

    Raises:
        ForbiddenCall: It has another name.
        ValueError: It is no sound pickle, has instructions that plain values do not need, or is too long.
    """
    start = f.tell()
    stream = io.BytesIO(f.read(most))
    try:
        value = _run(stream, known, persistent)
    except (IndexError, KeyError, TypeError, Warning) as e:     # what is not there is taken, or is of another kind
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
            machine.push(_text(argument))
        elif name in _CONSTANTS:
            machine.push(_CONSTANTS[name])
        elif name in _EMPTY:
            machine.push(_EMPTY[name]())
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
        if name == 'STRING':                            # of which pickletools wants that it is ASCII
            argument = _quoted(stream.readline().rstrip(b'\r\n'))
        else:
            argument = opcode.arg.reader(stream) if opcode.arg else None
        yield name, argument.encode('latin-1') if name in _OF_PYTHON_2[1:] else argument


def _quoted(literal):
    if len(literal) < 2 or literal[:1] not in (b"'", b'"') or literal[-1:] != literal[:1]:
        raise ValueError('a string without its quotes')
    return codecs.escape_decode(literal[1:-1])[0]


def _text(data):
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


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
        # Both parts in one argument, or else on the stack.
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
        if isinstance(self.stack[-1], Built):           # nothing else here has attributes that could be given
            self.stack[-1].build(state)

    def find(self, _):
        if self.persistent is None:
            raise ValueError('a pickle that refers to other objects')
        self.push(self.persistent(self.stack.pop()))


def _append(container, items):
    if type(container) is not list:
        raise ValueError('a pickle that appends to what is no list')
    container.extend(items)


def _set(container, items):
    # The hash of a tuple within a tuple within a tuple, and so on, would end in a crash.
    if type(container) is not dict or not all(isinstance(key, (str, int, float, bytes)) for key in items[::2]):
        raise ValueError('a pickle that puts items where there can be none')
    container.update(zip(items[::2], items[1::2], strict=True))
    return container


_STEPS = {
    'MARK': _Machine.mark,
    'TUPLE': lambda machine, _: machine.push(tuple(machine.marked())),
    'TUPLE1': lambda machine, _: machine.push(tuple(machine.last(1))),
    'TUPLE2': lambda machine, _: machine.push(tuple(machine.last(2))),
    'TUPLE3': lambda machine, _: machine.push(tuple(machine.last(3))),
    'LIST': lambda machine, _: machine.push(machine.marked()),
    'DICT': lambda machine, _: machine.push(_set({}, machine.marked())),
    'APPEND': lambda machine, _: _append(machine.stack[-2], machine.last(1)),
    'SETITEM': lambda machine, _: _set(machine.stack[-3], machine.last(2)),
    'APPENDS': lambda machine, _: machine.extend(_append), 'SETITEMS': lambda machine, _: machine.extend(_set),
    'PUT': _Machine.put, 'BINPUT': _Machine.put, 'LONG_BINPUT': _Machine.put, 'MEMOIZE': _Machine.put,
    'GET': _Machine.get, 'BINGET': _Machine.get, 'LONG_BINGET': _Machine.get,
    'GLOBAL': _Machine.name, 'STACK_GLOBAL': _Machine.name,
    'REDUCE': _Machine.call, 'NEWOBJ': _Machine.call, 'BINPERSID': _Machine.find,
    'BUILD': _Machine.build,
}
