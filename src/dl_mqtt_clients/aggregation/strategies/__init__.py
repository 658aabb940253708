"""How updates become a version: server step @ reduction @ transforms.

    strategy = FedAdam(lr=0.01) @ TrimmedMean(0.1) @ ClipNorm(1.0)

A rule of one's own is a frozen dataclass with one method (see `parts`): `weigh` (linear reduction), `reduce` (robust
reduction), `apply` (server step) or `scale` (transform); YAML names it `module:name`.
"""

from dl_mqtt_clients.aggregation.strategies.adaptive_clip import AdaptiveClip
from dl_mqtt_clients.aggregation.strategies.aggregator import Aggregator, Checked, Merged
from dl_mqtt_clients.aggregation.strategies.bulyan import Bulyan
from dl_mqtt_clients.aggregation.strategies.clip_norm import ClipNorm
from dl_mqtt_clients.aggregation.strategies.expression import read_strategy
from dl_mqtt_clients.aggregation.strategies.fedadagrad import FedAdagrad
from dl_mqtt_clients.aggregation.strategies.fedadam import FedAdam
from dl_mqtt_clients.aggregation.strategies.fedavg import FedAvg
from dl_mqtt_clients.aggregation.strategies.fedavgm import FedAvgM
from dl_mqtt_clients.aggregation.strategies.fednova import FedNova
from dl_mqtt_clients.aggregation.strategies.fedyogi import FedYogi
from dl_mqtt_clients.aggregation.strategies.krum import Krum, MultiKrum
from dl_mqtt_clients.aggregation.strategies.mean import Mean, UniformMean
from dl_mqtt_clients.aggregation.strategies.median import Median
from dl_mqtt_clients.aggregation.strategies.median_clip import MedianClip
from dl_mqtt_clients.aggregation.strategies.parts import Facts, Part, Share, Update
from dl_mqtt_clients.aggregation.strategies.stack import Stack
from dl_mqtt_clients.aggregation.strategies.staleness import HingeStaleness, PolynomialStaleness
from dl_mqtt_clients.aggregation.strategies.strategy import Strategy
from dl_mqtt_clients.aggregation.strategies.trimmed_mean import TrimmedMean

__all__ = [
    "AdaptiveClip",
    "Aggregator",
    "Bulyan",
    "Checked",
    "ClipNorm",
    "Facts",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedNova",
    "FedYogi",
    "HingeStaleness",
    "Krum",
    "Mean",
    "Median",
    "MedianClip",
    "Merged",
    "MultiKrum",
    "Part",
    "PolynomialStaleness",
    "Share",
    "Stack",
    "Strategy",
    "TrimmedMean",
    "UniformMean",
    "Update",
    "read_strategy",
]
