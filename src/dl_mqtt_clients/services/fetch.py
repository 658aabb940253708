"""Fetches what a manifest names, from the broker's retained chunks, by exact topic; no manager is needed for it."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Final

from dl_mqtt_clients.errors import TransferError
from dl_mqtt_clients.services.loop import Loop
from dl_mqtt_clients.transport.base import Delivery, Transport
from dl_mqtt_clients.wire.controls import control_variables
from dl_mqtt_clients.wire.messages import Blob, Manifest
from dl_mqtt_clients.wire.topics import Topics
from dl_mqtt_clients.wire.transfer import Download
from dl_mqtt_clients.wire.weights import blob_positions, header_limit, nbytes

log = logging.getLogger(__name__)

NEEDED: Final = ("architecture", "weights")
MAX_DESCRIPTION_BYTES: Final = 16 * 1024 * 1024  # of an architecture or an ONNX graph
FIRST_PAUSE_S: Final = 1.0  # before missing chunks are asked for again
LAST_PAUSE_S: Final = 30.0

Blobs = dict[str, bytes | bytearray]


class Fetcher:
    """One manifest at a time; a newer one replaces it. `on_ready(manifest, blobs)` runs when all is verified.

    `names`: of the blobs to fetch, as far as a manifest has them.

    What does not come, or comes wrong, is asked for again, ever more seldom: the manager may repair it at any time.
    """

    def __init__(
        self,
        loop: Loop,
        topics: Topics,
        transport: Transport,
        *,
        names: Sequence[str] = NEEDED,
        limit_bytes: int,
        on_ready: Callable[[Manifest, Blobs], None],
        on_error: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._topics = topics
        self._transport = transport
        self._names = names
        self._limit = limit_bytes
        self._on_ready = on_ready
        self._on_error = on_error
        self._manifest: Manifest | None = None
        self._downloads: dict[str, Download] = {}  # by hash
        self._held: Blobs = {}  # by hash
        self._pause_s = FIRST_PAUSE_S

    @property
    def wanted(self) -> Manifest | None:
        """The manifest that is being fetched."""
        return self._manifest

    def hold(self, blob: Blob, data: bytes) -> None:
        """No need to fetch this, if the next manifest names it: we have it."""
        self._held[blob.sha256] = data

    def want(self, manifest: Manifest) -> None:
        """Fetch what of this manifest is not held yet; of what was being fetched, what it needs too goes on."""
        needed = {blob.sha256: blob for blob in self._wanted_of(manifest).values()}
        going = self._downloads
        self.cancel(but=needed)
        self._held = {k: v for k, v in self._held.items() if k in needed}
        try:
            self._downloads = {
                blob.sha256: self._download(blob, going) for blob in needed.values() if blob.sha256 not in self._held
            }
        except TransferError as error:
            self.cancel()
            self._on_error(str(error))
            return
        self._manifest = manifest
        self._pause_s = FIRST_PAUSE_S
        self._ask()
        self._finish_if_complete()

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
        self._transport.unsubscribe(self._topics.blob(sha256, index))
        self._pause_s = FIRST_PAUSE_S
        self._ask()
        self._finish_if_complete()
        return True

    def _download(self, blob: Blob, going: dict[str, Download]) -> Download:
        held = going.get(blob.sha256)
        return held if held and held.reception.blob == blob else Download(blob, limit_bytes=self._limit)

    def cancel(self, *, but: dict[str, Blob] | None = None) -> None:
        """Stop fetching, but for these."""
        for sha256, download in self._downloads.items():
            if but is None or but.get(sha256) != download.reception.blob:
                for index in download.asked:
                    self._transport.unsubscribe(self._topics.blob(sha256, index))
        self._downloads = {}
        self._manifest = None
        self._loop.cancel("fetch")

    def _ask(self) -> None:
        for sha256, download in self._downloads.items():
            for index in download.to_ask():
                self._transport.subscribe(self._topics.blob(sha256, index))
        if self._downloads:
            self._loop.at("fetch", self._pause_s, self._ask_again)

    def _ask_again(self) -> None:
        """No chunk came for a while: the broker may have dropped some, or never had them."""
        if self._transport.connected:
            for sha256, download in self._downloads.items():
                for index in sorted(download.asked):
                    self._transport.subscribe(self._topics.blob(sha256, index))
        self._pause_s = min(2.0 * self._pause_s, LAST_PAUSE_S)
        self._ask()

    def _finish_if_complete(self) -> None:
        manifest = self._manifest
        if manifest is None or any(not d.reception.complete for d in self._downloads.values()):
            return
        for sha256, download in list(self._downloads.items()):
            try:
                self._held[sha256] = download.result()
            except TransferError as error:
                self._downloads[sha256] = Download(download.reception.blob, limit_bytes=self._limit)
                self._on_error(str(error))
            else:
                del self._downloads[sha256]
        if self._downloads:
            self._loop.at("fetch", self._pause_s, self._ask_again)
            return
        self._manifest = None
        self._loop.cancel("fetch")
        self._on_ready(manifest, {name: self._held[blob.sha256] for name, blob in self._wanted_of(manifest).items()})

    def _wanted_of(self, manifest: Manifest) -> dict[str, Blob]:
        return {name: manifest.blobs[name] for name in self._names if name in manifest.blobs}


def check_sizes(manifest: Manifest, *, stage: str, max_parameters: int, description: str = "architecture") -> None:
    """TransferError when a manifest lacks a blob, or announces sizes that cannot be: before anything is allocated."""
    if manifest.stage != stage:
        raise TransferError(f"manifest: expected stage {stage!r}. Received: {manifest.stage!r}")
    missing = [name for name in (description, "weights") if name not in manifest.blobs]
    if missing:
        hint = " (it is published where the manager has model.onnx)" if missing[0] == "onnx" else ""
        raise TransferError(f"manifest: expected a blob {missing[0]!r}{hint}. Received: {sorted(manifest.blobs)[:5]}")
    parameters = sum(math.prod(v.shape) for v in manifest.variables)
    if parameters > max_parameters:
        raise TransferError(f"manifest: expected at most {max_parameters} parameters. Announced: {parameters}")
    announced = manifest.blobs[description].bytes
    if announced > MAX_DESCRIPTION_BYTES:
        raise TransferError(f"{description}: expected at most {MAX_DESCRIPTION_BYTES} bytes. Announced: {announced}")
    places = blob_positions(manifest.variables, manifest.blobs)
    held = {name: [manifest.variables[p] for p in positions] for name, positions in places.items()}
    for name, variables in (held | {"controls": control_variables(manifest.variables)}).items():
        size, header = nbytes(variables), header_limit(len(variables))
        announced = manifest.blobs[name].bytes if name in manifest.blobs else size
        if not size <= announced <= size + header + 8:
            raise TransferError(f"{name}: expected {size} to {size + header + 8} bytes. Announced: {announced}")
