"""The labelled cases of the detection bench: kinds of servers times the shapes in which their bytes travel.

A label is the whole truth that detection may find out: protocol and eras, or that nothing can be proven. ``unknown`` on a
server of ours would be a miss, a protocol on a foreign one a wrong positive.

Source: reliability section 6 (hard cases).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from tests.detection import servers as s
from tests.detection.wires import Answer, Counts, Request, Serve, Shape

HTTP = "http://127.0.0.1:{port}/mcp"
BARE = "127.0.0.1:{port}"
ROOT = "http://127.0.0.1:{port}"
SSE = "http://127.0.0.1:{port}/sse"
WS = "ws://127.0.0.1:{port}/mcp"
TCP = "tcp://127.0.0.1:{port}"

Label = tuple[str, str | None, frozenset[str | None]]
"""Result, protocol, eras that are right."""


def found(protocol: str, *eras: str | None) -> Label:
    return ("success", protocol, frozenset(eras))


UNKNOWN: Label = ("unknown", None, frozenset({None}))
UNREACHABLE: Label = ("unreachable", None, frozenset({None}))


@dataclass(frozen=True)
class Case:
    """One server in one shape at one address. ``serve`` makes it anew. ``tls``: "", "server" or "mutual"."""

    name: str
    label: Label
    serve: Callable[[], Serve]
    where: str = HTTP
    shape: Shape = field(default_factory=Shape)
    unix: bool = False
    tls: str = ""
    host: str = "127.0.0.1"

    @property
    def is_quick(self) -> bool:
        """Whether nothing of it waits by design: its time is detection's own."""
        return (
            self.shape.latency + self.shape.jitter + self.shape.accept == 0
            and self.label[0] == "success"
            and "late" not in self.name
        )


def shapes(case: Case) -> Iterator[Case]:
    """A case of HTTP in every shape it can travel in."""
    for name, shape in SHAPES.items():
        yield replace(case, name=f"{case.name}, {name}" if name else case.name, shape=replace(shape))


SHAPES = {
    "": Shape(),
    "50 ms away": Shape(latency=0.05),
    "100 ms away with jitter": Shape(latency=0.1, jitter=0.04),
    "byte by byte": Shape(pieces=1),
    "chunked": Shape(chunked=True),
    "closing each connection": Shape(close=True),
    "HTTP/1.0": Shape(old=True),
    "gzip": Shape(packed=True),
}
DUPLEX_SHAPES = {
    "": Shape(),
    "50 ms away": Shape(latency=0.05),
    "200 ms away": Shape(latency=0.2),
    "byte by byte": Shape(pieces=1),
}
NEGATIVE_SHAPES = {
    "": Shape(),
    "100 ms away": Shape(latency=0.1),
    "chunked": Shape(chunked=True),
    "closing": Shape(close=True),
}
AUTH = 'Bearer resource_metadata="http://127.0.0.1/.well-known/oauth-protected-resource"'
LATE = {"": Shape(), "accepting after 200 ms": Shape(accept=0.2), "accepting after 600 ms": Shape(accept=0.6)}


def _streamable() -> Iterator[tuple[str, Label, s.Behaviour]]:
    modern, legacy = found("http", "modern"), found("http", "legacy")
    yield "modern", modern, s.modern()
    yield "modern as events with comments first", modern, s.modern(sse=True)
    yield "modern without initialize", modern, s.modern(refusal="method")
    yield (
        "modern of a version to come",
        modern,
        s.modern(
            refuse_discover={"code": -32022, "message": "x", "data": {"supported": ["2027-11-30"], "requested": "2026-07-28"}}
        ),
    )
    yield (
        "modern that wants capabilities",
        modern,
        s.modern(refuse_discover={"code": -32021, "message": "x", "data": {"requiredCapabilities": {"sampling": {}}}}),
    )
    yield "modern that knows newer ones", modern, s.modern(s.discovered("2026-07-28", "2027-11-30"))
    yield "dual", found("http", "dual"), s.dual()
    yield "legacy", legacy, s.legacy()
    yield "legacy as events", legacy, s.legacy(sse=True)
    yield "legacy without sessions", legacy, s.legacy(sessions=False)
    yield "legacy that says 404 to what it does not know", legacy, s.legacy(s.says(404))
    yield "legacy that says 405", legacy, s.legacy(s.says(405))
    yield "legacy that says 500", legacy, s.legacy(s.says(500, b"Traceback"))
    yield "legacy that says -32601", legacy, s.legacy(s.unknown_method)
    yield "legacy that executes anything", legacy, s.legacy(s.executes_anything)
    yield (
        "legacy with a discover of its own",
        legacy,
        s.legacy(
            s.says(
                200,
                b'{"jsonrpc":"2.0","id":7150101,"result":{"supportedVersions":["2025-06-18"],"capabilities":{}}}',
                "application/json",
            )
        ),
    )


def _foreign_http() -> Iterator[tuple[str, s.Behaviour]]:
    yield "a page for any path", s.says(200, s.HTML, "text/html")
    yield "an empty object", s.says(200, b"{}", "application/json")
    yield "a JSON API", s.says(200, b'{"status":"ok","version":"2026-07-28","capabilities":{}}', "application/json")
    yield "a JSON-RPC server of another kind", s.unknown_method  # type: ignore[misc]
    yield (
        "an error with no id",
        s.says(400, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"x"}}', "application/json"),
    )
    yield (
        "an error number like a modern one",
        s.says(200, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32022,"message":"x"}}', "application/json"),
    )
    yield (
        "an answer to somebody else",
        s.says(
            200, b'{"jsonrpc":"2.0","id":1,"result":{"supportedVersions":["2026-07-28"],"capabilities":{}}}', "application/json"
        ),
    )
    yield "a proxy's 502", s.says(502, s.HTML, "text/html")
    yield "a redirect to elsewhere", s.says(307, b"", "text/plain", location="http://127.0.0.1:9/mcp")
    yield "a redirect to sign in", s.says(302, b"", "text/plain", location="/login")
    yield "a permanent redirect", s.says(301, b"", "text/plain", location="https://example.invalid/mcp")
    yield "too many requests", s.says(429, b"", "text/plain", retry_after="1")
    yield "warming up", s.says(503, b"", "text/plain", retry_after="1")
    yield "forbidden", s.says(403, b"Invalid Host header")
    yield "basic sign-in", s.says(401, b"", "text/plain", www_authenticate='Basic realm="x"')
    yield "sign-in without a challenge", s.says(401)
    yield "metrics", s.says(200, b"# HELP up\n# TYPE up gauge\nup 1\n", "text/plain; version=0.0.4")
    yield "an echo over HTTP", _echoes
    yield "gRPC", s.says(415, b"", "application/grpc", grpc_status="12")
    yield "an event stream of somebody else", s.events("hello", name="message", path="/mcp")
    yield "an endpoint of another origin", s.events("http://127.0.0.1:9/messages", path="/mcp")
    yield "an endpoint of another host", s.events("//evil.invalid/messages", path="/mcp")
    yield "an endpoint that never comes", s.events("", path="/mcp")
    yield "only upgrades elsewhere", s.says(426, b"", "text/plain", upgrade="h2c")


async def _echoes(request: Request, _counts: Counts) -> Answer:
    return Answer(200, request.body or b"{}")


def _raw() -> Iterator[tuple[str, Callable[[], Serve]]]:
    yield "SSH", lambda: s.banner(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", b"Invalid SSH identification string.\r\n")
    yield "SMTP", lambda: s.banner(b"220 mail ESMTP ready\r\n", b"500 5.5.2 Error: bad syntax\r\n")
    yield "Redis", lambda: s.banner(b"", b"-ERR unknown command 'POST'\r\n")
    yield "Postgres", lambda: s.banner(b"", b"E\x00\x00\x00\x2fSFATAL\x00C08P01\x00Munsupported frontend protocol\x00\x00")
    yield "h2", lambda: s.banner(b"", b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00")
    yield "an echo", lambda: s.echo
    yield "a black hole", lambda: s.black_hole
    yield "a reset at once", lambda: s.resets_at_once
    yield "a reset at the first byte", lambda: s.resets
    yield "a flood", lambda: s.flood
    yield "half an HTTP head", lambda: s.banner(b"", b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
    yield "HTTP/2 in a status line", lambda: s.banner(b"", b"HTTP/2 200\r\n\r\n")
    yield "lines of JSON logs", lambda: s.banner(b'{"level":"info","msg":"ready"}\n' * 3, b'{"level":"warn"}\n')
    yield "lines of an echo", lambda: s.lines("echo")
    yield "lines of another JSON-RPC", lambda: s.lines("foreign")
    yield "MCPB of another version", lambda: s.binary("legacy", answer=b"MCPB\x00\x02\x00\x07\x00\x00\x00\x02{}")
    yield "MCPB with a wrong magic", lambda: s.binary("legacy", answer=b"MCPX\x00\x01\x00\x07\x00\x00\x00\x02{}")
    yield "MCPB of impossible length", lambda: s.binary("legacy", answer=b"MCPB\x00\x01\x00\x07\xff\xff\xff\xff{}")
    yield (
        "MCPB with the long header",
        lambda: s.binary("legacy", answer=b"MCP\x00\x00\x01\x00\x07\x00\x00\x00\x02\x00\x00\x00\x00{}"),
    )


def all_cases() -> Iterator[Case]:
    """Every case, in a fixed order."""
    for name, label, behave in _streamable():
        yield from shapes(Case(name, label, lambda behave=behave: s.http(behave)))  # type: ignore[misc]
        yield Case(f"{name}, no path", label, lambda behave=behave: s.http(behave), ROOT)  # type: ignore[misc]
        yield Case(f"{name}, bare", label, lambda behave=behave: s.http(behave), BARE)  # type: ignore[misc]
    for name, behave in _foreign_http():
        for how, shape in NEGATIVE_SHAPES.items():
            yield Case(f"{name}, {how}", UNKNOWN, lambda behave=behave: s.http(behave), shape=replace(shape))  # type: ignore[misc]
        yield Case(f"{name}, bare", UNKNOWN, lambda behave=behave: s.http(behave), BARE)  # type: ignore[misc]
    for name, make in _raw():
        yield Case(f"{name} taken for HTTP", UNKNOWN, make)
        yield Case(f"{name}, bare", UNKNOWN, make, BARE)
        yield Case(f"{name} taken for WebSocket", UNKNOWN, make, WS)
        yield Case(f"{name} taken for MCPB", UNKNOWN, make, TCP)
    yield from _signing_in()
    yield from _waiting()
    yield from _events()
    yield from _sockets()
    yield from _binary_and_lines()
    yield from _encrypted()


def _signing_in() -> Iterator[Case]:
    wanted = found("http", "unknown_auth_required")
    yield Case("401 with metadata", wanted, lambda: s.http(s.says(401, b"", www_authenticate=AUTH)))
    yield Case("401 with metadata, bare", wanted, lambda: s.http(s.says(401, b"", www_authenticate=AUTH)), BARE)
    yield Case(
        "401 with a bare challenge", wanted, lambda: s.http(s.says(401, b"{}", "application/json", www_authenticate="Bearer"))
    )
    yield Case(
        "401 after another scheme",
        wanted,
        lambda: s.http(s.says(401, b"", www_authenticate='Basic realm="a", Bearer realm="b"')),
    )
    yield Case(
        "403 for want of a scope",
        wanted,
        lambda: s.http(s.says(403, b"", www_authenticate='Bearer error="insufficient_scope"')),
    )
    yield Case("HTTP+SSE behind sign-in", found("sse", "unknown_auth_required"), lambda: s.http(_events_behind_sign_in), SSE)
    yield Case("a sign-in page over WebSocket", UNKNOWN, lambda: s.http(s.says(401)), WS)
    yield Case(
        "WebSocket behind sign-in",
        found("websocket", "unknown_auth_required"),
        lambda: s.http(s.says(401, b"", www_authenticate=AUTH)),
        WS,
    )


async def _events_behind_sign_in(request: Request, _counts: Counts) -> Answer:
    return Answer(401, headers={"www-authenticate": "Bearer"}) if request.method == "GET" else Answer(405)


def _waiting() -> Iterator[Case]:
    legacy, modern = found("http", "legacy"), found("http", "modern")
    for how, shape in LATE.items():
        yield Case(
            f"late: legacy that hangs on discover, {how}", legacy, lambda: s.http(s.legacy(s.hangs)), shape=replace(shape)
        )
        yield Case(f"late: legacy {how}", legacy, lambda: s.http(s.legacy()), shape=replace(shape))
        yield Case(f"late: modern {how}", modern, lambda: s.http(s.modern()), shape=replace(shape))
    yield Case("late: modern accepting after 900 ms", modern, lambda: s.http(s.modern()), shape=Shape(accept=0.9))
    for away in (0.2, 0.25):
        yield Case(f"late: legacy {away} s away", legacy, lambda: s.http(s.legacy()), shape=Shape(latency=away))
        yield Case(f"late: modern {away} s away", modern, lambda: s.http(s.modern()), shape=Shape(latency=away))
    yield Case("late: modern 400 ms away", modern, lambda: s.http(s.modern()), shape=Shape(latency=0.4))
    yield Case("late: dual 350 ms away", found("http", "dual"), lambda: s.http(s.dual()), shape=Shape(latency=0.35))
    for name, behave, label in (("legacy", s.legacy(), legacy), ("modern", s.modern(), modern)):
        yield Case(f"{name} with one connection only", label, lambda behave=behave: s.http(behave), shape=Shape(once=True))  # type: ignore[misc]
    yield Case(
        "replicas of two eras", found("http", "modern", "legacy"), lambda: s.alternately(s.http(s.modern()), s.http(s.legacy()))
    )
    yield Case("a slash missing", legacy, lambda: s.http(s.first_of(s.legacy(path="/mcp/"), _slash)))
    yield Case("a slash missing, modern", modern, lambda: s.http(s.first_of(s.modern(path="/mcp/"), _slash)))


async def _slash(_request: Request, _counts: Counts) -> Answer:
    return Answer(307, b"", "text/plain", {"location": "/mcp/"})


def _events() -> Iterator[Case]:
    label = found("sse", "legacy")
    kinds = {
        "": s.events(),
        "absolute endpoint": s.events("http://HOST/messages"),
        "comments first": s.events(before=b": ping\n\n: ping\n\n"),
        "POST is 404": s.events(post=404),
        "POST is 400": s.events(post=400),
        "POST is 500": s.events(post=500),
        "endpoint with CRLF": s.events("/messages\r"),
    }
    for name, behave in kinds.items():
        for how, shape in (
            ("", Shape()),
            ("50 ms away", Shape(latency=0.05)),
            ("100 ms away", Shape(latency=0.1)),
            ("byte by byte", Shape(pieces=1)),
        ):
            yield Case(f"HTTP+SSE {name} {how}", label, lambda behave=behave: s.http(behave), SSE, replace(shape))  # type: ignore[misc]
        yield Case(f"HTTP+SSE {name}, no path", label, lambda behave=behave: s.http(behave), ROOT)  # type: ignore[misc]
        yield Case(f"HTTP+SSE {name}, bare", label, lambda behave=behave: s.http(behave), BARE)  # type: ignore[misc]
    yield Case("HTTP+SSE, endpoint late", label, lambda: s.http(s.events(delay=0.4)), SSE)
    yield Case("HTTP+SSE on POST silent, late", label, lambda: s.http(_silent_posts), SSE)
    yield Case(
        "Streamable HTTP and HTTP+SSE", found("http", "legacy"), lambda: s.http(s.first_of(s.legacy(), s.events())), ROOT
    )
    yield Case("late Streamable HTTP, HTTP+SSE at once", found("http", "legacy"), lambda: s.http(_later_than_sse()), ROOT)
    yield Case(
        "late Streamable HTTP, WebSocket at once",
        found("http", "legacy"),
        lambda: s.websocket("legacy", otherwise=_late_posts),
        ROOT,
    )


def _later_than_sse() -> s.Behaviour:
    """Streamable HTTP that says nothing before the event stream beside it was asked for."""
    asked = asyncio.Event()

    async def behave(request: Request, counts: Counts) -> Answer | None:
        if request.method == "GET":
            if request.path == "/sse":
                asked.set()
            return await s.events()(request, counts)
        if request.method == "POST":
            await asked.wait()
            await asyncio.sleep(0.05)
        return await s.legacy()(request, counts)

    return behave


async def _late_posts(request: Request, counts: Counts) -> Answer | None:
    """Streamable HTTP of a server that takes long to start, beside HTTP+SSE that is there at once."""
    if request.method == "GET":
        return await s.events()(request, counts)
    await asyncio.sleep(0.08)
    return await s.legacy()(request, counts)


async def _silent_posts(request: Request, counts: Counts) -> Answer | None:
    return await s.events()(request, counts) if request.method == "GET" else None


def _sockets() -> Iterator[Case]:
    for kind in ("modern", "legacy", "dual"):
        label = found("websocket", kind)
        for how, shape in DUPLEX_SHAPES.items():
            yield Case(f"WebSocket {kind} {how}", label, lambda kind=kind: s.websocket(kind), WS, replace(shape))  # type: ignore[misc]
        yield Case(f"WebSocket {kind} on http://", label, lambda kind=kind: s.websocket(kind))  # type: ignore[misc]
        yield Case(f"WebSocket {kind} with subprotocol", label, lambda kind=kind: s.websocket(kind, subprotocol=True), WS)  # type: ignore[misc]
        yield Case(f"WebSocket {kind} at /ws", label, lambda kind=kind: s.websocket(kind, path="/ws"), BARE)  # type: ignore[misc]
        yield Case(f"WebSocket {kind} at /", label, lambda kind=kind: s.websocket(kind, path="/"), "ws://127.0.0.1:{port}")  # type: ignore[misc]
        yield Case(
            f"WebSocket {kind} after a banner",
            label,
            lambda kind=kind: s.websocket(kind, banner='{"jsonrpc":"2.0","method":"notifications/message","params":{}}'),
            WS,
        )  # type: ignore[misc]
    yield Case("late: WebSocket that is silent on discover", found("websocket", "legacy"), lambda: s.websocket("deaf"), WS)
    yield Case(
        "WebSocket and Streamable HTTP on one path",
        found("http", "legacy"),
        lambda: s.websocket("legacy", otherwise=s.legacy()),
    )
    for name, kind in (("silent", "silent"), ("an echo", "echo"), ("another JSON-RPC", "foreign")):
        yield Case(f"WebSocket: {name}", UNKNOWN, lambda kind=kind: s.websocket(kind), WS)  # type: ignore[misc]
        yield Case(f"WebSocket: {name}, on http://", UNKNOWN, lambda kind=kind: s.websocket(kind))  # type: ignore[misc]
    yield Case("WebSocket with a wrong accept key", UNKNOWN, lambda: s.websocket("legacy", accept="AAAA"), WS)
    yield Case("WebSocket at another path", UNKNOWN, lambda: s.websocket("legacy", path="/other"), WS)


def _binary_and_lines() -> Iterator[Case]:
    for kind in ("modern", "legacy", "dual"):
        for how, shape in DUPLEX_SHAPES.items():
            yield Case(f"MCPB {kind} {how}", found("tcp_binary", kind), lambda kind=kind: s.binary(kind), TCP, replace(shape))  # type: ignore[misc]
            yield Case(
                f"lines {kind} {how}",
                found("stdio", kind),
                lambda kind=kind: s.lines(kind),
                "unix://{path}",
                replace(shape),
                unix=True,
            )  # type: ignore[misc]
        yield Case(f"MCPB {kind}, bare", found("tcp_binary", kind), lambda kind=kind: s.binary(kind), BARE)  # type: ignore[misc]
        yield Case(f"lines {kind}, bare", found("stdio", kind), lambda kind=kind: s.lines(kind), BARE)  # type: ignore[misc]
        yield Case(f"lines {kind} at a path", found("stdio", kind), lambda kind=kind: s.lines(kind), "{path}", unix=True)  # type: ignore[misc]
        yield Case(
            f"lines {kind} behind logs",
            found("stdio", kind),
            lambda kind=kind: s.lines(kind, noise=b"starting ...\n{not json\n\x1b[32mready\x1b[0m\n"),
            "unix://{path}",
            unix=True,
        )  # type: ignore[misc]
        yield Case(
            f"lines {kind} with BOM and CRLF",
            found("stdio", kind),
            lambda kind=kind: s.lines(kind, bom=True, ends=b"\r\n"),
            "unix://{path}",
            unix=True,
        )  # type: ignore[misc]
    yield Case(
        "MCPB that wants sign-in", found("tcp_binary", "unknown_auth_required"), lambda: s.binary("legacy", auth=True), TCP
    )
    yield Case("late: MCPB that is silent about MCP", found("tcp_binary", None), lambda: s.binary("silent"), TCP)
    yield Case(
        "lines of a server that leaves over discover",
        found("stdio", "legacy"),
        lambda: s.lines("legacy", leaves=True),
        "unix://{path}",
        unix=True,
    )
    yield Case("late: lines silent on discover", found("stdio", "legacy"), lambda: s.lines("deaf"), "unix://{path}", unix=True)
    yield Case("HTTP on a unix socket", found("http", "legacy"), lambda: s.http(s.legacy()), "unix://{path}", unix=True)
    yield Case("HTTP on a unix socket, modern", found("http", "modern"), lambda: s.http(s.modern()), "unix://{path}", unix=True)
    yield Case("an echo on a unix socket", UNKNOWN, lambda: s.echo, "unix://{path}", unix=True)
    yield Case("a silent unix socket", UNKNOWN, lambda: s.black_hole, "unix://{path}", unix=True)


def _encrypted() -> Iterator[Case]:
    for name, behave, label in (
        ("modern", s.modern(), found("http", "modern")),
        ("legacy", s.legacy(), found("http", "legacy")),
    ):
        make = lambda behave=behave: s.http(behave)  # noqa: E731
        yield Case(f"https {name}", label, make, "https://127.0.0.1:{port}/mcp", tls="server")
        yield Case(f"https {name}, by name", label, make, "https://localhost:{port}/mcp", tls="server")
        yield Case(f"https {name}, asked for http", label, make, tls="server")
        yield Case(f"https {name}, bare", label, make, BARE, tls="server")
        yield Case(f"https {name} not trusted", label, make, "https://127.0.0.2:{port}/mcp", tls="server", host="127.0.0.2")
        yield Case(f"https {name} that wants our certificate", UNKNOWN, make, "https://127.0.0.1:{port}/mcp", tls="mutual")
        yield Case(f"http {name}, asked for https", UNKNOWN, make, "https://127.0.0.1:{port}/mcp")
        yield Case(f"http {name} on IPv6", label, make, "http://[::1]:{port}/mcp", host="::1")
        yield Case(f"http {name} by a name whose IPv6 is dead", label, make, "http://localhost:{port}/mcp")
    yield Case("wss", found("websocket", "legacy"), lambda: s.websocket("legacy"), "wss://127.0.0.1:{port}/mcp", tls="server")
    yield Case("tcps", found("tcp_binary", "modern"), lambda: s.binary("modern"), "tcps://127.0.0.1:{port}", tls="server")
    yield Case("tcps asked for tcp", found("tcp_binary", "modern"), lambda: s.binary("modern"), TCP, tls="server")
