"""Task ids: as they are while nothing could confuse them, else sealed, so that they serve their own caller only."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from mcpbridge.bridge import Bridge, Way
from mcpbridge.core.exchange import ANONYMOUS, Principal, Reply
from mcpbridge.core.server import Server
from mcpbridge.era import Crossings
from mcpbridge.errors import BridgeError
from mcpbridge.seal import Sealer, random_secret
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import parse
from tests.support.scripted import DISCOVERED, HELLO, META, WAIT, Back, Scripted, Talk, add, client, exchange

ANN, BOB = Principal("i", "ann"), Principal("i", "bob")
RELATED = "io.modelcontextprotocol/related-task"
ABOUT_ONE_TASK = ("tasks/get", "tasks/update", "tasks/cancel")


class Tasks(Scripted):
    """A modern server: every call becomes task 7. ``heard``: method and params of what came."""

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.name = name
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.answer = self.serve

    async def serve(self, talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "server/discover":
            return m.result(request.id, DISCOVERED)
        if request.method == "tools/list":
            return m.result(request.id, {"resultType": "complete", "tools": []})
        params = {key: m.loads(raw) for key, raw in (request.params or {}).items() if key != "_meta"}
        self.heard.append((request.method, params))
        if request.method == "subscriptions/listen":
            reply.notify(m.notification("notifications/subscriptions/acknowledged", params))
            for id in (params["notifications"]).get("taskIds", ()):
                reply.notify(m.notification("notifications/tasks", {"taskId": id, "status": "working", "_meta": {"k": 1}}))
            return m.result(request.id, {"resultType": "complete"})
        told = (
            b'{"resultType":"' + (b"task" if request.method == "tools/call" else b"complete") + b'", "taskId" : "7","own":1.50}'
        )
        answer = parse(b'{"jsonrpc":"2.0","id":' + m.dumps(request.id) + b',"result":' + told + b"}", client=False)
        assert isinstance(answer, m.Response)
        return answer


class Heard:
    """A caller's way back."""

    can_ask = True

    def __init__(self) -> None:
        self.notifications: list[m.Notification] = []
        self.questions: list[m.Request] = []
        self.result: Any = {}

    def notify(self, notification: m.Notification) -> None:
        self.notifications.append(notification)

    async def ask(self, request: m.Request, asker: Reply | None = None) -> m.Response:
        self.questions.append(request)
        return m.result(request.id, self.result)


@contextlib.asynccontextmanager
async def new_bridge(secret: bytes = b"k" * 32) -> AsyncIterator[Bridge]:
    sealer = Sealer([secret])
    async with Bridge("gateway", MemoryStore(), Crossings(), start_timeout=WAIT, sealer=sealer) as bridge:
        yield bridge


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with new_bridge() as bridge:
        yield bridge


def modern(bridge: Bridge, *replicas: Scripted, name: str = "s") -> Server:
    server = bridge.add(name, [Way("stdio", f"{name}{n}", one.dial, is_child=True) for n, one in enumerate(replicas)])
    for backend in server.backends:
        backend.speaks["modern"] = True
    return server


async def say(
    bridge: Bridge, server: Server, method: str, principal: Principal = ANONYMOUS, *, reply: Reply | None = None, **params: Any
) -> m.Response:
    request = m.request(1, method, {**params, "_meta": META})
    response = await bridge.one(exchange(request, server, principal=principal, reply=reply))
    assert response is not None
    return response


async def start(bridge: Bridge, server: Server, principal: Principal = ANONYMOUS) -> str:
    """The id of a new task as its caller knows it."""
    return str(m.loads((await say(bridge, server, "tools/call", principal, name="t")).result or b"")["taskId"])


@contextlib.contextmanager
def unknown() -> Iterator[None]:
    with pytest.raises(BridgeError, match="unknown task") as caught:
        yield
    assert (caught.value.fault.code, caught.value.sent) == (-32602, False)


async def test_with_one_replica_and_without_sign_in_an_id_passes_as_it_is(bridge: Bridge) -> None:
    server = modern(bridge, tasks := Tasks())
    assert await start(bridge, server) == "7"
    await say(bridge, server, "tasks/get", taskId="7")
    await say(bridge, server, "tasks/get", taskId="made up")
    assert tasks.heard[1:] == [("tasks/get", {"taskId": "7"}), ("tasks/get", {"taskId": "made up"})]


async def test_with_sign_in_an_id_is_sealed_always_the_same_and_its_server_hears_its_own(bridge: Bridge) -> None:
    server = modern(bridge, tasks := Tasks())
    answer = await say(bridge, server, "tools/call", ANN, name="t")
    id = m.loads(answer.result or b"")["taskId"]
    assert bytes(answer.result or b"") == b'{"resultType":"task", "taskId" : "%s","own":1.50}' % id.encode()
    assert id != "7"
    assert await start(bridge, server, ANN) == id
    assert m.loads((await say(bridge, server, "tasks/get", ANN, taskId=id)).result or b"")["taskId"] == id
    await say(bridge, server, "tasks/update", ANN, taskId=id, inputResponses={"k": {}})
    await say(bridge, server, "tasks/cancel", ANN, taskId=id)
    own = {"taskId": "7"}
    told = [("tasks/get", own), ("tasks/update", {**own, "inputResponses": {"k": {}}}), ("tasks/cancel", own)]
    assert tasks.heard[2:] == told


@pytest.mark.parametrize("method", ABOUT_ONE_TASK)
async def test_what_is_not_the_caller_s_task_is_unknown_and_reaches_no_server(bridge: Bridge, method: str) -> None:
    server, elsewhere = modern(bridge, tasks := Tasks()), modern(bridge, other := Tasks(), name="other")
    id = await start(bridge, server, ANN)
    assert await start(bridge, server, BOB) != id
    middle = len(id) // 2
    flipped = id[:middle] + ("A" if id[middle] != "A" else "B") + id[middle + 1 :]
    for wrong in ("7", "", 7, None, flipped, id[1:], id + "A"):
        with unknown():
            await say(bridge, server, method, ANN, taskId=wrong)
    with unknown():
        await say(bridge, server, method, ANN)
    with unknown():
        await say(bridge, server, method, BOB, taskId=id)
    with unknown():
        await say(bridge, elsewhere, method, ANN, taskId=id)
    assert ([said[0] for said in tasks.heard], other.heard) == (["tools/call"] * 2, [])


async def test_after_a_restart_a_task_is_known_if_the_secret_is_still_the_same() -> None:
    secret = random_secret()
    async with new_bridge(secret) as bridge:
        id = await start(bridge, modern(bridge, Tasks()), ANN)
    async with new_bridge(secret) as bridge:
        server = modern(bridge, tasks := Tasks())
        await say(bridge, server, "tasks/get", ANN, taskId=id)
        assert tasks.heard == [("tasks/get", {"taskId": "7"})]
    async with new_bridge(random_secret()) as bridge:
        server = modern(bridge, tasks := Tasks())
        with unknown():
            await say(bridge, server, "tasks/get", ANN, taskId=id)
        assert tasks.heard == []


@pytest.mark.parametrize("principal", [ANONYMOUS, ANN])
async def test_of_two_replicas_the_one_that_runs_the_task_is_asked_or_nobody(bridge: Bridge, principal: Principal) -> None:
    replicas = [Tasks("a"), Tasks("b")]
    server = modern(bridge, *replicas)
    ids = []
    for backend in server.backends:
        busy = next(other for other in server.backends if other is not backend)
        busy.begin()
        ids.append(await start(bridge, server, principal))
        busy.abandoned()
    assert ids[0] != ids[1]
    for replica, id in reversed(list(zip(replicas, ids, strict=True))):
        await say(bridge, server, "tasks/get", principal, taskId=id)
        assert replica.heard[-1] == ("tasks/get", {"taskId": "7"})
    ear = Heard()
    await say(bridge, server, "subscriptions/listen", principal, reply=ear, notifications={"taskIds": [ids[1]]})
    assert replicas[1].heard[-1] == ("subscriptions/listen", {"notifications": {"taskIds": ["7"]}})

    async def dead(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        raise BridgeError("connection_refused", "s", sent=False)

    replicas[1].answer = dead
    with pytest.raises(BridgeError, match="connection refused"):
        await say(bridge, server, "tasks/get", principal, taskId=ids[1])
    server.backends[1] = server.backends[0]
    with unknown():
        await say(bridge, server, "tasks/get", principal, taskId=ids[1])
    with unknown():
        await say(bridge, server, "tasks/get", principal, taskId="7")
    assert [said[0] for said in replicas[0].heard] == ["tools/call", "tasks/get"]


async def test_a_listen_asks_for_the_caller_s_own_tasks_and_tells_of_them_by_their_sealed_ids(bridge: Bridge) -> None:
    server = modern(bridge, tasks := Tasks())
    mine, others, ear = await start(bridge, server, ANN), await start(bridge, server, BOB), Heard()
    wanted = {"taskIds": ["7", others, mine], "vendor": {"x": 1}}
    await say(bridge, server, "subscriptions/listen", ANN, reply=ear, notifications=wanted)
    assert tasks.heard[-1][1]["notifications"] == {"vendor": {"x": 1}, "taskIds": ["7"]}
    acknowledged, news = ear.notifications
    assert m.loads((acknowledged.params or {})["notifications"])["taskIds"] == [mine]
    assert m.loads(news.encode())["params"] == {"taskId": mine, "status": "working", "_meta": {"k": 1}}
    await say(bridge, server, "subscriptions/listen", ANN, reply=ear, notifications={"taskIds": [others]})
    assert tasks.heard[-1][1] == {"notifications": {}}
    await say(bridge, server, "subscriptions/listen", ANN, reply=ear, notifications={"taskIds": [5]})
    assert tasks.heard[-1][1] == {"notifications": {}}
    with pytest.raises(BridgeError, match="array"):
        await say(bridge, server, "subscriptions/listen", ANN, reply=ear, notifications={"taskIds": 5})


async def test_an_answer_without_a_task_is_left_alone(bridge: Bridge) -> None:
    server = modern(bridge, tasks := Tasks())

    async def plain(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        return m.result(request.id, {"resultType": "complete", "taskId": "7", "content": [{"taskId": "7"}]})

    tasks.answer = plain
    said = await say(bridge, server, "tools/call", ANN, name="t")
    assert m.loads(said.result or b"")["taskId"] == "7"


async def test_behind_an_endpoint_of_several_servers_a_sealed_id_names_its_server_too(bridge: Bridge) -> None:
    one, two = Tasks(), Tasks()
    servers = (modern(bridge, one, name="one"), modern(bridge, two, name="two"))
    endpoint = bridge.endpoint()

    async def ask(method: str, principal: Principal, **params: Any) -> Any:
        x = exchange(m.request(1, method, {**params, "_meta": META}), servers[0], principal=principal)
        x.target = servers
        response = await endpoint(x)
        assert response is not None
        return m.loads(response.result or b"")

    id = (await ask("tools/call", ANN, name="two__t"))["taskId"]
    assert id.startswith("two:")
    assert id != "two:7"
    assert (await ask("tasks/get", ANN, taskId=id))["taskId"] == id
    for wrong in ("two:7", id.replace("two:", "one:"), id.removeprefix("two:")):
        with unknown():
            await ask("tasks/get", ANN, taskId=wrong)
    with unknown():
        await ask("tasks/cancel", BOB, taskId=id)
    assert ([said[0] for said in two.heard], one.heard) == (["tools/call", "tasks/get"], [])


class LegacyTasks(Scripted):
    """A legacy server with tasks; ``during``: what it says during a call."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = self.serve
        self.heard: list[m.Request] = []
        self.answered: list[Any] = []

    async def serve(self, talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "initialize":
            tasks = {"cancel": {}, "list": {}, "requests": {"tools": {"call": {}}}}
            return m.result(request.id, {**HELLO, "capabilities": {"tools": {}, "tasks": tasks}})
        self.heard.append(request)
        about = {"_meta": {RELATED: {"taskId": "7"}}}
        if request.method == "tasks/list":
            return m.result(request.id, {"tasks": [{"taskId": "7"}]})
        if request.method == "tasks/result":
            reply.notify(m.notification("notifications/message", {"level": "info", "data": 1, **about}))
            answer = await reply.ask(m.request("q", "elicitation/create", about))
            self.answered.append(m.loads(answer.result or b""))
            return m.result(request.id, {"content": [], **about})
        return m.result(request.id, {"task": {"taskId": "7"}} if request.param("task") is not None else {"taskId": "7"})


async def legacy(bridge: Bridge, server: Server, principal: Principal, back: Back) -> Any:
    """A client's way to call; it has initialized. ``.hello``: the capabilities it was told."""
    session = client(principal.key, back=back, id=principal.subject)

    async def call(method: str, reply: Reply | None = None, **params: Any) -> m.Response:
        x = exchange(m.request(1, method, params or None), server, session, principal=principal, reply=reply)
        response = await bridge.one(x)
        assert response is not None
        return response

    assert session.initialize is not None
    hello = await call("initialize", **(session.initialize.params or {}))
    call.hello = m.loads(hello.result or b"")["capabilities"]  # type: ignore[attr-defined]
    return call


async def test_a_legacy_conversation_that_principals_share_binds_ids_in_all_their_places(bridge: Bridge) -> None:
    server = add(bridge, tasks := LegacyTasks(), isolation="shared")
    backs = Back(), Back()
    ann, bob = await legacy(bridge, server, ANN, backs[0]), await legacy(bridge, server, BOB, backs[1])
    assert len(tasks.talks) == 1
    assert ann.hello["tasks"] == {"cancel": {}, "requests": {"tools": {"call": {}}}}
    id = m.loads((await ann("tools/call", name="t", task={})).result)["task"]["taskId"]
    assert id != "7"
    assert m.loads((await ann("tasks/get", taskId=id)).result) == {"taskId": id}
    ear = Heard()
    ear.result = {"action": "accept", "_meta": {RELATED: {"taskId": id}}}
    about = {RELATED: {"taskId": id}}
    assert m.loads((await ann("tasks/result", ear, taskId=id)).result)["_meta"] == about
    assert m.loads((ear.notifications[0].params or {})["_meta"]) == about
    assert m.loads((ear.questions[0].params or {})["_meta"]) == about
    assert tasks.answered == [{"action": "accept", "_meta": {RELATED: {"taskId": "7"}}}]
    came = len(tasks.heard)
    for method in ("tasks/get", "tasks/result", "tasks/cancel"):
        for wrong in (id, "7"):
            with unknown():
                await bob(method, taskId=wrong)
    assert m.loads((await bob("tasks/list")).error or b"")["code"] == -32601
    assert len(tasks.heard) == came
    inbox = tasks.talks[0].inbox
    inbox.notified(m.notification("notifications/tasks/status", {"taskId": "7", "status": "working"}))
    inbox.notified(m.notification("notifications/message", {"level": "info", "data": 1, "_meta": {RELATED: {"taskId": "7"}}}))
    assert backs[0].heard == backs[1].heard == []
    inbox.notified(m.notification("notifications/tools/list_changed"))
    assert len(backs[0].heard) == len(backs[1].heard) == 1


@pytest.mark.parametrize(("isolation", "principal"), [("shared", ANONYMOUS), ("principal", ANN), ("session", ANN)])
async def test_a_legacy_conversation_of_one_principal_passes_ids_as_they_are(
    bridge: Bridge, isolation: str, principal: Principal
) -> None:
    server = add(bridge, tasks := LegacyTasks(), isolation=isolation)
    call = await legacy(bridge, server, principal, back := Back())
    assert "list" in call.hello["tasks"]
    assert m.loads((await call("tools/call", name="t", task={})).result)["task"]["taskId"] == "7"
    assert m.loads((await call("tasks/list")).result)["tasks"] == [{"taskId": "7"}]
    tasks.talks[0].inbox.notified(m.notification("notifications/tasks/status", {"taskId": "7"}))
    assert len(back.heard) == 1
