"""A short run of tests/load.py."""
import pathlib
import re
import subprocess
import sys


def test_a_service_under_load_and_abuse(package_environment):
    program = pathlib.Path(__file__).with_name('load.py')
    options = ['--requests=100', '--clients=8', '--malformed=200', '--open=500', '--rounds=1', '--hostile=1',
               '--upload=0.5', '--patience=60']
    done = subprocess.run([sys.executable, program, *options], check=False, env=package_environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r'^100 requests of 8 clients.*\npassed$', done.stdout, re.MULTILINE | re.DOTALL)
