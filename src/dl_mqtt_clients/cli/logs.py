"""What services say on the standard error: text for people or one JSON object a line."""

import json
import logging
import sys
import time
import traceback
from typing import Final

from dl_mqtt_clients.config.local import LogSettings

OURS: Final = "dl_mqtt_clients"
CONNECTED: Final = "dl_mqtt_clients.services.link"  # says when a service is connected: always worth a line


class TextLines(logging.Formatter):
    """`2026-03-01 12:00:00,000 INFO services.trainer: …`; control characters in messages cannot break a line."""

    def __init__(self, *, bare: bool = False) -> None:
        super().__init__("%(message)s" if bare else "%(asctime)s %(levelname)s %(place)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.place = record.name.removeprefix(f"{OURS}.")
        record.message = "".join(c if c.isprintable() else "?" for c in record.message)
        return super().formatMessage(record)


class JsonLines(logging.Formatter):
    """`{"time": "2026-03-01T12:00:00.000Z", "level": "info", "logger": …, "message": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(fields)


def set_up_logs(settings: LogSettings) -> None:
    """Our loggers at the wanted level, those of libraries at warning, all to the standard error."""
    level = settings.level.upper()
    logging.basicConfig(level=logging.WARNING, handlers=[_handler(settings)], force=True)
    logging.getLogger(OURS).setLevel(level)
    logging.getLogger(CONNECTED).setLevel(min(logging.INFO, logging.getLevelName(level)))
    logging.captureWarnings(True)


def _handler(settings: LogSettings) -> logging.Handler:
    if settings.format == "text" and sys.stderr.isatty():
        from rich.console import Console  # noqa: PLC0415 - only on a terminal
        from rich.logging import RichHandler  # noqa: PLC0415 - only on a terminal

        rich = RichHandler(console=Console(stderr=True), show_path=False, log_time_format="[%X]", markup=False)
        rich.setFormatter(TextLines(bare=True))
        return rich
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.format == "json" else TextLines())
    return handler
