"""Configuration: `federated_learning.yaml`, environment and flags as typed, frozen values."""

from dl_mqtt_clients.config.agreement import (
    PromotionSettings,
    QuarantineSettings,
    ScalingSettings,
    ThresholdSettings,
    VocabularySettings,
)
from dl_mqtt_clients.config.broker import BrokerSettings, DataBrokerSettings
from dl_mqtt_clients.config.load import load_settings
from dl_mqtt_clients.config.local import (
    ArtifactSettings,
    DataSettings,
    GeneratorSettings,
    LearningSettings,
    LogSettings,
    NodeSettings,
    PredictorSettings,
    ReadingSettings,
)
from dl_mqtt_clients.config.render import render_settings
from dl_mqtt_clients.config.settings import Settings
from dl_mqtt_clients.config.shared import (
    EarlyStoppingSettings,
    FederationSettings,
    ModelSettings,
    ReduceOnPlateauSettings,
    RoundSettings,
    TrainingSettings,
    TransferSettings,
)

__all__ = [
    "ArtifactSettings",
    "BrokerSettings",
    "DataBrokerSettings",
    "DataSettings",
    "EarlyStoppingSettings",
    "FederationSettings",
    "GeneratorSettings",
    "LearningSettings",
    "LogSettings",
    "ModelSettings",
    "NodeSettings",
    "PredictorSettings",
    "PromotionSettings",
    "QuarantineSettings",
    "ReadingSettings",
    "ReduceOnPlateauSettings",
    "RoundSettings",
    "ScalingSettings",
    "Settings",
    "ThresholdSettings",
    "TrainingSettings",
    "TransferSettings",
    "VocabularySettings",
    "load_settings",
    "render_settings",
]
