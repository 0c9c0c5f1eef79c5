"""Detection inside a running bridge: servers whose address names no protocol are found out when they are first reached."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpbridge.admin.app import Asked
from mcpbridge.bridge import Bridge
from mcpbridge.config.servers import ad_hoc
from mcpbridge.core.server import Backend
from mcpbridge.detection import Detection
from mcpbridge.era import Crossings
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import configure
from mcpbridge.observe.metrics import Registry
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wiring import Reach
from tests.detection import servers as s
from tests.detection.wires import Counts, Request, Shape, running


class Setting:
    """A bridge with detection, and one server at a port."""

    def __init__(self, bridge: Bridge, port: int, *, fallback: str = "http", registry: Registry | None = None) -> None:
        self.url = f"http://127.0.0.1:{port}/mcp"
        self.registry = registry or Registry(role="router")
        self.detection = Detection(
            bridge.spawn, self.registry, role="router", enabled=True, timeout=1.0, cache=300.0, fallback=fallback,
            configured=lambda: [self.url], auto=lambda: [self.url], loopback=True,
        )  # fmt: skip
        self.reach = Reach(bridge, detector=self.detection.detector, fallback=fallback)
        self.server = self.reach.add(ad_hoc(self.url))

    @property
    def backend(self) -> Backend:
        return self.server.backends[0]

    def value(self, name: str, **labels: str) -> float:
        return self.registry.counter(f"mcp_router_protocol_detection_{name}", **labels).value


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with Bridge("router", MemoryStore(), Crossings(), start_timeout=5.0) as bridge:
        yield bridge


@pytest.mark.requirement(
    "cli.router.url", "metric.mcp_router_protocol_detection_total", "metric.mcp_router_protocol_detection_accuracy",
    "metric.mcp_router_protocol_detection_cache_misses_total", "config.router.direct_clients.auto_detection.enabled",
)  # fmt: skip
@pytest.mark.parametrize(("behave", "era"), [(s.modern(), "modern"), (s.legacy(), "legacy")])
async def test_an_address_without_a_protocol_is_examined_when_it_is_first_reached_and_the_verdict_confirmed(
    bridge, behave, era
):
    counts = Counts()
    async with running(s.http(behave), Shape(), counts) as port:
        setting = Setting(bridge, port)
        await setting.backend.check(5.0)
        assert (setting.backend.protocol, setting.backend.state, setting.backend.speaks.get(era)) == ("http", "ok", True)
        found = setting.detection.snapshot()
        assert (found.accuracy.confirmed, found.accuracy.total, found.accuracy.ratio) == (1, 1, 1.0)
        assert [(one.target, one.protocol, one.result) for one in found.results] == [(setting.url, "http", "success")]
        assert setting.value("total", protocol="http", result="success") == 1
        assert (setting.value("cache_hits_total"), setting.value("cache_misses_total")) == (0, 1)
        assert setting.registry.gauge("mcp_router_protocol_detection_accuracy", protocol="http").value == 1.0
        await setting.reach.close()


@pytest.mark.requirement("config.gateway.protocol_detection.fallback_protocol", "error.detection-failed")
async def test_what_cannot_be_proven_is_reached_by_the_fallback_or_not_at_all(bridge):
    async with running(s.http(s.says(200, s.HTML, "text/html")), Shape(), Counts()) as port:
        setting = Setting(bridge, port, fallback="none")
        with pytest.raises(BridgeError) as refused:
            await setting.backend.check(5.0)
        assert refused.value.reason == "detection_failed"
        assert {one["protocol"] for one in refused.value.data["tried"]} == {"http", "sse", "websocket"}
        assert setting.detection.snapshot().failures[0].target == setting.url
        await setting.reach.close()


async def test_a_server_that_is_not_there_is_reported_as_that_and_not_as_undetected(bridge):
    async with running(s.black_hole, Shape(), Counts()) as port:
        pass
    setting = Setting(bridge, port)
    with pytest.raises(BridgeError) as refused:
        await setting.backend.check(5.0)
    assert refused.value.reason == "connection_refused"
    await setting.reach.close()


async def test_many_who_ask_at_once_cause_one_probe_set(bridge):
    counts = Counts()
    async with running(s.http(s.modern()), Shape(latency=0.05), counts) as port:
        setting = Setting(bridge, port)
        found = await asyncio.gather(*(setting.detection.detector.find(setting.url) for _ in range(50)))
        assert {verdict.era for verdict, _ in found} == {"modern"}
        assert counts.requests <= 2  # discover, and a WebSocket upgrade when it took longer than 40 ms
        await setting.reach.close()


async def test_a_contradiction_drops_the_verdict_and_counts_against_accuracy(bridge):
    behave: dict[str, s.Behaviour] = {"now": s.modern()}

    async def either(request: Request, counts: Counts) -> Any:
        return await behave["now"](request, counts)

    async with running(s.http(either), Shape(), Counts()) as port:
        setting = Setting(bridge, port)
        detector = setting.detection.detector
        verdict, _ = await detector.find(setting.url)
        assert verdict.era == "modern"
        behave["now"] = s.says(404)
        with pytest.raises(BridgeError):
            await setting.backend.check(5.0)
        known = detector.known(setting.url)
        assert known is not None and not known.is_proven and known.evidence == ("contradicted in use",)
        assert setting.detection.snapshot().accuracy.ratio == 0.0
        await setting.reach.close()


@pytest.mark.requirement("http.router.detect.post", "http.router.detect.post.many", "http.router.detect.targets")
async def test_an_api_caller_gets_verdicts_in_order_and_no_packet_for_what_it_may_not_probe(bridge):
    counts = Counts()
    async with running(s.http(s.modern()), Shape(), counts) as port:
        setting = Setting(bridge, port)
        detect = setting.detection.actions()["/protocols/detect"]
        targets = [f"http://127.0.0.1:{port}/mcp", "http://169.254.169.254/latest", "not an address", f"127.0.0.1:{port}"]
        told = await detect(Asked({"test_endpoint": targets[0], "test_endpoints": targets[1:]}))
        assert [(one["protocol"], one["result"]) for one in told["results"]] == [
            ("http", "success"), (None, "refused"), (None, "refused"), ("http", "success"),
        ]  # fmt: skip
        assert told["results"][0].keys() == {
            "target", "protocol", "era", "result", "confidence", "evidence", "duration_ms", "cached",
        }  # fmt: skip
        again = await detect(Asked({"test_endpoint": targets[0]}))
        assert again["results"][0]["cached"] is True
        await setting.reach.close()


@pytest.mark.requirement("http.router.detect.post.many")
@pytest.mark.parametrize(
    "body", [{}, {"test_endpoint": 1}, {"test_endpoints": "x"}, {"test_endpoints": [""]}, {"test_endpoints": ["a:1"] * 21}]
)
async def test_a_malformed_request_for_detection_is_refused(bridge, body):
    detection = Setting(bridge, 1).detection
    with pytest.raises(BridgeError) as refused:
        await detection.actions()["/protocols/detect"](Asked(body))
    assert refused.value.fault.status == 400


@pytest.mark.requirement("http.router.detect.targets")
async def test_an_api_caller_has_ten_detections_a_minute(bridge):
    detect = Setting(bridge, 1).detection.actions()["/protocols/detect"]
    for _ in range(10):
        await detect(Asked({"test_endpoint": "http://10.0.0.1/"}))
    with pytest.raises(BridgeError) as refused:
        await detect(Asked({"test_endpoint": "http://10.0.0.1/"}))
    assert refused.value.reason == "rate_limited"


@pytest.mark.requirement("http.router.cache.clear", "http.router.detect.refresh", "http.router.cache")
async def test_the_memory_can_be_cleared_and_filled_anew(bridge):
    async with running(s.http(s.modern()), Shape(), Counts()) as port:
        setting = Setting(bridge, port)
        actions = setting.detection.actions()
        await setting.backend.check(5.0)
        assert await actions["/protocols/cache/clear"](Asked({})) == {"cleared": 1}
        assert await actions["/protocols/cache/clear"](Asked({})) == {"cleared": 0}
        assert setting.backend.state == "ok"
        told = await actions["/protocols/detect/refresh"](Asked({}))
        assert told["refreshed"] == 1 and told["results"][0]["protocol"] == "http"
        assert told["changed"] == [{"target": setting.url, "before": None, "after": "http"}]
        assert (await actions["/protocols/detect/refresh"](Asked({})))["changed"] == []
        await setting.reach.close()


@pytest.mark.requirement("log.protocol-assignment")
async def test_a_server_that_gets_its_protocol_and_the_shares_of_all_are_logged_as_assignments(bridge, capsys):
    configure("info", "json")
    async with running(s.http(s.modern()), Shape(), Counts()) as port:
        setting = Setting(bridge, port)
        setting.reach.add(ad_hoc("", ["some-command"]))
        await setting.backend.check(5.0)
        bridge.tell_shares()
        await setting.reach.close()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assigned = [line for line in lines if line.get("event") == "protocol_assignment"]
    assert [(line["message"], line["protocol"]) for line in assigned] == [
        ("protocol assigned", "stdio"), ("protocol assigned", "http"), ("calls by protocol", "none"),
    ]  # fmt: skip
    assert set(assigned[-1]["shares"]) == {"http", "stdio"}


async def test_a_server_that_comes_back_with_another_protocol_is_found_out_anew(bridge):
    now = {"serve": s.http(s.modern()), "clock": 1000.0}

    async def serve(wire: Any) -> None:
        await now["serve"](wire)

    async with running(serve, Shape(), Counts()) as port:
        setting = Setting(bridge, port)
        setting.detection.detector._clock = lambda: now["clock"]
        await setting.backend.check(5.0)
        assert setting.backend.protocol == "http"
        now["serve"] = s.websocket("modern")
        setting.backend.failed(BridgeError("http_not_found", "the answer to the next call"))
        assert setting.backend.state == "down"
        now["clock"] += 6.0  # a target is not examined twice within five seconds
        await setting.backend.check(5.0)
        assert (setting.backend.protocol, setting.backend.state) == ("websocket", "ok")
        assert setting.detection.snapshot().accuracy.total >= 1
        await setting.reach.close()
