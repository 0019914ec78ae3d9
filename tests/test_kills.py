"""A handful of the kills that tests/kills.py and tests/kills_sidecars.py deal out by the hundred."""
import pathlib
import re
import subprocess
import sys

import pytest


@pytest.mark.parametrize(('kills', 'options'), [
    (4, ()), (2, ('--objective', 'self-critical')), (2, ('--finetune', 'fc6'))])
def test_killed_trainings_end_equal_to_undisturbed_ones(kills, options, package_environment):
    done = subprocess.run([sys.executable, pathlib.Path(__file__).with_name('kills.py'), '--kills', str(kills),
                           *options], check=False, env=package_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf'^{kills} of {kills} kills', done.stdout, re.MULTILINE)


def test_sidecars_of_a_killed_run_are_whole_and_written_once(package_environment):
    done = subprocess.run([sys.executable, pathlib.Path(__file__).with_name('kills_sidecars.py'), '--limit', '100'],
                          check=False, env=package_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith('100 sidecars after 3 kills: complete, none half-written, none written twice\n')
