"""What choosing a backend imports, seen in a process of its own."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from dl_mqtt_clients.learning.backend import use_backend
{before}
use_backend("jax")
seen = {{"matplotlib", "tensorflow", "torch"}} & set(sys.modules)
import matplotlib.pyplot
print(sorted(seen), matplotlib.pyplot.plot is not None)
"""


@pytest.mark.parametrize(("before", "seen"), [("", "[] True"), ("import matplotlib", "['matplotlib'] True")])
def test_keras_comes_alone_and_matplotlib_can_be_imported_afterwards(before, seen):
    pytest.importorskip("jax")
    pytest.importorskip("matplotlib")
    program = PROGRAM.format(before=before)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.returncode) == (seen, 0), done.stderr
