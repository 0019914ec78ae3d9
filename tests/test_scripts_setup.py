"""scripts/setup.sh before anything is installed: which extras it takes, which Python it chooses."""
import configparser
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

FAKE = '''#!{python}
import sys
sys.version_info = ({version}, 0)
sys.modules['ensurepip'] = None         # nothing shall be installed: the set-up ends here, with the name of the Python
exec(sys.argv[2])
'''


@pytest.fixture
def set_up(tmp_path):
    """Calls setup.sh of a copy of the project on a machine with some Pythons, by name and version, of which none can
    make an environment: `set_up(*arguments, python3='3, 14', PYTHON=…)` gives (status, stdout, stderr)."""
    project = tmp_path / 'project'
    for name in 'setup.cfg', 'pyproject.toml', 'scripts/setup.sh', 'scripts/constraints.txt':
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    tools = tmp_path / 'tools'
    tools.mkdir()
    for name in 'bash', 'cat', 'cksum', 'dirname', 'env', 'grep', 'paste', 'sed', 'sort':
        (tools / name).symlink_to(shutil.which(name))

    def run(*arguments, PYTHON=None, **pythons):
        for name, version in pythons.items():
            path = tools / name.replace('_', '.')
            path.write_text(FAKE.format(python=sys.executable, version=version))
            path.chmod(0o755)
        environment = {'PATH': str(tools)} | ({} if PYTHON is None else {'PYTHON': PYTHON})
        done = subprocess.run([project / 'scripts' / 'setup.sh', *arguments], env=environment, capture_output=True,
                              text=True, check=False)
        return done.returncode, done.stdout, done.stderr
    return run


def test_every_extra_of_setup_cfg_is_one(set_up):
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    names = list(setup['options.extras_require'])
    status, out, _ = set_up('-h')
    assert status == 0 and out.splitlines()[-1] == f'Extras: {" ".join(names)}'
    status, out, err = set_up(*setup['options.extras_require'], python3='3, 11')
    assert (status, out, err.count('\n')) == (2, '', 1) and 'lacks its venv module' in err


@pytest.mark.parametrize('extra', ['cuda11x', 'mpi tensorboard', '', '.*', '--mpi'])
def test_what_is_no_extra_is_refused_with_those_there_are(extra, set_up):
    status, out, err = set_up('mpi', extra, python3='3, 11')
    assert (status, out, err.count('\n')) == (2, '', 1)
    assert err.startswith(f"setup: unknown extra '{extra}'")
    assert 'cuda12x cuda13x japanese mpi photos serve tensorboard test' in err


def test_the_first_python_that_suits_is_taken(set_up):
    assert set_up()[::2] == (2, 'setup: needs Python 3.10 to 3.13: install it, or name one with '
                                'PYTHON=/path/to/python3\n')
    assert 'needs Python 3.10 to 3.13' in set_up(python3='3, 14', python3_10='3, 9')[2]
    assert set_up(python3_12='3, 12')[2].startswith('setup: python3.12 lacks its venv module')
    assert set_up(python3='3, 13')[2].startswith('setup: python3 lacks its venv module')


@pytest.mark.parametrize(('version', 'said'), [
    ('3, 9', 'is no Python 3.10 to 3.13'), ('3, 10', 'lacks its venv module'), ('3, 13', 'lacks its venv module'),
    ('3, 14', 'is no Python 3.10 to 3.13')])
def test_a_python_that_is_named_must_suit(version, said, set_up):
    status, out, err = set_up(mine=version, PYTHON='mine')
    assert (status, out, err.count('\n')) == (2, '', 1) and said in err
