"""The command line: arguments, progress, exit codes; no work of its own.

Each command is a module with `DESCRIPTION`, `EXAMPLES`, `add_arguments(parser)` and `run(args)`, which returns the exit
status: 0 all done, 1 some images failed, 2 the call or its input was wrong.
"""
import argparse
import importlib
import os
import signal
import sys
import traceback

COMMANDS = ('train', 'generate', 'evaluate', 'describe', 'neighbours', 'import_model', 'extract_features',
            'check_features', 'serve', 'benchmark', 'download')

# Those that several processes, started by mpiexec, can share the work of.
TOGETHER = ('train', 'generate', 'benchmark')


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line."""

    def error(self, message):
        from chainer_caption import parallel
        parallel.defer()
        self.exit(2, f'{self.prog}: {message} (-h shows how it is called)\n')


def main(argv=None):
    """`chainer-caption NAME …`"""
    _print_anything()
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in ([], ['-h'], ['--help']):
        print(f'usage: chainer-caption {{{",".join(COMMANDS)}}} …\n\n{__import__("chainer_caption").__doc__}')
        for name in COMMANDS:
            print(f'  {name:<12} {_command(name).DESCRIPTION}')
        return 0
    if argv[0] not in COMMANDS:
        print(f'chainer-caption: no command {argv[0]!r}: it is one of {", ".join(COMMANDS)}', file=sys.stderr)
        return 2
    return run(argv[0], argv[1:], f'chainer-caption {argv[0]}')


def _command(name):
    return importlib.import_module(f'chainer_caption.cli.{name}')


def _print_anything():
    """Captions are Unicode, and so is the help; a terminal that is not gets them escaped, and nobody a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')


def _have_a_home():
    """An account that the system has no entry of, as containers have, gets a home in which nothing can be. Where there
    is none at all, some libraries fail (NLTK), and others would take a folder named `~`."""
    if os.path.expanduser('~') == '~':
        os.environ['HOME'] = os.devnull


def parser_of(name, program):
    """The parser of a command's arguments; `program` is what the user calls it by."""
    command = _command(name)
    parser = _Parser(prog=program, description=command.DESCRIPTION, epilog='examples:\n' + command.EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_arguments(parser)
    return parser


def run(name, argv=None, program=None):
    """Runs one command and returns its exit status."""
    from chainer_caption import parallel
    from chainer_caption.errors import InputError, printable
    _print_anything()
    _have_a_home()
    program = program or os.path.basename(sys.argv[0])
    command = _command(name)
    args = parser_of(name, program).parse_args(argv)
    try:
        if name not in TOGETHER and parallel.Processes.started().size > 1:
            raise InputError(f'{name} works in one process; start it without mpiexec')
        return command.run(args)
    except InputError as e:
        line, status = f'{program}: {e.with_option()}', 2
    except BrokenPipeError:
        # Whoever read our output has gone; nothing is left to tell them, not even while Python shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as e:
        where = f'{e.filename}: ' if e.filename else ''
        line, status = printable(f'{program}: {where}{e.strerror or e}'), 2
    except MemoryError as e:
        line, status = printable(f'{program}: not enough memory ({e or "for what was asked"})'), 2
    except KeyboardInterrupt:
        line, status = f'\n{program}: stopped', 128 + signal.SIGINT
    except Exception:
        if parallel.RANK is None:
            raise
        line, status = traceback.format_exc(), 1
    parallel.defer()
    print(line, file=sys.stderr, flush=True)
    parallel.end(status)
    return status
