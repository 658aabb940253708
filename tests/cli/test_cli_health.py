"""`fedlearn health`."""

import json
import subprocess
import sys

import pytest

from dl_mqtt_clients.services.health import FILE, Pulse, uptime_s


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "a" / "trainer"
    folder.mkdir(parents=True)
    return folder


def ask(run, tmp_path, *options):
    return run("health", "trainer", "--node", "a", "--state", str(tmp_path), *options)


def test_a_service_that_heard_itself_is_healthy(run, tmp_path, folder):
    Pulse(folder).heard()
    result = ask(run, tmp_path, "--json")
    assert result.code == 0
    assert json.loads(result.out)["healthy"] is True


def test_one_that_never_ran_is_not(run, tmp_path):
    result = ask(run, tmp_path)
    assert result.code == 1
    assert "never" in result.out


def test_one_that_is_connected_no_longer_is_not_unless_that_may_be(run, tmp_path, folder):
    now = uptime_s()
    (folder / FILE).write_text(f"{now} {now - 500}\n")
    assert ask(run, tmp_path).code == 1
    assert ask(run, tmp_path, "--heard", "3600").code == 0


def test_one_whose_loop_stands_still_is_not(run, tmp_path, folder):
    then = uptime_s() - 500
    (folder / FILE).write_text(f"{then} {then}\n")
    assert ask(run, tmp_path, "--heard", "3600").code == 1


def test_the_question_costs_no_keras(tmp_path):
    """A device is asked every half minute."""
    program = (
        "import sys\nfrom dl_mqtt_clients.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: sys.exit('keras' in sys.modules)"
    )
    command = [sys.executable, "-c", program, "health", "trainer", "--state", str(tmp_path)]
    assert subprocess.run(command, check=False, timeout=60, capture_output=True).returncode == 0
