"""Every part that a strategy can name, by what it is."""

from collections.abc import Mapping
from typing import Final

from dl_mqtt_clients.aggregation.strategies.adaptive_clip import AdaptiveClip
from dl_mqtt_clients.aggregation.strategies.bulyan import Bulyan
from dl_mqtt_clients.aggregation.strategies.clip_norm import ClipNorm
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
from dl_mqtt_clients.aggregation.strategies.staleness import HingeStaleness, PolynomialStaleness
from dl_mqtt_clients.aggregation.strategies.trimmed_mean import TrimmedMean

STEPS: Final = (FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi)
REDUCTIONS: Final = (Mean, UniformMean, FedNova, Median, TrimmedMean, Krum, MultiKrum, Bulyan)
TRANSFORMS: Final = (ClipNorm, AdaptiveClip, MedianClip, PolynomialStaleness, HingeStaleness)
PARTS: Final[Mapping[str, type]] = {part.__name__: part for part in (*STEPS, *REDUCTIONS, *TRANSFORMS)}
