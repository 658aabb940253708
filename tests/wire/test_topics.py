"""Topics: the table of the protocol, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.errors import MessageError
from dl_mqtt_clients.wire.topics import NodeTopic, Topics, for_node, is_name, is_sha256

SHA = "0123456789abcdef" * 4
T = Topics("plant-7")

TABLE = {
    "fedlearn/1/plant-7/manager/status": T.manager_status,
    "fedlearn/1/plant-7/round": T.round,
    "fedlearn/1/plant-7/model/global": T.model("global"),
    "fedlearn/1/plant-7/model/production": T.model("production"),
    f"fedlearn/1/plant-7/blob/{SHA}/12": T.blob(SHA, 12),
    "fedlearn/1/plant-7/history": T.history,
    "fedlearn/1/plant-7/command": T.command,
    "fedlearn/1/plant-7/node/jetson_07/predictor/status": T.status("jetson_07", "predictor"),
    "fedlearn/1/plant-7/node/jetson_07/trainer/status": T.status("jetson_07", "trainer"),
    "fedlearn/1/plant-7/node/jetson_07/trainer/statistics": T.statistics("jetson_07", "trainer"),
    "fedlearn/1/plant-7/node/jetson_07/trainer/offer": T.offer("jetson_07"),
    "fedlearn/1/plant-7/node/jetson_07/trainer/reply": T.reply("jetson_07"),
    f"fedlearn/1/plant-7/node/jetson_07/trainer/update/{SHA}/0": T.update("jetson_07", SHA, 0),
    "fedlearn/1/plant-7/node/jetson_07/predictor/anomaly": T.anomaly("jetson_07"),
}
NODE = "fedlearn/1/plant-7/node/"


@pytest.mark.parametrize("expected", TABLE)
def test_every_topic_of_the_table_is_produced(expected):
    assert TABLE[expected] == expected


@pytest.mark.parametrize(
    ("topic", "parsed"),
    [
        (T.status("a", "trainer"), NodeTopic("a", "trainer", "status")),
        (T.status("a", "predictor"), NodeTopic("a", "predictor", "status")),
        (T.statistics("a", "trainer"), NodeTopic("a", "trainer", "statistics")),
        (T.statistics("a", "predictor"), NodeTopic("a", "predictor", "statistics")),
        (T.offer("a"), NodeTopic("a", "trainer", "offer")),
        (T.reply("a"), NodeTopic("a", "trainer", "reply")),
        (T.update("a", SHA, 17), NodeTopic("a", "trainer", "update", SHA, 17)),
        (T.anomaly("a"), NodeTopic("a", "predictor", "anomaly")),
    ],
)
def test_every_topic_of_a_node_is_read_back(topic, parsed):
    assert T.parse_node(topic) == parsed


names = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@given(federation=names, node=names, index=st.integers(0, 10**9 - 1))
def test_any_node_and_chunk_number_comes_back_from_its_topic(federation, node, index):
    topics = Topics(federation)
    assert topics.parse_node(topics.update(node, SHA, index)) == NodeTopic(node, "trainer", "update", SHA, index)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        NODE,
        f"{NODE}a",
        f"{NODE}a/trainer",
        f"{NODE}a/trainer/",
        f"{NODE}a/trainer/secret",
        f"{NODE}a/trainer/offer/more",
        f"{NODE}a/trainer/anomaly",
        f"{NODE}a/predictor/offer",
        f"{NODE}a/predictor/reply",
        f"{NODE}a/manager/status",
        f"{NODE}a/predictor/update/{SHA}/1",
        f"{NODE}/trainer/offer",
        f"{NODE}{'a' * 65}/trainer/offer",
        f"{NODE}../trainer/offer",
        f"{NODE}a\n/trainer/offer",
        f"{NODE}ä/trainer/offer",
        f"{NODE}a/trainer/update",
        f"{NODE}a/trainer/update/{SHA}",
        f"{NODE}a/trainer/update/{SHA}/",
        f"{NODE}a/trainer/update/{SHA}/1/2",
        f"{NODE}a/trainer/update/{SHA.upper()}/1",
        f"{NODE}a/trainer/update/{SHA[1:]}/1",
        f"{NODE}a/trainer/update/{SHA}/-1",
        f"{NODE}a/trainer/update/{SHA}/+1",
        f"{NODE}a/trainer/update/{SHA}/1.0",
        f"{NODE}a/trainer/update/{SHA}/007",
        f"{NODE}a/trainer/update/{SHA}/٣",
        f"{NODE}a/trainer/update/{SHA}/{'9' * 10}",
        f"{NODE}a/trainer/update/{SHA}/{'9' * 5000}",
        "fedlearn/1/other/node/a/trainer/offer",
        "fedlearn/2/plant-7/node/a/trainer/offer",
        "fedlearn/1/plant-7/model/global",
    ],
)
def test_a_topic_that_is_not_in_the_table_is_an_error_of_one_short_line(topic):
    with pytest.raises(MessageError) as caught:
        T.parse_node(topic)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@given(st.text(alphabet=st.sampled_from("ab/+#0_-\n") | st.characters(), max_size=300))
def test_no_text_below_node_raises_anything_else(text):
    try:
        parsed = T.parse_node(NODE + text)
    except MessageError:
        return
    assert is_name(parsed.node)


@pytest.mark.parametrize("text", ["", "a b", "a/b", "+", "#", "$SYS", "a\n", "a" * 65, "é"])
def test_what_could_change_a_topic_is_no_name(text):
    assert not is_name(text)


def test_names_and_hashes_are_known():
    assert is_name("jetson-07_B")
    assert is_sha256(SHA)
    assert not is_sha256(SHA + "\n")
    assert not is_sha256(SHA[:-1] + "G")


def test_a_topic_on_the_data_broker_names_its_node_by_a_placeholder():
    assert for_node("plant/{node}/reading", "jetson-07") == "plant/jetson-07/reading"
    assert for_node("readings", "jetson-07") == "readings"
