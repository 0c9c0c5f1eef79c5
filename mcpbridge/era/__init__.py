"""Where eras meet: finding a server's era, and the two crossings. Deleting this room leaves a same-era bridge for both eras.

    probe.py      which era does a server speak
    translate.py  one message from one dialect to the other (pure)
    servers.py    a modern client with a legacy server
    parking.py    its calls that wait while the client answers the server's questions
    questions.py  questions and answers, both ways (pure)
    standing.py   the sessions that stand for it
    clients.py    a legacy client with a modern server
    rounds.py     its calls, whose server asks by `input_required`
    revisions.py  what each legacy version can hold (pure)

Source: mcp-eras sections 2 and 3; architecture section 7.
"""

from __future__ import annotations

from mcpbridge.core.client_session import AnyLink, ClientSession
from mcpbridge.core.exchange import Era, Exchange
from mcpbridge.core.ports import Upstream
from mcpbridge.core.server import Backend
from mcpbridge.era.clients import ModernLink
from mcpbridge.era.parking import Parking
from mcpbridge.era.probe import is_modern_only, may_be_modern, probe
from mcpbridge.era.servers import call, tell
from mcpbridge.errors import BridgeError
from mcpbridge.wire.message import Notification, Response


class Crossings:
    """The era room as the core sees it (``core.server.Eras``)."""

    def __init__(self, parking: Parking | None = None) -> None:
        self.parking = parking if parking is not None else Parking()

    async def probe(self, upstream: Upstream, timeout: float) -> tuple[Era, Response]:
        return await probe(upstream, timeout)

    def is_modern_only(self, response: Response) -> bool:
        return is_modern_only(response)

    def may_be_modern(self, refusal: Response | BridgeError) -> bool:
        return may_be_modern(refusal)

    def link(self, session: ClientSession, backend: Backend) -> AnyLink:
        return ModernLink(session, backend)

    async def call(self, x: Exchange) -> Response:
        return await call(x, self.parking)

    async def tell(self, x: Exchange, notification: Notification) -> None:
        await tell(x, notification)

    async def close(self) -> None:
        await self.parking.close()
