"""A service as a process: `python service_processes.py manager|trainer|predictor '<settings as JSON>' …`.

Ends on SIGTERM, SIGINT and SIGHUP as the command does.
"""

import sys

from dl_mqtt_clients.cli.running import Stopper
from dl_mqtt_clients.config import Settings


def main(role: str, settings_json: str, *args: str) -> None:
    stopper = Stopper()
    settings = Settings.model_validate_json(settings_json)
    from dl_mqtt_clients.services.from_settings import use_backend_of

    use_backend_of(settings)
    import service_helpers as helpers

    if role == "manager":
        rounds, *fresh = args
        service = helpers.start_manager(settings, rounds=int(rounds) or None, fresh=bool(fresh))
    elif role == "trainer":
        from dl_mqtt_clients.services.trainer import Trainer

        service = Trainer(args[0], settings=settings, readings=helpers.readings(ord(args[0][-1])))
    elif role == "stream-trainer":
        from dl_mqtt_clients.services.trainer import Trainer

        service = Trainer(args[0], settings=settings)
    else:
        from dl_mqtt_clients.services.predictor import Predictor

        service = Predictor(args[0], settings=settings)
    stopper.run(service)


if __name__ == "__main__":
    main(*sys.argv[1:])
