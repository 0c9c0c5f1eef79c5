"""Plays a golden transcript through the real rings: a client and a server of text, the bridge between them.

    C> {...}   the client sends            >S {...}   the server must receive
    S> {...}   the server sends            >C {...}   the client must receive
    # ...      a comment

Lines run in order. A received message must equal its line as JSON, member for member; `"@"` matches any text. `"@name"` does
too and remembers it: a line that is sent says it again under this name. `= @name JSON` gives a name to any value, which lines
of both kinds say. `--` begins a further conversation with the server; `--2` goes on with the second one.

`== a b` at the beginning puts these servers behind one endpoint; they have their names in place of S, as in `a>` and `-- a`.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from mcpbridge.bridge import Bridge, Way
from mcpbridge.core.duplex import DuplexClient
from mcpbridge.core.exchange import ANONYMOUS, Era, Exchange, Handler
from mcpbridge.core.peer import Peer
from mcpbridge.core.ports import Inbox, Upstream
from mcpbridge.core.ports import Eras
from mcpbridge.policies.sessions import sessions
from mcpbridge.policies.validate import validate
from mcpbridge.stores.memory import MemoryStore

WAIT = 5.0


class Pipe:
    """A Connection whose other end is the test."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue()
        self.started = asyncio.Event()

    def start(self, on_message: Any, on_close: Any) -> None:
        self._on_message, self._on_close = on_message, on_close
        self.started.set()

    def send(self, data: bytes) -> None:
        self.received.put_nowait(data)

    async def drain(self) -> None:
        return None

    def pause(self) -> None:
        return None

    def resume(self) -> None:
        return None

    async def close(self) -> None:
        return None

    def feed(self, data: bytes) -> None:
        self._on_message(data)

    def end(self, cause: BaseException | None) -> None:
        self._on_close(cause)


class World:
    """One client, any number of servers by name, and the bridge between them."""

    def __init__(self, bridge: Bridge, client: Pipe, servers: dict[str, list[Pipe]]) -> None:
        self.bridge = bridge
        self.client = client
        self.servers = servers

    async def server(self, name: str, number: int = 0) -> Pipe:
        """The ``number``-th conversation that the bridge opens with a server."""
        async with asyncio.timeout(WAIT):
            while len(self.servers[name]) <= number:
                await asyncio.sleep(0)
            await self.servers[name][number].started.wait()
        return self.servers[name][number]


async def receive(pipe: Pipe) -> Any:
    async with asyncio.timeout(WAIT):
        return json.loads(await pipe.received.get())


def anonymous() -> Any:
    async def policy(x: Exchange, handler: Handler) -> Any:
        x.caller.principal = ANONYMOUS
        return await handler(x)

    return policy


def start_world(bridge: Bridge, names: list[str], *, single: bool, prefix: bool = True) -> World:
    """Servers of pipes behind ``bridge`` and a duplex client in front; ``single``: one server shown as it is."""
    pipes: dict[str, list[Pipe]] = {name: [] for name in names}

    def dialer(name: str) -> Any:
        async def dial(_era: Era, inbox: Inbox) -> Upstream:
            pipe = Pipe()
            peer = Peer(pipe, inbox, bridge.spawn, client=False, name=name)
            peer.start()
            pipes[name].append(pipe)
            return peer

        return dial

    for name in names:
        bridge.add(name, [Way("stdio", name, dialer(name), is_child=True)], prefix=prefix)
    numbers = iter(range(1, 1000))
    front = bridge.front(
        [anonymous(), sessions(bridge.sessions, lambda _record: f"s{next(numbers)}"), validate()], bridge.endpoint()
    )
    target = bridge.servers[names[0]] if single else tuple(bridge.servers.values())
    client = Pipe()
    DuplexClient(client, front, lambda: target, bridge.spawn, protocol="stdio", deadline=WAIT).start()
    return World(bridge, client, pipes)


def new_bridge(eras: Eras | None, **options: Any) -> Bridge:
    return Bridge("router", MemoryStore(), eras, start_timeout=WAIT, **options)


def same(expected: Any, found: Any, names: dict[str, str]) -> bool:
    """JSON equality in which an expected text that begins with "@" matches any text; ``names`` gets its JSON if it is named."""
    if isinstance(expected, str) and expected.startswith("@"):
        if isinstance(found, str) and expected != "@":
            names[expected] = json.dumps(found)
        return isinstance(found, str)
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and expected.keys() == found.keys()
            and all(same(expected[k], found[k], names) for k in expected)
        )
    if isinstance(expected, list):
        return (
            isinstance(found, list)
            and len(expected) == len(found)
            and all(same(e, f, names) for e, f in zip(expected, found, strict=True))
        )
    return type(expected) is type(found) and bool(expected == found)


def said(text: str, names: dict[str, str]) -> str:
    """A line that is sent, with what its names stand for."""
    for name, value in names.items():
        text = text.replace(json.dumps(name), value)
    return text


async def play(path: Path, eras: Eras | None) -> None:
    """Play one transcript. Raises AssertionError naming the line."""
    lines = [line.strip().partition(" ") for line in path.read_text().splitlines()]
    servers = next((text.split() for arrow, _, text in lines if arrow == "=="), ["server"])
    async with new_bridge(eras) as bridge:
        world = start_world(bridge, servers, single=servers == ["server"])
        conversations = dict.fromkeys(servers, 0)
        names: dict[str, str] = {}  # what a received line remembered
        values: dict[str, str] = {}  # what the transcript itself gave a name

        async def pipe(name: str) -> Pipe:
            name = "server" if name == "S" else name
            return world.client if name == "C" else await world.server(name, conversations[name])

        for number, (arrow, _, text) in enumerate(lines, 1):
            place = f"{path.name}:{number}"
            if arrow in ("", "#", "=="):
                continue
            if arrow == "--":  # the bridge opens a further conversation with the server
                conversations[text or "server"] += 1
            elif arrow == "=":
                name, _, value = text.partition(" ")
                values[name] = said(value, values)
            elif arrow.startswith("--"):
                conversations[text or "server"] = int(arrow[2:]) - 1
            elif arrow.endswith(">"):
                (await pipe(arrow[:-1])).feed(said(text, names | values).encode())
            else:
                try:
                    found = await receive(await pipe(arrow[1:]))
                except TimeoutError:
                    told = [] if world.client.received.empty() else [world.client.received.get_nowait()]
                    raise AssertionError(f"{place}: nothing came; expected {text}; the client was told {told}") from None
                expected = said(text, values)
                assert same(json.loads(expected), found, names), f"{place}:\nexpected {expected}\nfound    {json.dumps(found)}"
        for name in ("C", *servers):
            received = (await pipe(name)).received
            assert received.empty(), f"{path.name}: {name} got more than the transcript says: {received.get_nowait()!r}"
