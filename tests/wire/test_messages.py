"""JSON messages: golden forms, what is refused, and that nothing else can happen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.errors import MessageError
from dl_mqtt_clients.wire import messages
from dl_mqtt_clients.wire.messages import Answer, Command, Message, NodeStatus, Offer, Reply, decode, encode
from dl_mqtt_clients.wire.topics import PROTOCOL
from golden_messages import GOLDEN, SHA

KINDS = sorted(Message.__subclasses__(), key=lambda kind: kind.__name__)
OFFER = {"round": 3, "attempt": 1, "base": SHA, "sha256": SHA, "bytes": 10, "examples": 5}


def offer(**changes) -> bytes:
    return json.dumps({**OFFER, **changes}).encode()


def refusal(payload: bytes, kind: type[Message]) -> str:
    """Why it is refused, or nothing. Any other exception fails the test."""
    try:
        decode(payload, kind)
    except MessageError as error:
        return str(error)
    return ""


def test_every_kind_of_message_has_its_golden_form():
    assert {type(message) for message, _ in GOLDEN} == set(KINDS)


@pytest.mark.parametrize(("message", "text"), GOLDEN, ids=lambda v: type(v).__name__)
def test_the_golden_forms_are_what_is_sent_and_what_is_understood(message, text):
    assert json.loads(encode(message)) == json.loads(text)
    assert decode(text.encode(), type(message)) == message


def test_a_message_is_one_line_of_readable_json_that_starts_with_its_version():
    assert encode(Answer(ok=True, message="läuft")) == '{"v":1,"ok":true,"message":"läuft","differences":[]}'.encode()


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_unknown_fields_are_ignored(kind):
    text = next(text for message, text in GOLDEN if type(message) is kind)
    wider = {**json.loads(text), "from_the_future": {"a": [1, None, {"b": 2}]}, "schön": 1e400}
    assert decode(json.dumps(wider).replace("Infinity", "1e400").encode(), kind) == decode(text.encode(), kind)


@pytest.mark.parametrize("version", [PROTOCOL - 1, PROTOCOL])
def test_this_version_and_the_one_before_are_understood(version):
    assert decode(offer(v=version), Offer).v == version


@pytest.mark.parametrize("version", [PROTOCOL + 1, 10**15, 10**300])
def test_a_newer_version_is_refused_with_that_reason(version):
    with pytest.raises(MessageError, match=r"expected protocol version 0 or 1. Received: "):
        decode(offer(v=version), Offer)


def test_a_newer_version_is_the_reason_even_when_nothing_else_can_be_read():
    with pytest.raises(MessageError, match=r"Offer: expected protocol version 0 or 1. Received: 2"):
        decode(b'{"v": 2, "what": "an offer of tomorrow"}', Offer)


@pytest.mark.parametrize("version", [-1, 2.0, "1", None, True, [1]])
def test_a_version_that_is_none_is_refused(version):
    with pytest.raises(MessageError):
        decode(offer(v=version), Offer)


@pytest.mark.parametrize(
    "changes",
    [
        {"round": -1},
        {"round": 2**53 + 1},
        {"round": 1.5},
        {"attempt": 0},
        {"bytes": 0},
        {"bytes": "10"},
        {"examples": 0},
        {"examples": 10**400},
        {"base": SHA[1:]},
        {"base": SHA + "\n"},
        {"sha256": SHA.upper()},
        {"sha256": "../" + SHA[3:]},
        {"oldest_age_s": -0.001},
        {"oldest_age_s": 1e10},
        {"newest_age_s": "1 h"},
        {"newest_age_s": -1e300},
        {"inline": 1},
        {"metrics": {"loss": "small"}},
        {"metrics": {"x" * 65: 1.0}},
        {"metrics": {str(k): 1.0 for k in range(65)}},
        {"metrics": [1.0]},
    ],
    ids=lambda c: str(c)[:30],
)
def test_an_offer_with_a_field_out_of_range_is_refused_and_names_the_field(changes):
    with pytest.raises(MessageError, match=rf"Offer: .*\$\.{next(iter(changes))}"):
        decode(offer(**changes), Offer)


def test_an_offer_of_an_older_node_says_nothing_of_ages():
    old = decode(offer(), Offer)
    assert (old.oldest_age_s, old.newest_age_s) == (None, None)


@pytest.mark.parametrize("missing", OFFER)
def test_an_offer_without_a_field_is_refused_and_names_the_field(missing):
    rest = {k: v for k, v in OFFER.items() if k != missing}
    with pytest.raises(MessageError, match=missing):
        decode(json.dumps(rest).encode(), Offer)


def test_a_node_name_with_a_line_feed_is_refused():
    text = next(t for m, t in GOLDEN if isinstance(m, messages.Scores)).replace("jetson-07", "jetson-07\\n")
    with pytest.raises(MessageError, match="node"):
        decode(text.encode(), messages.Scores)


def test_size_is_limited_before_anything_is_decoded():
    with pytest.raises(MessageError, match=r"expected at most 100 bytes. Received: 200"):
        decode(b"\xff" * 200, Offer, limit=100)
    assert decode(offer(), Offer, limit=len(offer())).round == 3


def test_the_default_limit_is_four_mebibytes():
    with pytest.raises(MessageError, match=r"expected at most 4194304 bytes"):
        decode(b" " * (4 * 1024 * 1024 + 1), Offer)


@pytest.mark.parametrize("payload", [b"[" * 100_000, b'{"metrics":' * 50_000, b'{"zz":' + b"[" * 100_000])
def test_deep_nesting_is_refused(payload):
    with pytest.raises(MessageError):
        decode(payload, Offer)


@pytest.mark.parametrize("payload", [b"", b"null", b"{}x", b'"\xff"', b'{"message":"\xff"}', b'{"ok":true}{"ok":true}'])
def test_what_is_no_json_object_is_refused(payload):
    with pytest.raises(MessageError):
        decode(payload, Answer)


def test_a_refusal_repeats_at_most_a_printable_line_of_the_payload():
    word = "\x1b[31m\\n" + "secret " * 100_000
    with pytest.raises(MessageError, match=r"Command: .* at `\$\.command`") as caught:
        decode(json.dumps({"command": word}).encode(), Command)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_every_refusal_fits_into_a_reply():
    for version in (10**300, "x" * 10_000):
        with pytest.raises(MessageError) as caught:
            decode(offer(v=version), Offer)
        reply = Reply(kind="refusal", round=1, attempt=1, sha256=SHA, reason=str(caught.value))
        assert decode(encode(reply), Reply) == reply


@given(st.binary(max_size=300), st.sampled_from(KINDS))
def test_random_bytes_never_raise_anything_else(payload, kind):
    with pytest.raises(MessageError):
        decode(payload, kind)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(SHA),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(data=st.data(), golden=st.sampled_from(GOLDEN))
def test_any_value_in_any_field_is_a_message_or_a_message_error(data, golden):
    message, text = golden
    fields = json.loads(text)
    name = data.draw(st.sampled_from(sorted(fields)))
    fields[name] = data.draw(values)
    assert len(refusal(json.dumps(fields).encode(), type(message))) < 500


@given(data=st.data(), golden=st.sampled_from(GOLDEN))
def test_a_damaged_message_never_raises_anything_else(data, golden):
    message, text = golden
    damaged = bytearray(text.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    assert len(refusal(bytes(damaged), type(message))) < 500


@given(
    st.builds(
        NodeStatus,
        state=st.sampled_from(["waiting", "fitting", "scoring"]),
        number=st.integers(0, 2**53),
        detail=st.text(max_size=100),
        progress=st.floats(0, 1),
        loss=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_what_is_encoded_is_decoded(status):
    assert decode(encode(status), NodeStatus) == status


def test_a_message_cannot_be_changed():
    with pytest.raises(AttributeError, match="immutable"):
        Answer(ok=True).ok = False


def test_every_kind_has_a_json_schema_so_that_other_languages_can_speak_the_protocol():
    for kind in KINDS:
        assert msgspec.json.schema(kind)


FIRST_USE = """
import sys, threading
from dl_mqtt_clients.wire.messages import decode
from golden_messages import GOLDEN

sys.setswitchinterval(1e-6)
together = threading.Barrier(4)

def read_all():
    together.wait()
    for message, text in GOLDEN:
        assert decode(text.encode(), type(message)) == message

threads = [threading.Thread(target=read_all) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.parametrize("attempt", range(3))
def test_threads_may_meet_every_kind_of_message_for_the_first_time_at_once(attempt):
    """Each in a new process; without care nine of ten such processes end with a segmentation fault (msgspec 0.22)."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, "-c", FIRST_USE]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, (done.returncode, done.stderr.decode())
