"""Fetches what a manifest names, from the broker's retained chunks, by exact topic; no manager is needed for it."""

import logging
from collections.abc import Callable
from typing import Final

from dl_mqtt_clients.errors import TransferError
from dl_mqtt_clients.services.loop import Loop
from dl_mqtt_clients.transport.base import Delivery, Transport
from dl_mqtt_clients.wire.messages import Blob, Manifest
from dl_mqtt_clients.wire.topics import Topics
from dl_mqtt_clients.wire.transfer import Download

log = logging.getLogger(__name__)

ASK_AGAIN_S: Final = 1.0

Blobs = dict[str, bytes | bytearray]


class Fetcher:
    """One manifest at a time; a newer one replaces it. `on_ready(manifest, blobs)` runs when all is verified."""

    def __init__(
        self,
        loop: Loop,
        topics: Topics,
        *,
        limit_bytes: int,
        on_ready: Callable[[Manifest, Blobs], None],
        on_error: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._topics = topics
        self._limit = limit_bytes
        self._on_ready = on_ready
        self._on_error = on_error
        self._transport: Transport | None = None
        self._manifest: Manifest | None = None
        self._downloads: dict[str, Download] = {}  # by hash
        self._held: Blobs = {}  # by hash

    @property
    def wanted(self) -> Manifest | None:
        """The manifest that is being fetched."""
        return self._manifest

    def connected(self, transport: Transport) -> None:
        """Call on every connect: the transport subscribes again by itself, and chunks come again."""
        self._transport = transport

    def hold(self, sha256: str, content: bytes | bytearray) -> None:
        """A blob we have already (from disk, or because we made it)."""
        self._held[sha256] = content

    def want(self, manifest: Manifest) -> None:
        """Fetch what of this manifest is not held yet."""
        self.cancel()
        needed = {blob.sha256 for blob in manifest.blobs.values()}
        self._held = {k: v for k, v in self._held.items() if k in needed}
        self._manifest = manifest
        try:
            self._downloads = {
                b.sha256: Download(b, limit_bytes=self._limit)
                for b in manifest.blobs.values()
                if b.sha256 not in self._held
            }
        except TransferError as error:
            self._manifest = None
            self._on_error(str(error))
            return
        self._ask()
        self._finish_if_complete()

    def cancel(self) -> None:
        """Stop fetching."""
        for sha256, download in self._downloads.items():
            for index in download.asked:
                self._unsubscribe(sha256, index)
        self._downloads = {}
        self._manifest = None
        self._loop.cancel("fetch")

    def receive(self, delivery: Delivery) -> bool:
        """Take a delivery when it is a chunk. A wrong chunk is reported, and asked for again."""
        prefix = f"{self._topics.root}/blob/"
        if not delivery.topic.startswith(prefix):
            return False
        sha256, _, index = delivery.topic[len(prefix) :].partition("/")
        download = self._downloads.get(sha256)
        if download is None or not index.isdecimal() or not delivery.payload:
            return True
        try:
            download.receive(int(index), delivery.payload)
        except TransferError as error:
            self._on_error(str(error))
            return True
        self._unsubscribe(sha256, int(index))
        self._ask()
        self._finish_if_complete()
        return True

    def _ask(self) -> None:
        if self._transport is None:
            return
        for sha256, download in self._downloads.items():
            for index in download.to_ask():
                self._transport.subscribe(self._topics.blob(sha256, index))
        if self._downloads:
            self._loop.at("fetch", ASK_AGAIN_S, self._ask_again)

    def _ask_again(self) -> None:
        """No chunk came for a while: the broker may have dropped some."""
        if self._transport is not None and self._transport.connected:
            for sha256, download in self._downloads.items():
                for index in download.asked:
                    self._transport.subscribe(self._topics.blob(sha256, index))
        self._loop.at("fetch", ASK_AGAIN_S, self._ask_again)

    def _finish_if_complete(self) -> None:
        manifest = self._manifest
        if manifest is None or any(not d.reception.complete for d in self._downloads.values()):
            return
        downloads, self._downloads, self._manifest = self._downloads, {}, None
        self._loop.cancel("fetch")
        try:
            self._held.update({sha256: d.result() for sha256, d in downloads.items()})
        except TransferError as error:
            self._on_error(str(error))
            return
        self._on_ready(manifest, {name: self._held[blob.sha256] for name, blob in manifest.blobs.items()})

    def _unsubscribe(self, sha256: str, index: int) -> None:
        if self._transport is not None:
            self._transport.unsubscribe(self._topics.blob(sha256, index))


def blob_of(manifest: Manifest, name: str) -> Blob:
    """The blob a manifest must have. TransferError when it lacks it."""
    try:
        return manifest.blobs[name]
    except KeyError as error:
        raise TransferError(f"manifest: expected a blob {name!r}. Received: {sorted(manifest.blobs)[:5]}") from error
