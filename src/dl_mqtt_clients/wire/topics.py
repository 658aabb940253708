"""Every topic of the protocol, in one place.

Federation broker, below `fedlearn/1/<federation>/`:

    manager/status   round   model/<stage>   blob/<sha256>/<k>   history   command   answer/<operator>
    node/<id>/<role>/status      node/<id>/<role>/statistics
    node/<id>/trainer/offer      node/<id>/trainer/reply      node/<id>/trainer/update/<sha256>/<k>
    node/<id>/predictor/anomaly

Data broker: `reading/<id>`, `label/<id>`, `score/<id>` (names are settings; `{node}` stands for the id).
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

from dl_mqtt_clients.errors import MessageError

PROTOCOL: Final = 1
Role = Literal["trainer", "predictor"]
Stage = Literal["global", "production", "canary"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")  # one spelling a number, ASCII digits only
_KINDS: Final = {
    "trainer": ("status", "statistics", "features", "offer", "reply"),
    "predictor": ("status", "statistics", "anomaly"),
}


def is_name(text: str) -> bool:
    """Whether `text` may name a node or a federation: 1 to 64 of A-Z a-z 0-9 _ -."""
    return _NAME.fullmatch(text) is not None


def is_sha256(text: str) -> bool:
    return _SHA256.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class NodeTopic:
    """What a topic below `node/` says: who, in which role, and what about (`offer`, `status`, …)."""

    node: str
    role: Role
    kind: str
    sha256: str = ""
    index: int = -1


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one federation."""

    federation: str = "default"

    @property
    def root(self) -> str:
        return f"fedlearn/{PROTOCOL}/{self.federation}"

    @property
    def manager_status(self) -> str:
        return f"{self.root}/manager/status"

    @property
    def round(self) -> str:
        return f"{self.root}/round"

    @property
    def history(self) -> str:
        return f"{self.root}/history"

    @property
    def command(self) -> str:
        return f"{self.root}/command"

    def answer(self, operator: str) -> str:
        """Where who sent a command wants to hear the answer."""
        return f"{self.root}/answer/{operator}"

    def model(self, stage: str) -> str:
        return f"{self.root}/model/{stage}"

    def blob(self, sha256: str, index: int | str) -> str:
        return f"{self.root}/blob/{sha256}/{index}"

    def status(self, node: str, role: str) -> str:
        return f"{self.root}/node/{node}/{role}/status"

    def statistics(self, node: str, role: str) -> str:
        return f"{self.root}/node/{node}/{role}/statistics"

    def features(self, node: str) -> str:
        return f"{self.root}/node/{node}/trainer/features"

    def offer(self, node: str) -> str:
        return f"{self.root}/node/{node}/trainer/offer"

    def reply(self, node: str) -> str:
        return f"{self.root}/node/{node}/trainer/reply"

    def update(self, node: str, sha256: str, index: int | str) -> str:
        return f"{self.root}/node/{node}/trainer/update/{sha256}/{index}"

    def anomaly(self, node: str) -> str:
        return f"{self.root}/node/{node}/predictor/anomaly"

    def parse_node(self, topic: str) -> NodeTopic:
        """Read a topic below `node/`. MessageError when it is none of ours."""
        parts = topic.removeprefix(f"{self.root}/node/").split("/")
        if not topic.startswith(f"{self.root}/node/") or len(parts) < 3 or not is_name(parts[0]):
            raise MessageError(f"topic: expected {self.root}/node/<id>/<role>/…. Received: {topic[:200]!r}")
        node, role, kind = parts[:3]
        if role not in ("trainer", "predictor"):
            raise MessageError(f"topic: expected role trainer or predictor. Received: {role[:64]!r}")
        if len(parts) == 3 and kind in _KINDS[role]:
            return NodeTopic(node, role, kind)  # type: ignore[arg-type]
        if role != "trainer" or kind != "update":
            raise MessageError(f"topic: nothing is expected at {'/'.join(parts[1:])[:200]!r}")
        if len(parts) != 5 or not is_sha256(parts[3]) or not _INDEX.fullmatch(parts[4]):
            raise MessageError(f"topic: expected update/<sha256>/<k>. Received: {'/'.join(parts[2:])[:200]!r}")
        return NodeTopic(node, role, kind, parts[3], int(parts[4]))  # type: ignore[arg-type]


def for_node(pattern: str, node: str) -> str:
    """A data-broker topic: `reading/{node}` -> `reading/jetson-07`."""
    return pattern.replace("{node}", node)
