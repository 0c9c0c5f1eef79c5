"""Targets, the guard, the memory and the accuracy of detection: decisions without a network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.core.detect import Accuracy, Guard, Memory, Target, Verdict, is_forbidden

PROVEN = Verdict("http://a:1/mcp", "http", "legacy", "success", 1.0)
NOTHING = Verdict("http://a:1/mcp", None, None, "unknown")


@pytest.mark.parametrize(
    ("text", "scheme", "host", "port", "path"),
    [
        ("http://Example.com/mcp?k=v", "http", "example.com", 80, "/mcp?k=v"),
        ("https://[::1]:8443/mcp", "https", "::1", 8443, "/mcp"),
        ("ws://localhost:8080", "ws", "localhost", 8080, ""),
        ("tcps://gateway.internal", "tcps", "gateway.internal", 8444, ""),
        ("127.0.0.1:9000", "any", "127.0.0.1", 9000, ""),
        ("[::1]:9000", "any", "::1", 9000, ""),
        ("unix:///run/mcp.sock", "unix", "", 0, "/run/mcp.sock"),
        ("/run/mcp.sock", "unix", "", 0, "/run/mcp.sock"),
    ],
)
def test_an_address_is_taken_apart(text, scheme, host, port, path):
    assert Target.of(text)[1:] == (scheme, host, port, path)


#: spellings that lead somewhere else than they say, in one program or another (reliability threat 8)
TRICKS = [
    "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/", "http://0/",
    "http://127.0.0.1.:80/", "http://user@127.0.0.1/", "http://127.0.0.1@evil.example/",
    "http://evil.example#@127.0.0.1/", "http://127.0.0.1\\@evil.example/", "http://evil.example\\.127.0.0.1/",
    "http://①②⑦.⓪.⓪.①/", "http://localhost%00.evil.example/", "http://[::ffff:169.254.169.254]/latest",
    "http://[::ffff:7f00:1%251]/", "http://[fe80::1%25eth0]/", "http://[::]/", "http://169.254.169.254/",
    "http://metadata.google.internal/", "http://evil.example/", "http://evil.example:80/mcp",
    "http://localhost.evil.example/", "http://127.0.0.1.nip.io/", "http://10.0.0.1/", "http://192.168.1.1:8080/",
    "http://[fd00::1]/", "http://0.0.0.0/", "http://224.0.0.1/", "gopher://127.0.0.1/", "file:///etc/passwd",
    "ftp://127.0.0.1/", "dict://127.0.0.1:6379/", "http:///mcp", "http://", "//127.0.0.1/", "127.0.0.1",
    "http://127.0.0.1:0/", "http://127.0.0.1:65536/", "http://127.0.0.1:+80/", "http://exa mple/",
    "http://127.0.0.1/\r\nHost: evil", "unix://host/run/x.sock", "unix:relative", "stdio:///bin/sh", "/etc/passwd",
    "unix:///etc/shadow", "javascript:alert(1)", "http://evil。example/", "h" * 3000,
]  # fmt: skip


@pytest.mark.security
@pytest.mark.requirement("http.router.detect.targets")
@pytest.mark.parametrize("text", TRICKS)
def test_a_trick_is_no_address_or_not_admitted(text):
    guard = Guard(["http://127.0.0.1:8081/mcp", "unix:///run/ours.sock"], ["tools.internal", "10.1.0.0/16"], loopback=True)
    try:
        target = Target.of(text)
    except ValueError:
        return
    assert not guard.admits(target), target


@pytest.mark.requirement("http.router.detect.targets", "config.router.direct_clients.auto_detection.allowed_targets")
@pytest.mark.parametrize(
    ("text", "router", "gateway"),
    [
        ("http://127.0.0.1:8081/other", True, True),  # configured, whatever the path
        ("http://127.0.0.1:9999/mcp", True, False),
        ("http://127.3.2.1:9999/mcp", True, False),
        ("ws://localhost:1", True, False),
        ("http://[::1]:1/", True, False),
        ("http://[::ffff:127.0.0.1]:1/", True, False),
        ("http://tools.internal:81/", True, True),
        ("http://10.1.255.3/", True, True),
        ("http://[::ffff:10.1.2.3]/", True, True),
        ("http://10.2.0.1/", False, False),
        ("http://x.tools.internal/", False, False),
        ("unix:///run/ours.sock", True, True),
        ("/run/ours.sock", True, True),
    ],
)
def test_configured_servers_and_those_allowed_may_be_probed_and_loopback_by_a_router(text, router, gateway):
    configured, allowed = ["http://127.0.0.1:8081/mcp", "unix:///run/ours.sock"], ["Tools.internal", "10.1.0.0/16"]
    assert Guard(configured, allowed, loopback=True).admits(Target.of(text)) is router
    assert Guard(configured, allowed, loopback=False).admits(Target.of(text)) is gateway


@pytest.mark.security
@pytest.mark.parametrize(
    ("address", "forbidden"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("169.254.169.254", True), ("fe80::1%2", True),
     ("::ffff:169.254.169.254", True), ("0.0.0.0", True), ("224.0.0.1", True), ("10.0.0.1", False), ("93.184.216.34", False)],
)  # fmt: skip
def test_a_name_that_leads_to_this_machine_or_a_metadata_service_is_not_followed(address, forbidden):
    assert is_forbidden(address, named_locally=False) is forbidden


@given(st.text(max_size=80))
def test_any_text_is_an_address_or_a_value_error(text):
    try:
        target = Target.of(text)
    except ValueError:
        return
    assert target.scheme == "unix" or 1 <= target.port <= 65535
    assert Target.of(target.text) == target


@pytest.mark.requirement("http.router.detect.failures", "config.gateway.protocol_detection.cache_duration")
def test_a_proof_is_remembered_for_minutes_and_its_lack_for_seconds():
    memory = Memory(300.0)
    memory.keep("a", PROVEN, 0.0)
    memory.keep("b", NOTHING, 0.0)
    assert memory.find("a", 299.0) is not None and memory.find("b", 4.9) is not None
    assert memory.find("a", 300.0) is None and memory.find("b", 5.0) is None
    assert (memory.hits, memory.misses) == (2, 2)
    assert memory.clear() == 2 and memory.clear() == 0


def test_the_memory_is_bounded():
    memory = Memory(limit=10)
    for number in range(100):
        memory.keep(str(number), PROVEN, 0.0)
    assert [entry.verdict for entry in memory.entries(1.0)] == [PROVEN] * 10
    assert memory.peek("99", 1.0) is not None and memory.peek("0", 1.0) is None


def test_accuracy_counts_only_verdicts_that_were_put_to_the_test():
    accuracy = Accuracy()
    assert accuracy.ratio() is None
    accuracy.used("a", "http", 0.0)
    accuracy.used("b", "http", 0.0)
    accuracy.used("c", "sse", 0.0)
    assert accuracy.ratio() is None
    assert accuracy.told("a", True, 10.0) == "http"
    assert accuracy.told("a", True, 10.0) is None  # closed already
    assert accuracy.told("b", False, 10.0) == "http"
    assert (accuracy.ratio(["http"]), accuracy.ratio(["sse"])) == (0.5, None)
    accuracy.expire(30.0)
    assert accuracy.ratio(["sse"]) == 0.0 and accuracy.ratio() == pytest.approx(1 / 3)
