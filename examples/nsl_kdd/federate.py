"""Four nodes, each seeing other services of NSL-KDD, learn one anomaly detector without sharing a connection record.

    python examples/nsl_kdd/federate.py --data PATH/TO/NSL-KDD [--broker mqtt://localhost:1883] [--rounds 20]

Without --broker an embedded one is started. Prints the AUROC on KDDTest+ after each round.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from dl_mqtt_clients import EmbeddedBroker, Manager, ScalerValues, Settings, Trainer
from dl_mqtt_clients.data.nsl_kdd import load_nsl_kdd
from dl_mqtt_clients.data.partition import partition
from dl_mqtt_clients.learning.builders import build_core
from dl_mqtt_clients.learning.evaluation import auroc
from dl_mqtt_clients.learning.model import FederatedModel

NODES = ("web", "mail", "files", "other")


def federate(data: Path, *, broker: str, rounds: int, folder: Path) -> list[float]:
    """AUROC on KDDTest+ after every round."""
    splits = load_nsl_kdd(data)
    normal = splits.train.normal()
    shards = partition(normal, NODES, by="group")
    scaler = ScalerValues.minmax(normal.x)
    core = build_core(
        n_features=normal.x.shape[1], task="anomaly", hidden=(64, 16, 64), activation="relu",
        output_activation="sigmoid", loss="", learning_rate=1e-3, seed=1,
    )  # fmt: skip
    settings = Settings().replace(
        **{
            "broker.url": broker,
            "node.state_dir": str(folder / "state"),
            "artifacts.dir": str(folder / "artifacts"),
            "rounds.target_updates": len(NODES),
            "rounds.min_updates": len(NODES),
            "readings.holdout": 0.05,
        }
    )
    results: list[float] = []
    judge = FederatedModel.from_core(core, features=normal.features, scaler=scaler)

    def measure(_report: object) -> None:
        judge.set_weights(manager.versions.weights)
        results.append(auroc(judge.scores(splits.test.x), splits.test.y) or 0.0)
        print(f"round {len(results):2d}: AUROC {results[-1]:.4f}")

    with ExitStack() as stack:
        for node, rows in zip(NODES, shards, strict=True):
            stack.enter_context(Trainer(node, settings=settings, readings=normal.x[rows]))
        manager = Manager(core, settings=settings, features=normal.features, scaler=scaler, rounds=rounds,
                          on_round=measure)  # fmt: skip
        manager.run()
    sizes = ", ".join(f"{node} {len(rows)}" for node, rows in zip(NODES, shards, strict=True))
    print(f"readings a node: {sizes}; best AUROC {np.max(results):.4f}, last {results[-1]:.4f}")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with KDDTrain+_20Percent.txt and KDDTest+.txt")
    parser.add_argument("--broker", default="", help="an MQTT 5 broker; empty: an embedded one")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    with TemporaryDirectory() as folder, ExitStack() as stack:
        broker = options.broker or stack.enter_context(EmbeddedBroker()).url
        federate(options.data, broker=broker, rounds=options.rounds, folder=Path(folder))


if __name__ == "__main__":
    main()
