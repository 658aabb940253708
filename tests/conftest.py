"""What all tests may use."""

import signal

from hypothesis import settings

from brokers import (  # noqa: F401 - fixtures
    broker_url,
    connect,
    embedded,
    mosquitto,
    shared_embedded_url,
    shared_mosquitto_url,
    shared_our_mosquitto_url,
    unique_name,
)
from shared import beth_sample, nsl_kdd_files  # noqa: F401 - fixtures

settings.register_profile("project", deadline=None)  # two busy cores: a slow example is no failure
settings.load_profile("project")

# Started in the background or by nohup, these are ignored, and so they would be by every process a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
