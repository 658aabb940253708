"""What a trainer and a predictor share: identity, status, the model they fetch, and their stream of readings."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.errors import MessageError, ModelError, TransferError
from dl_mqtt_clients.services.fetch import Blobs, Fetcher, blob_of
from dl_mqtt_clients.services.from_settings import address, use_backend_of
from dl_mqtt_clients.services.link import Link
from dl_mqtt_clients.services.loop import Service
from dl_mqtt_clients.services.status import StatusBoard, new_instance
from dl_mqtt_clients.services.stream import ReadingStream
from dl_mqtt_clients.transport.base import Delivery, Will
from dl_mqtt_clients.wire.messages import Manifest, NodeStatus, Variable, decode, encode
from dl_mqtt_clients.wire.topics import Role, Stage, Topics
from dl_mqtt_clients.wire.weights import decode as decode_weights

if TYPE_CHECKING:
    from dl_mqtt_clients.learning.model import FederatedModel

log = logging.getLogger(__name__)


class Node(Service):
    """A device in one role. It needs an address and nothing else: the model comes over the network."""

    role: ClassVar[Role]
    stage: ClassVar[Stage]  # the versions it follows

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.node_id = settings.node_id
        self.folder = Path(settings.node.state_dir) / self.node_id / self.role
        self.folder.mkdir(parents=True, exist_ok=True)
        self.backend = use_backend_of(settings)
        self.topics = Topics(settings.federation.name)
        self.state: str = "starting"
        self.manifest: Manifest | None = None  # of the version held
        self.model: FederatedModel | None = None
        self._instance = new_instance()
        self._newest = (0, 0)  # (generation, serial) of the newest manifest seen
        topic = self.topics.status(self.node_id, self.role)
        self.status = StatusBoard(self.loop, topic, instance=self._instance, current=self.current_status)
        self.link = Link(
            self.loop,
            address(settings.broker),
            client_id=f"{self.node_id}:{self.role}",
            will=Will(topic, encode(NodeStatus(state="lost", instance=self._instance))),
            on_message=self._receive,
            on_connected=self._connected,
            on_disconnected=self._disconnected,
        )
        self.fetcher = Fetcher(
            self.loop,
            self.topics,
            limit_bytes=settings.transfer.max_update_bytes,
            on_ready=self._fetched,
            on_error=self._refuse_model,
        )
        self.stream: ReadingStream | None = None

    # ---- for the roles to fill in ----

    @abstractmethod
    def _adopt(self, manifest: Manifest, weights: Sequence[np.ndarray]) -> None:
        """A version is here, whole and fitting; `self.model` is rebuilt."""

    @abstractmethod
    def _message(self, delivery: Delivery) -> None:
        """A message of the role's own topics. MessageError when it is none."""

    @abstractmethod
    def _subscriptions(self) -> Sequence[str]:
        """The role's own topics."""

    @abstractmethod
    def current_status(self) -> NodeStatus: ...

    # ---- life ----

    def _start(self) -> None:
        from dl_mqtt_clients.learning import architecture  # noqa: F401, PLC0415 - Keras takes its time: do it now

        self.state = "waiting"
        self.link.start()
        if self.stream is not None:
            self.stream.start()

    def _finish(self) -> None:
        self.state = "stopped"
        self.status.goodbye()
        self.link.stop()
        if self.stream is not None:
            self.stream.stop()

    def _connected(self) -> None:
        self.fetcher.connected(self.link.transport)
        for topic in (self.topics.model(self.stage), *self._subscriptions()):
            self.link.transport.subscribe(topic)
        self.status.connected(self.link)

    def _disconnected(self, reason: str) -> None:
        self.last_error = reason

    def _receive(self, delivery: Delivery) -> None:
        if self.status.is_own(delivery) or self.fetcher.receive(delivery):
            return
        try:
            if delivery.topic == self.topics.model(self.stage):
                self._consider_manifest(delivery)
            else:
                self._message(delivery)
        except MessageError as error:
            self.last_error = f"{delivery.topic}: {error}"[:1000]
            self.status.changed()

    # ---- the model ----

    def _consider_manifest(self, delivery: Delivery) -> None:
        if not delivery.payload:
            return
        manifest = decode(delivery.payload, Manifest)
        newness = (manifest.generation, manifest.serial)
        if manifest.stage != self.stage or newness < self._newest:
            return
        if newness == self._newest and self.manifest is not None and self.manifest.version == manifest.version:
            return
        self._newest = newness
        try:
            blob_of(manifest, "architecture"), blob_of(manifest, "weights")
        except TransferError as error:
            self._refuse_model(str(error))
            return
        self.fetcher.want(manifest)
        if self.fetcher.wanted is not None and self.state == "waiting":
            self.state = "fetching"
            self.status.changed()

    def _fetched(self, manifest: Manifest, blobs: Blobs) -> None:
        if self.state == "fetching":
            self.state = "waiting"
        try:
            self._rebuild(manifest, bytes(blobs["architecture"]))
            weights = decode_weights(blobs["weights"], manifest.variables)
        except (ModelError, TransferError) as error:
            self._refuse_model(str(error))
            return
        self._adopt(manifest, weights)
        self.status.changed()

    def _rebuild(self, manifest: Manifest, description: bytes) -> None:
        """`self.model` for this architecture; kept when it is the same. ModelError leaves the old one in place."""
        from dl_mqtt_clients.learning.architecture import rebuild  # noqa: PLC0415 - imports Keras

        model = self.model
        if model is None or model.architecture != description:
            limits = self.settings.model
            model = rebuild(description, max_parameters=limits.max_parameters, custom_modules=limits.custom_modules)
        if [_kind(v) for v in model.variables] != [_kind(v) for v in manifest.variables]:
            raise ModelError("manifest: its list of variables is not that of its architecture")
        if model is not self.model:
            self.model = model
            if self.stream is not None:
                self.stream.expect(self.settings.readings.features or manifest.features or model.n_features)

    def _refuse_model(self, reason: str) -> None:
        """Keep what we have, and say why."""
        if self.state == "fetching":
            self.state = "waiting"
        self.last_error = f"model refused: {reason}"[:1000]
        log.warning("%s", self.last_error)
        self.status.changed()


def _kind(variable: Variable) -> tuple[str, tuple[int, ...], str]:
    return variable.role, tuple(variable.shape), variable.dtype
