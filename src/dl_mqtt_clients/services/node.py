"""What a trainer and a predictor share: identity, status, the model they fetch, and their stream of readings."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar, Generic

import numpy as np

from dl_mqtt_clients.aggregation.files import only_one
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.data.readings import ReadingParser
from dl_mqtt_clients.errors import DataError, MessageError, ModelError, TransferError
from dl_mqtt_clients.services.fetch import Blobs, Fetcher, check_sizes
from dl_mqtt_clients.services.from_settings import address
from dl_mqtt_clients.services.link import Link
from dl_mqtt_clients.services.loop import Service
from dl_mqtt_clients.services.runtime import ModelOf, Runtime
from dl_mqtt_clients.services.status import StatusBoard, new_instance
from dl_mqtt_clients.services.stream import ReadingStream
from dl_mqtt_clients.transport.base import Delivery, Will
from dl_mqtt_clients.wire.messages import Manifest, NodeStatus, decode, encode
from dl_mqtt_clients.wire.topics import Role, Stage, Topics
from dl_mqtt_clients.wire.weights import join

log = logging.getLogger(__name__)


class Node(Service, Generic[ModelOf]):
    """A device in one role. It needs an address and nothing else: the model comes over the network."""

    role: ClassVar[Role]
    stages: ClassVar[Sequence[Stage]]  # the versions it follows
    blobs: ClassVar[Sequence[str]] = ("weights", "frozen")  # what it fetches of them, beside the model's description

    def __init__(self, settings: Settings, runtime: Runtime[ModelOf]) -> None:
        super().__init__()
        self.runtime = runtime
        self.settings = settings
        self.node_id = settings.node_id
        self.folder = Path(settings.node.state_dir) / self.node_id / self.role
        self.folder.mkdir(parents=True, exist_ok=True)
        self.backend = runtime.name
        self.topics = Topics(settings.federation.name)
        self._models = tuple(self.topics.model(stage) for stage in self.stages)
        self.state: str = "starting"
        self.manifest: Manifest | None = None  # of the version held
        self.model: ModelOf | None = None
        self._exit = ExitStack()
        self._instance = new_instance()
        topic = self.topics.status(self.node_id, self.role)
        self.status = StatusBoard(
            self.loop,
            topic,
            instance=self._instance,
            past=self.folder / "instances",
            current=self.current_status,
        )
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
            self.link.transport,
            names=(runtime.describes, *self.blobs),
            limit_bytes=settings.transfer.max_update_bytes,
            on_ready=self._fetched,
            on_error=self._refuse_model,
        )
        self.stream: ReadingStream | None = None

    # ---- for the roles to fill in ----

    @abstractmethod
    def _prepare(self, manifest: Manifest, model: ModelOf, weights: Sequence[np.ndarray]) -> None:
        """Last step before a version is adopted. ModelError, and nothing changed, when it cannot be."""

    @abstractmethod
    def _adopted(self, weights: Sequence[np.ndarray]) -> None:
        """`self.model` and `self.manifest` are this version's now."""

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
        self.runtime.load()
        self._exit.enter_context(only_one(self.folder))
        self.state = "waiting"
        self.status.begin(self.link)
        self.link.start(*self._models, *self._subscriptions())
        if self.stream is not None:
            self.stream.start()

    def _finish(self) -> None:
        self.state = "stopped"
        with ExitStack() as ends:  # each of them, whatever happens to the others; the last one first
            ends.callback(self._exit.close)
            if self.stream is not None:
                ends.callback(self.stream.stop)
            ends.callback(self.link.stop)
            self.status.goodbye()

    def _connected(self) -> None:
        self.status.connected()

    def _disconnected(self, reason: str) -> None:
        self.last_error = reason

    def _receive(self, delivery: Delivery) -> None:
        try:
            if self.status.is_own(delivery) or self.fetcher.receive(delivery):
                return
            if delivery.topic in self._models:
                self._consider_manifest(delivery)
            else:
                self._message(delivery)
        except MessageError as error:
            self.last_error = f"{delivery.topic}: {error}"[:1000]
            self.status.changed()

    # ---- the model ----

    def _is_for_us(self, manifest: Manifest) -> bool:  # noqa: ARG002 - for the roles
        return True

    def _consider_manifest(self, delivery: Delivery) -> None:
        manifest = decode(delivery.payload, Manifest) if delivery.payload else None
        if manifest is None or not self._is_for_us(manifest):
            return
        held = self.manifest
        if held is not None and _newness(manifest) <= _newness(held):
            if manifest == held:
                self._is_newest(live=not delivery.retained)
            return
        if manifest == self.fetcher.wanted:
            return  # on its way
        try:
            check_sizes(
                manifest,
                stage=delivery.topic.rpartition("/")[2],
                max_parameters=self.settings.model.max_parameters,
                description=self.runtime.describes,
            )
        except TransferError as error:
            self._refuse_model(str(error))
            return
        self.fetcher.want(manifest)
        if self.fetcher.wanted is not None and self.state == "waiting":
            self.state = "fetching"
            self.status.changed()

    def _is_newest(self, *, live: bool) -> None:
        """The version that we hold is announced again; `live`: by a manager that has a new connection just now."""
        self.fetcher.cancel()
        if self.state == "fetching":
            self.state = "waiting"
        if live:
            self._published_again()

    def _published_again(self) -> None:
        """For the roles: a manager that was killed may have lost what we told it."""

    def _fetched(self, manifest: Manifest, blobs: Blobs) -> None:
        if self.state == "fetching":
            self.state = "waiting"
        try:
            self._take(manifest, blobs)
        except (ModelError, TransferError, DataError) as error:
            self._refuse_model(str(error))
        self.status.changed()

    def _take(self, manifest: Manifest, blobs: Blobs) -> None:
        """Adopt a version, or keep the old one altogether: ModelError, TransferError, DataError say why."""
        model = self._rebuilt(manifest, bytes(blobs[self.runtime.describes]))
        weights = _finite(join(blobs, manifest.variables))
        parser = self._parser_for(model, manifest) if model is not self.model else None
        self._prepare(manifest, model, weights)
        if parser is not None and self.stream is not None:
            self.stream.expect(parser)
        self.model, self.manifest = model, manifest
        self._adopted(weights)

    def _parser_for(self, model: ModelOf, manifest: Manifest) -> ReadingParser:
        """Of the readings that this model takes. ModelError when our own names of features are too few or too many."""
        settings = self.settings.readings
        names = settings.features or model.features
        if names and len(names) != model.n_features:
            raise ModelError(
                f"readings.features: expected {model.n_features} names, as the model's. Received: {len(names)}"
            )
        return ReadingParser(names or model.n_features, label=settings.label, categorical=manifest.categorical)

    def _rebuilt(self, manifest: Manifest, description: bytes) -> ModelOf:
        """The model of this architecture: the one we have when it is the same, or else a new one."""
        model = self.model
        if model is None or model.architecture != description:
            model = self.runtime.rebuild(description, manifest)
        model.take_roles(manifest.variables)
        if (model.task, model.features) != (manifest.task, manifest.features):
            raise ModelError("manifest: its task and features are not those of its architecture")
        return model

    def _refuse_model(self, reason: str) -> None:
        """Keep what we have, and say why."""
        if self.state == "fetching":
            self.state = "waiting"
        self.last_error = f"model refused: {reason}"[:1000]
        log.warning("%s", self.last_error)
        self.status.changed()


def _finite(weights: list[np.ndarray]) -> list[np.ndarray]:
    if not all(np.isfinite(w).all() for w in weights):
        raise ModelError("weights: they hold NaN or infinity")
    return weights


def _newness(manifest: Manifest) -> tuple[int, int]:
    return manifest.generation, manifest.serial
