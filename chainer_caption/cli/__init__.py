"""The command line: arguments, progress and exit codes, without work of its own.

Each command is a module with `EXAMPLES`, `add_arguments(parser)` and `run(args)`, which returns the exit status: 0 all
done, 1 some images failed, 2 the call or its input was wrong. `COMMANDS` describes each in one line."""
import argparse
import importlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, NoReturn

import chainer_caption

COMMANDS = {
    'train': 'Train a captioner on a dataset (dataset.json and a feature matrix).',
    'generate': 'Caption images, folders of images, or the stored features of a dataset.',
    'evaluate': "Score a model, or captions made by any system, against a dataset's captions.",
    'describe': 'Describe a dataset (images, captions, words, features) and find common faults.',
    'neighbours': "Show the nearest words in a model's embedding.",
    'import-model': "Convert another program's trained model into a model directory.",
    'extract-features': 'Make a dataset from a folder of images: their features, and captions if there are any.',
    'check-features': "Find out which encoder and preprocessing made a dataset's features.",
    'export': 'Write a model as ONNX files that caption without Chainer, also in a browser.',
    'serve': 'Caption images over HTTP, with a web page and an API.',
    'benchmark': 'Measure the speed of training, decoding or feature extraction on this machine.',
    'download': 'Download a dataset with its features, or the weights of an encoder.',
}

# Commands whose work several processes, started by mpiexec, can share.
DISTRIBUTED = ('train', 'generate', 'benchmark')
_WITHOUT_MODEL = ('describe', 'extract-features', 'check-features', 'download')  # commands that load or make no model


class _Parser(argparse.ArgumentParser):
    """Reports wrong arguments in one line, with the nearest option for an unknown one."""

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        from chainer_caption import parallel
        parallel.defer()
        self.exit(2, f'{self.prog}: {message}{self._suggestion()} (-h shows all options)\n')

    def leaves(self) -> list['_Parser']:
        """The parsers of this command's subcommands, or this one where there are none."""
        return [parser for action in self._actions if isinstance(action, argparse._SubParsersAction)
                for parser in action.choices.values()] or [self]

    def _suggestion(self) -> str:
        known = {option for parser in (self, *self.leaves()) for option in parser._option_string_actions}
        for given in self._given:
            name = given.partition('=')[0]
            if name.startswith('--') and name != '--' and not any(option.startswith(name) for option in known):
                close = _nearest(name, known)
                return f'; for {name}, did you mean {close}?' if close else ''
        return ''


def _nearest(name: str, known: Iterable[str]) -> str | None:
    import difflib
    return next(iter(difflib.get_close_matches(name, list(known), 1)), None)


def main(argv: Sequence[str] | None = None) -> int:
    """`chainer-caption NAME …`"""
    _escape_unencodable()
    argv = list(sys.argv[1:] if argv is None else argv)
    first = argv[0] if argv else '-h'
    if first in ('-h', '--help'):
        commands = '\n'.join(f'  {name:<17} {description}' for name, description in COMMANDS.items())
        print(f'usage: chainer-caption COMMAND …\n\n{chainer_caption.__doc__}\ncommands (COMMAND -h shows the options '
              f'of each):\n{commands}\n\noptions:\n  --version         show the version\n'
              '  --print-completion bash|zsh   print a script that completes commands and options in that shell')
        return 0
    if first == '--version':
        print(f'chainer-caption {chainer_caption.__version__}')
        return 0
    if first == '--print-completion':
        return _print_completion(argv[1:])
    name = first.replace('_', '-')
    if name not in COMMANDS:
        close = _nearest(name, COMMANDS)
        hint = f'did you mean {close}?' if close else f'the commands are {", ".join(COMMANDS)}'
        return _refuse(f'no command {first!r}; {hint}')
    return run(name, argv[1:], f'chainer-caption {name}')


def _refuse(why: str) -> int:
    print(f'chainer-caption: {why}', file=sys.stderr)
    return 2


def _print_completion(shells: Sequence[str]) -> int:
    try:
        import shtab
    except ModuleNotFoundError:
        return _refuse('shtab is not installed, which --print-completion needs: pip install shtab')
    if len(shells) != 1 or shells[0] not in ('bash', 'zsh'):
        return _refuse('--print-completion takes bash or zsh')
    root = _Parser(prog='chainer-caption')
    commands = root.add_subparsers()
    for name, description in COMMANDS.items():
        # shtab takes help from the parser's description.
        _fill(commands.add_parser(name, description=description, help=description), name)
    print(shtab.complete(root, shell=shells[0]))
    return 0


def _command(name: str) -> ModuleType:
    return importlib.import_module(f'chainer_caption.cli.{name.replace("-", "_")}')


def _escape_unencodable() -> None:
    """Has characters that the terminal's encoding lacks escaped, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')


def parser_of(name: str, program: str) -> argparse.ArgumentParser:
    """The parser of a command's arguments; `program` is the name in its messages."""
    name = name.replace('_', '-')
    # A module may still call its script, `train.py …`, in its examples.
    examples = re.sub(rf'(?<![/\w]){name.replace("-", "_")}\.py ', f'chainer-caption {name} ', _command(name).EXAMPLES)
    parser = _Parser(prog=program, description=COMMANDS[name], epilog='examples:\n' + examples,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    _fill(parser, name)
    return parser


def _fill(parser: _Parser, name: str) -> None:
    _command(name).add_arguments(parser)
    for leaf in parser.leaves():
        general = leaf.add_argument_group('general options')
        general.add_argument('--quiet', action='store_true',
                             help='show neither progress nor notices; errors are still shown')
        if name not in _WITHOUT_MODEL:
            general.add_argument('--import', dest='modules', action='append', default=[], metavar='MODULE',
                                 help='import this Python module first, from the current folder or an installed '
                                 'package, so that it can register architectures and objectives; repeatable')


def _import(modules: Sequence[str]) -> None:
    from chainer_caption.errors import InputError
    if modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in modules:
        try:
            importlib.import_module(name.removesuffix('.py').replace(os.sep, '.'))
        except Exception as e:
            raise InputError(f'--import {name}: cannot be imported ({type(e).__name__}: {e})') from e


def run(name: str, argv: Sequence[str] | None = None, program: str | None = None) -> int:
    """Runs one command and returns its exit status."""
    from chainer_caption import parallel
    from chainer_caption.cli.progress import notices
    from chainer_caption.errors import InputError, printable
    _escape_unencodable()
    # An account without a home, as containers have, gets one in which no file can be: without any, NLTK fails and other
    # libraries make a folder named `~`.
    if os.path.expanduser('~') == '~':
        os.environ['HOME'] = os.devnull
    name = name.replace('_', '-')
    program = program or os.path.basename(sys.argv[0])
    args = parser_of(name, program).parse_args(argv)
    try:
        if name not in DISTRIBUTED and parallel.Processes.started().size > 1:
            raise InputError(f'{name} works in one process; start it without mpiexec')
        with notices(args.quiet):
            _import(getattr(args, 'modules', ()))
            return _command(name).run(args)
    except InputError as e:
        line, status = f'{program}: {e.with_option()}', 2
    except BrokenPipeError:
        # The reader of our output has gone. Python must not write to it again as it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as e:
        where = f'{e.filename}: ' if e.filename else ''
        line, status = printable(f'{program}: {where}{e.strerror or e}'), 2
    except MemoryError as e:
        line, status = printable(f'{program}: not enough memory ({e or "for this call"})'), 2
    except KeyboardInterrupt as e:
        line, status = f'\n{program}: {str(e) or "stopped"}', 128 + signal.SIGINT
    except Exception:
        if parallel.RANK is None:
            raise
        line, status = traceback.format_exc(), 1
    parallel.defer()
    print(line, file=sys.stderr, flush=True)
    parallel.end(status)
    return status
