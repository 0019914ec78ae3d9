"""A short form of what tests/load.py does by the thousand."""
import pathlib
import re
import subprocess
import sys


def test_a_service_under_load_and_abuse(package_environment):
    program = pathlib.Path(__file__).with_name('load.py')
    options = '--requests', '100', '--clients', '8', '--malformed', '200', '--open', '500'
    done = subprocess.run([sys.executable, program, *options], check=False, env=package_environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r'^100 requests of 8 clients.*\nall is well$', done.stdout, re.MULTILINE | re.DOTALL)
