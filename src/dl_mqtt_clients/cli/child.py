"""`fedlearn …` as the child of another process, in whose lifetime it ends.

The parent holds the other end of this process's standard input. When it ends, however it ends, the pipe closes; the
command is then asked to stop as by SIGTERM, and gone after `GRACE_S` at the latest. Works wherever there are pipes.
"""

import logging
import os
import signal
import sys
import threading
from typing import Final

GRACE_S: Final = 5.0


def _end_with_parent() -> None:
    while os.read(0, 4096):  # not sys.stdin: its lock would be held when the interpreter ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(GRACE_S)
    os._exit(1)


def _run() -> int:
    """The command's exit code."""
    from dl_mqtt_clients.cli.main import main  # noqa: PLC0415 - the thread first

    try:
        main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()
    exit_code = _run()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # taking JAX down in order costs half a second of each process, for nothing
