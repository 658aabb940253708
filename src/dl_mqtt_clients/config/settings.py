"""All settings in one value. Each role reads the sections that concern it, so that one file serves all roles."""

import re
import socket
from typing import Any, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from dl_mqtt_clients.config.agreement import (
    PromotionSettings,
    QuarantineSettings,
    ScalingSettings,
    ThresholdSettings,
    VocabularySettings,
)
from dl_mqtt_clients.config.base import Section
from dl_mqtt_clients.config.broker import BrokerSettings, DataBrokerSettings
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
from dl_mqtt_clients.config.mistakes import RULES_BROKEN, exists, unknown
from dl_mqtt_clients.config.rules import broken_rules
from dl_mqtt_clients.config.shared import (
    FederationSettings,
    ModelSettings,
    RoundSettings,
    TrainingSettings,
    TransferSettings,
)
from dl_mqtt_clients.errors import ConfigurationError


class Settings(Section):
    """All settings; `Settings()` has the defaults. Values are checked when they are given, then frozen."""

    federation: FederationSettings = FederationSettings()
    broker: BrokerSettings = BrokerSettings()
    data_broker: DataBrokerSettings = DataBrokerSettings()
    node: NodeSettings = NodeSettings()
    model: ModelSettings = ModelSettings()
    learning: LearningSettings = LearningSettings()
    rounds: RoundSettings = RoundSettings()
    transfer: TransferSettings = TransferSettings()
    training: TrainingSettings = TrainingSettings()
    readings: ReadingSettings = ReadingSettings()
    scaling: ScalingSettings = ScalingSettings()
    vocabulary: VocabularySettings = VocabularySettings()
    threshold: ThresholdSettings = ThresholdSettings()
    promotion: PromotionSettings = PromotionSettings()
    quarantine: QuarantineSettings = QuarantineSettings()
    predictor: PredictorSettings = PredictorSettings()
    data: DataSettings = DataSettings()
    generator: GeneratorSettings = GeneratorSettings()
    artifacts: ArtifactSettings = ArtifactSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if broken := broken_rules(self):
            raise PydanticCustomError(RULES_BROKEN, "rules", {"broken": broken})
        return self

    @property
    def node_id(self) -> str:
        """`node.id`, or else the host's name with `-` for every character that an id may not have."""
        host = re.sub(r"[^A-Za-z0-9_-]+", "-", socket.gethostname()).strip("-")[:64]
        return self.node.id or host or "node"

    def replace(self, **changes: Any) -> Self:
        """A checked copy: `settings.replace(**{"training.epochs": 3, "node": NodeSettings(id="a")})`."""
        tree = self.model_dump(exclude_unset=True)  # what nobody chose stays open (the backend)
        for name, value in changes.items():
            path = tuple(name.split("."))
            if not exists(path, type(self)):
                raise ConfigurationError([unknown(path, type(self)).text()])
            inner = tree
            for section in path[:-1]:
                inner = inner.setdefault(section, {})
            inner[path[-1]] = value.model_dump(exclude_unset=True) if isinstance(value, Section) else value
        return type(self)(**tree)
