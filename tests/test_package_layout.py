"""The architecture: which packages there are, that imports run down their list only, and that public code has types."""
import ast
import pathlib
import re
import subprocess
import sys

import pytest

import chainer_caption

ROOT = pathlib.Path(chainer_caption.__file__).parent

# From the highest to the lowest: a module imports from its own package and from those below it.
PACKAGES = ['__main__', 'cli', 'service', 'benchmarks', 'training', 'evaluation', 'captioning', 'report', 'decoding',
            'models', 'data', 'features', 'functions', 'storage', 'parallel', 'errors', 'compat']

# Packages whose public functions are not all annotated yet.
NOT_ANNOTATED: set = set()

# Decorators that compile a function, whose arguments have Numba's types.
COMPILERS = {'compiled', 'inlined', 'intrinsic', 'njit'}


def package_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix('.py')


def imported_packages(path):
    """The packages that a module imports, wherever in it: a set of names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}:{node.lineno}: imports are written out in full'
            names = [f'{node.module}.{alias.name}' for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found.update(name.split('.')[1] for name in names if name.startswith('chainer_caption.'))
    return found


MODULES = sorted(path for path in ROOT.rglob('*.py') if path != ROOT / '__init__.py')


def test_the_packages():
    there = {path.name.removesuffix('.py') for path in ROOT.iterdir()
             if path.suffix == '.py' or (path / '__init__.py').exists()} - {'__init__'}
    assert there == set(PACKAGES)


@pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_down_the_list(path):
    # The names that the package itself exports are no way around it.
    assert imported_packages(path) <= {*PACKAGES[PACKAGES.index(package_of(path)):]}


@pytest.mark.parametrize('path', [path for path in MODULES if path.name == '__init__.py'],
                         ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_each_package_states_its_purpose(path):
    assert len(ast.get_docstring(ast.parse(path.read_text('utf-8')))) > 40


def public_functions(body, inside=''):
    """Pairs of the name and the node of each public function and method, and of public classes' `__init__`."""
    for node in body:
        name = inside + getattr(node, 'name', '')
        if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
            yield from public_functions(node.body, f'{name}.')
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (
                not node.name.startswith('_') or (inside and node.name == '__init__')):
            decorators = {getattr(part, 'id', getattr(part, 'attr', None))
                          for decorator in node.decorator_list for part in ast.walk(decorator)}
            if not decorators & COMPILERS:
                yield name, node


def missing_annotations(path):
    """The functions of a module that lack one, as `file:line name`."""
    for name, node in public_functions(ast.parse(path.read_text('utf-8')).body):
        arguments = node.args
        listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        bare = [a for a in listed if a is not None and a.annotation is None and a.arg not in ('self', 'cls')]
        if bare or (node.returns is None and node.name != '__init__'):
            yield f'{path.relative_to(ROOT)}:{node.lineno} {name}'


@pytest.mark.parametrize('package', ['__init__', *PACKAGES])
def test_public_functions_are_annotated(package):
    if package in NOT_ANNOTATED:
        pytest.skip('not annotated yet')
    paths = [path for path in ROOT.rglob('*.py') if package_of(path) == package]
    assert [line for path in paths for line in missing_annotations(path)] == []


def test_the_package_is_typed():
    assert (ROOT / 'py.typed').exists()
# ---- The core, to be read from top to bottom

READING_LIST = [
    'data/vocabulary.py', 'data/batches.py', 'models/architecture.py', 'models/decoder.py', 'models/show_and_tell.py',
    'decoding/search.py', 'decoding/beam.py', 'training/objectives/cross_entropy.py', 'training/updater.py',
    'errors.py']


@pytest.mark.parametrize('name', READING_LIST)
def test_the_reading_list_imports_itself_and_the_functions_facade_only(name):
    if name.startswith('training') and not (ROOT / 'training' / 'updater.py').exists():
        pytest.skip('the training loop has no module of its own yet')
    known = {f'chainer_caption.{path.removesuffix(".py").replace("/", ".")}' for path in READING_LIST}
    for node in ast.walk(ast.parse((ROOT / name).read_text('utf-8'))):
        modules = [node.module] if isinstance(node, ast.ImportFrom) else \
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in modules:
            top = module.split('.')[0]
            assert module in known | {'chainer_caption.functions'} or top in {'chainer', 'numpy'} \
                or top in sys.stdlib_module_names, f'{name}:{node.lineno}: {module}'


def test_the_reading_list_is_an_afternoons():
    paths = [path for path in map(ROOT.joinpath, READING_LIST) if path.exists()]
    assert sum(len(path.read_text('utf-8').splitlines()) for path in paths) <= 1800


def test_models_and_searches_use_the_facade_of_the_functions():
    for package in 'models', 'decoding', 'training/objectives':
        for path in (ROOT / package).rglob('*.py'):
            assert 'chainer_caption.functions.' not in path.read_text('utf-8'), path


def test_what_the_package_exports():
    names = {'Bundle', 'Caption', 'Captioner', 'InputError', 'Dataset', 'Result', 'Settings', 'Vocabulary', 'train'}
    assert names <= {*chainer_caption.__all__} <= {*dir(chainer_caption)}
    for name in chainer_caption.__all__:
        assert getattr(chainer_caption, name).__name__ == name
    with pytest.raises(AttributeError, match='no attribute'):
        chainer_caption.Nonsense  # noqa: B018 (it is looked up)


def run(program, environment):
    done = subprocess.run([sys.executable, '-c', program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_lists_the_packages_in_their_order():
    readme = ROOT / 'README.md'
    if not readme.exists():
        pytest.skip('the package is installed without its README')
    tree = readme.read_text('utf-8').split('    chainer_caption/\n')[1].split('\n\n')[0]
    listed = [name.removesuffix('.py') for line in tree.splitlines()
              for name in re.findall(r'(\w+(?:/|\.py)) ', line[:28]) for name in [name.rstrip('/')]]
    assert listed == [package for package in PACKAGES if package != '__main__']


HEAVY = 'chainer', 'numba', 'cupy', 'scipy', 'nltk', 'matplotlib'


def test_importing_the_package_imports_nothing_heavy(package_environment):
    assert run(f'import chainer_caption, sys; print([n for n in {HEAVY} if n in sys.modules])',
               package_environment) == '[]\n'


@pytest.mark.parametrize('name', ['train', 'generate', 'evaluate', 'describe', 'neighbours', 'import_model',
                                  'extract_features', 'check_features', 'serve', 'benchmark', 'download', 'export', ''])
def test_help_imports_nothing_heavy(name, package_environment):
    program = f'''if True:
        import sys
        from chainer_caption import cli
        try:
            cli.main({[name, '-h'] if name else ['-h']})
        except SystemExit as e:
            assert not e.code
        print([n for n in {HEAVY} if n in sys.modules])'''
    assert run(program, package_environment).endswith('\n[]\n')


def test_chainer_imported_after_the_package_works(package_environment):
    # Also by other code, before anything of this package has been used.
    run('import chainer_caption, chainer; assert chainer.Variable', package_environment)
