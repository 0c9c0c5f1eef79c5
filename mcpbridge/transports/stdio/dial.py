"""dial(): a conversation with a server that we start as a child process.

Source: architecture section 8 (stdio); MCP stdio transport.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mcpbridge.core.exchange import Era
from mcpbridge.core.peer import Peer
from mcpbridge.core.ports import Dial, Inbox, Upstream
from mcpbridge.core.tasks import Spawn
from mcpbridge.observe.log import log
from mcpbridge.transports.stdio.child import spawn as start_child

_log = log("server_stderr")


def dial(
    name: str,
    spawn: Spawn,
    argv: Callable[[], Sequence[str]],
    *,
    env: Callable[[], Mapping[str, str]] = dict,
    cwd: str | None = None,
    max_message: int = 10_485_760,
) -> Dial:
    """How to reach server ``name`` by running ``argv``, without a shell.

    ``argv`` and ``env`` are read at each start: they may hold secrets.
    """

    async def run(_era: Era, inbox: Inbox) -> Upstream:
        child = await start_child(argv(), env=env(), cwd=cwd, name=name, max_message=max_message, on_stderr=said)
        peer = Peer(child, inbox, spawn, client=False, name=name)
        peer.start()
        return peer

    def said(line: str) -> None:
        _log.info(line, protocol="stdio", server=name)

    return run
