"""How updates travel, and downloads if wanted: `codec("int8")`, `codec("topk:0.01")`; the YAML uses the same words."""

from typing import Final

from dl_mqtt_clients.errors import WireError
from dl_mqtt_clients.wire.codecs.codec import Codec, Encoded, as_changes, is_coded
from dl_mqtt_clients.wire.codecs.floats import Bfloat16, Float16
from dl_mqtt_clients.wire.codecs.integers import Int4, Int8
from dl_mqtt_clients.wire.codecs.scheme import Scheme
from dl_mqtt_clients.wire.codecs.topk import TopK

__all__ = ["CODECS", "Codec", "Encoded", "Scheme", "TopK", "as_changes", "codec", "is_coded", "is_known"]

_SCHEMES: Final = (None, Bfloat16(), Float16(), Int8(), Int4())
_PLAIN: Final = {c.name: c for c in (Codec(s) for s in _SCHEMES)}
CODECS: Final = (*_PLAIN, "topk:<share>")


def codec(name: str) -> Codec:
    """The codec of that name. WireError says which there are."""
    if name in _PLAIN:
        return _PLAIN[name]
    kind, _, share = name.partition(":")
    if kind == "topk":
        try:
            return Codec(TopK(float(share)))
        except ValueError:
            pass
    raise WireError(f"codec: expected {', '.join(CODECS)}. Received: {name[:64]!r}")


def is_known(name: str) -> bool:
    """Whether there is a codec of that name here."""
    try:
        codec(name)
    except WireError:
        return False
    return True
