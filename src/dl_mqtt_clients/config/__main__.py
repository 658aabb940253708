"""`python -m dl_mqtt_clients.config > federated_learning.yaml`: the configuration file with all defaults."""

import sys

from dl_mqtt_clients.config.render import render_settings

sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
sys.stdout.write(render_settings())
