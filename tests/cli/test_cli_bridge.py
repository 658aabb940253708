"""`fedlearn bridge`. What the lines do is tested with real brokers in tests/services/test_bridge.py."""


def test_user_password_and_certificates_are_those_of_the_centre(run, tmp_path):
    (tmp_path / "password").write_text("secret\n")
    result = run(
        "bridge", "north", "--nodes", "a, b", "--broker", "mqtts://centre.example", "--federation", "f",
        "--set", "broker.username=north", "--set", "broker.password_file=password", "--set", "broker.ca_file=/ca.pem",
    )  # fmt: skip
    assert result.code == 0
    lines = set(result.out.splitlines())
    assert {"remote_username north", "remote_password secret", "bridge_cafile /ca.pem"} <= lines
    assert {"address centre.example:8883", "topic fedlearn/1/f/node/b/trainer/reply in 1"} <= lines
    assert not any(line.startswith(("bridge_certfile", "bridge_capath")) for line in lines)


def test_without_tls_there_are_no_certificates_and_with_it_always_authorities(run):
    assert "bridge_ca" not in run("bridge", "north", "--nodes", "a", "--broker", "mqtt://centre").out
    assert "bridge_capath /etc/ssl/certs" in run("bridge", "north", "--nodes", "a", "--broker", "mqtts://centre").out


def test_names_that_are_none_are_told_all_at_once(run):
    result = run("bridge", "no rth", "--nodes", "a,#")
    assert result.code == 2
    assert "SITE: expected" in result.err
    assert "--nodes: expected" in result.err
    assert "'#'" in result.err
