"""Updates on their way in: chunks go straight into the round's spool; checked when whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dl_mqtt_clients.aggregation.rounds import Accepted
from dl_mqtt_clients.aggregation.spool import Spool, Written
from dl_mqtt_clients.errors import TransferError
from dl_mqtt_clients.wire.codecs import Codec, as_changes
from dl_mqtt_clients.wire.messages import Blob, Offer, Variable
from dl_mqtt_clients.wire.transfer import FileSink, Reception
from dl_mqtt_clients.wire.weights import check_finite, update_positions


@dataclass(slots=True)
class _Upload:
    offer: Offer
    sink: FileSink
    reception: Reception
    data_from: float | None = None  # as in the spool's entries
    data_to: float | None = None


class Uploads:
    """The open uploads of one round, one a node."""

    def __init__(
        self, spool: Spool, variables: Sequence[Variable], *, codec: Codec, chunk_bytes: int, max_delta: float
    ) -> None:
        self.spool = spool
        self._codec = codec
        self._positions = update_positions(variables)
        self._variables = as_changes(variables)
        self._chunk_bytes = chunk_bytes
        self._max_delta = max_delta
        self._open: dict[str, _Upload] = {}

    def expect(self, node: str, offer: Offer) -> None:
        """Make room; the size was checked by the round."""
        sink = self.spool.reserve(offer.bytes)
        blob = Blob(sha256=offer.sha256, bytes=offer.bytes, chunk_bytes=self._chunk_bytes)
        self._open[node] = _Upload(offer, sink, Reception(blob, sink))

    def date(self, node: str, offer: Offer, *, now: float) -> None:
        """Ages to times, by our clock; none when they contradict each other.

        Of an offer heard again the earliest count: that one was under way for the least time.
        """
        upload, oldest, newest = self._open.get(node), offer.oldest_age_s, offer.newest_age_s
        if upload is None or upload.offer.sha256 != offer.sha256:
            return
        if oldest is None or newest is None or oldest >= newest:
            upload.data_from = _earlier(upload.data_from, oldest, now)
            upload.data_to = _earlier(upload.data_to, newest, now)

    @property
    def any_open(self) -> bool:
        return bool(self._open)

    def expects(self, node: str, sha256: str) -> bool:
        """Whether this update is on its way."""
        upload = self._open.get(node)
        return upload is not None and upload.offer.sha256 == sha256

    def offer(self, node: str) -> Offer:
        """What the node offered; KeyError when it has no open upload."""
        return self._open[node].offer

    def forget(self, node: str) -> None:
        upload = self._open.pop(node, None)
        if upload is not None:
            self.spool.give_back(upload.sink, upload.offer.bytes)

    def receive(self, node: str, sha256: str, index: int, payload: bytes) -> bool:
        """Write a chunk; False when nobody waits for it. TransferError when it is wrong."""
        upload = self._open.get(node)
        if upload is None or upload.offer.sha256 != sha256:
            return False
        return upload.reception.receive(index, payload)

    def check(self, node: str) -> list[np.ndarray]:
        """The whole update as views, in order of position. TransferError says what is wrong with it."""
        upload = self._open.get(node)
        if upload is None:
            raise TransferError("update: nothing was received")
        upload.reception.verify()
        return self.read(self.spool.view(upload.sink, upload.offer.bytes))

    def read(self, data: np.ndarray) -> list[np.ndarray]:
        """Bytes of the spool to checked arrays."""
        arrays = self._codec.decode(data.data, self._variables, self._positions)
        check_finite(arrays, self._positions, limit=self._max_delta)
        return arrays

    def accept(self, *accepted: Accepted) -> None:
        """Make them count, durably. OSError, and none of them counts, when the disk does not take them."""
        uploads = [(self._open[one.node], one) for one in accepted]
        self.spool.accept(*(Written(u.sink, u.offer.bytes, one, u.data_from, u.data_to) for u, one in uploads))
        for one in accepted:
            del self._open[one.node]


def _earlier(known: float | None, age_s: float | None, now: float) -> float | None:
    if age_s is None:
        return known
    time_s = round(max(now - age_s, 0.0), 3)
    return time_s if known is None else min(known, time_s)
