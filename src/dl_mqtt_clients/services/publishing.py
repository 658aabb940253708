"""The broker is a cache of the manager's disk: live blobs, manifests, round and history; the rest is cleared."""

import logging
from collections.abc import Iterable
from typing import Final

from dl_mqtt_clients.aggregation.store import Store
from dl_mqtt_clients.services.link import Link
from dl_mqtt_clients.transport.base import Delivery
from dl_mqtt_clients.wire.messages import Blob, History, Manifest, Round
from dl_mqtt_clients.wire.topics import Topics, is_sha256
from dl_mqtt_clients.wire.transfer import chunk, chunk_count

log = logging.getLogger(__name__)

_MOST_CLEARED: Final = 10_000  # chunks of one left-over blob: a stranger's word, that costs us a message each
_CHUNKS: Final = "chunks"  # user property of a chunk: how many there are, so that a stranger can clear them


class Publisher:
    """Everything the manager keeps retained but its status."""

    def __init__(self, topics: Topics, store: Store, link: Link) -> None:
        self._topics = topics
        self._store = store
        self._link = link
        self._live: dict[str, Blob] = {}  # by hash, as far as this connection knows
        self._said: dict[str, Manifest] = {}  # by stage, likewise

    @property
    def leftovers(self) -> str:
        """The topics where left-over blobs show; what comes there is for `found`."""
        return self._topics.blob("+", 0)

    def connected(self, manifests: Iterable[Manifest]) -> None:
        """A new connection: the broker may have forgotten, or remember too much."""
        self._live.clear()
        self._said.clear()
        manifests = list(manifests)
        self.publish(manifests)
        for stage in {"global", "production", "canary"} - {m.stage for m in manifests}:
            self._link.transport.publish(self._topics.model(stage), b"", retain=True)

    def publish(self, manifests: Iterable[Manifest]) -> None:
        """Chunks first, then the manifests that name them; each once a connection (again means: newly connected)."""
        manifests = list(manifests)
        needed = {blob.sha256: blob for manifest in manifests for blob in manifest.blobs.values()}
        for blob in needed.values():
            if blob.sha256 not in self._live:
                self._publish_blob(blob)
        if "canary" in self._said and all(m.stage != "canary" for m in manifests):
            del self._said["canary"]
            self._link.transport.publish(self._topics.model("canary"), b"", retain=True)
        for manifest in manifests:
            if self._said.get(manifest.stage) != manifest:
                self._link.send(self._topics.model(manifest.stage), manifest, retain=True)
                self._said[manifest.stage] = manifest

    def clear_all_but(self, manifests: Iterable[Manifest]) -> None:
        """Clear the blobs that none of these needs."""
        needed = {blob.sha256 for manifest in manifests for blob in manifest.blobs.values()}
        for blob in [b for b in self._live.values() if b.sha256 not in needed]:
            self._clear(blob.sha256, chunk_count(blob.bytes, blob.chunk_bytes))
            del self._live[blob.sha256]

    def announce(self, round_: Round, *, expiry_s: float | None) -> None:
        self._link.send(self._topics.round, round_, retain=True, expiry_s=expiry_s)

    def history(self, history: History) -> None:
        self._link.send(self._topics.history, history, retain=True)

    def found(self, delivery: Delivery) -> bool:
        """A retained first chunk: cleared with its fellows when it is of a blob that is not live."""
        prefix = f"{self._topics.root}/blob/"
        if not delivery.topic.startswith(prefix):
            return False
        sha256 = delivery.topic[len(prefix) :].partition("/")[0]
        if delivery.payload and delivery.retained and is_sha256(sha256) and sha256 not in self._live:
            count = dict(delivery.properties).get(_CHUNKS, "1")
            log.info("clearing a left-over blob %s…", sha256[:12])
            self._clear(sha256, min(int(count), _MOST_CLEARED) if count.isdecimal() and len(count) < 10 else 1)
        return True

    def _publish_blob(self, blob: Blob) -> None:
        data = self._store.blob(blob.sha256)
        chunks = chunk_count(blob.bytes, blob.chunk_bytes)
        for index in range(chunks):
            self._link.transport.publish(
                self._topics.blob(blob.sha256, index),
                chunk(data, index, blob.chunk_bytes),
                retain=True,
                properties=[(_CHUNKS, str(chunks))],
            )
        self._live[blob.sha256] = blob

    def _clear(self, sha256: str, chunks: int) -> None:
        for index in range(chunks):
            self._link.transport.publish(self._topics.blob(sha256, index), b"", retain=True)
