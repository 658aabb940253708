"""Commands with a time limit, waits with a deadline."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path


class LabError(Exception):
    """Something the user can act on; shown without a traceback."""


def run(*command, timeout=60, check=True, **options) -> subprocess.CompletedProcess[str]:
    """Run quietly, at most `timeout` seconds. LabError with the last output when it fails and `check`."""
    words = [str(word) for word in command]
    brief = " ".join(word for word in words if "=" not in word)[:200]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    try:
        done = subprocess.run(words, timeout=timeout, check=False, **options)
    except subprocess.TimeoutExpired:
        raise LabError(f"{brief}: expected an end within {timeout} s. Received: none") from None
    if check and done.returncode:
        raise LabError(f"{brief}: exit {done.returncode}\n{(done.stderr or done.stdout or '')[-2000:]}")
    return done


def works(*command, **options) -> bool:
    return run(*command, check=False, **options).returncode == 0


def wait_for(what: str, condition: Callable[[], bool], *, within_s: float) -> None:
    """Other machines' processes give no event to wait for: look ten times a second."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {within_s:g} s")
        threading.Event().wait(0.1)


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Say what is done and how long it took."""
    begin, failed = time.monotonic(), " FAILED after"
    print(f"  {text} …", end="", flush=True, file=sys.stderr)
    try:
        yield
        failed = ""
    finally:
        print(f"{failed} {time.monotonic() - begin:.1f} s", file=sys.stderr)


def write(path: Path, text: str, *, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
