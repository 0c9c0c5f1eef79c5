"""Face: what one server and an endpoint's clients say to each other, with the names that the endpoint uses.

    towards clients   task ids become `server:id`, a resource URI that two servers have becomes its alias
    towards servers   task ids become their own again

Only the members named here and in ``TaskIds`` are touched, and only when they change; every other byte stays. URIs inside the
messages of a server's sampling request stay its own: a model reads them for that server, and its answer goes back there.

Source: mcp-eras sections 3 (tasks) and 4; MCP 2025-11-25 tasks; extension io.modelcontextprotocol/tasks (SEP-2663).
"""

from __future__ import annotations

from msgspec import Raw

from mcpbridge.core.aggregate.names import expose_task, task_owner
from mcpbridge.core.aggregate.resources import Owners
from mcpbridge.core.client_session import ClientSession
from mcpbridge.core.exchange import Reply
from mcpbridge.core.server import Server
from mcpbridge.core.task_ids import TaskIds
from mcpbridge.wire.edit import Change, as_text, changed, each, edited
from mcpbridge.wire.message import Notification, Request, Response

_WITH_CONTENT = frozenset({"tools/call", "prompts/get", "resources/read", "tasks/get", "tasks/result"})


class Face:
    """The endpoint's names of what its servers have. ``owners`` knows the resources."""

    def __init__(self, owners: Owners) -> None:
        self._owners = owners

    def request(self, server: Server, request: Request) -> Request:
        """A client's request as the server knows it. Its name or URI is whoever's who routes it."""
        return _PrefixedTasks(server).request(request)

    def response(self, server: Server, request: Request, response: Response) -> Response:
        """A server's answer as clients see it."""
        response = _PrefixedTasks(server).response(request, response)
        if response.result is None or request.method not in _WITH_CONTENT or not self._owners.has_aliases(server.name):
            return response
        result = edited(response.result, self._content(server))
        return response if result is response.result else response.with_result(bytes(result))

    def notification(self, server: Server, notification: Notification) -> Notification:
        """What a server says on its own, or during a call, as clients see it."""
        notification = _PrefixedTasks(server).notification(notification)
        if notification.method != "notifications/resources/updated" or not self._owners.has_aliases(server.name):
            return notification
        params = changed(notification.params, {"uri": self._uri(server)})
        return notification if params is None else notification.with_params(params)

    def question(self, server: Server, request: Request) -> Request:
        """A server's question as clients see it."""
        return _PrefixedTasks(server).question(request)

    def answer(self, server: Server, response: Response) -> Response:
        """A client's answer to such a question as the server knows it."""
        return _PrefixedTasks(server).answer(response)

    def reply(self, server: Server, reply: Reply, session: ClientSession | None) -> Reply:
        """The way back of one call to this server; ``session`` is a legacy client's."""
        return _FaceReply(self, server, reply, session)

    def _uri(self, server: Server) -> Change:
        return as_text(lambda uri: self._owners.shown(server.name, uri))

    def _content(self, server: Server) -> dict[str, Change]:
        """Where results hold URIs of resources: links, embedded resources, what was read, messages of a prompt."""
        uri = self._uri(server)

        def block(raw: Raw) -> Raw:
            return edited(raw, {"uri": uri, "resource": lambda inner: edited(inner, {"uri": uri})})

        def blocks(raw: Raw) -> Raw:
            return each(raw, block) if bytes(raw).startswith(b"[") else block(raw)

        changes: dict[str, Change] = {
            "content": blocks,
            "contents": blocks,
            "messages": lambda raw: each(raw, lambda message: edited(message, {"content": blocks})),
        }
        return {**changes, "result": lambda raw: edited(raw, changes)}  # of a finished task


class _FaceReply:
    """A client's way back, with the names that its endpoint uses."""

    __slots__ = ("_face", "_reply", "_server", "_session", "can_ask")

    def __init__(self, face: Face, server: Server, reply: Reply, session: ClientSession | None) -> None:
        self._session = session
        self._face = face
        self._server = server
        self._reply = reply
        self.can_ask = reply.can_ask

    def notify(self, notification: Notification) -> None:
        self._reply.notify(self._face.notification(self._server, notification))

    async def ask(self, request: Request, asker: Reply | None = None) -> Response:
        answer = await self._reply.ask(self._face.question(self._server, request), asker)
        if self._session is not None:
            self._session.took_task(self._server, request, answer)
        return self._face.answer(self._server, answer)


class _PrefixedTasks(TaskIds):
    """One server's tasks among those of an endpoint: `server:id`."""

    __slots__ = ("_server",)

    def __init__(self, server: Server) -> None:
        self._server = server.name

    def shown(self, own: str) -> str:
        return expose_task(self._server, own)

    def own(self, shown: str) -> str | None:
        found = task_owner(shown)
        return found[1] if found is not None and found[0] == self._server else None
