"""What both echo servers answer: one tool, ``echo``, that returns its text. Dual-era, as small as a server can be.

The servers measure nothing themselves; they must only be so cheap that what is measured is the hop in front of them.

Source: mcp-eras sections 1 and 2 (initialize, server/discover, resultType).
"""

from __future__ import annotations

import msgspec

LEGACY_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSION = "2026-07-28"
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
MODERN_MARK = VERSION_KEY.encode()

_TOOLS = (
    b'"tools":[{"name":"echo","description":"Returns its text.","inputSchema":{"type":"object",'
    b'"properties":{"text":{"type":"string"}},"required":["text"]}}]'
)
_INFO = b'{"name":"bench-echo","version":"1"}'
_RESULT_TAIL = b',"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":' + _INFO + b"}"
_CACHE = b',"ttlMs":60000,"cacheScope":"public"'


class _Params(msgspec.Struct):
    arguments: dict[str, msgspec.Raw] = {}
    protocolVersion: str = ""  # noqa: N815 - the wire's own name


class _Call(msgspec.Struct):
    method: str = ""
    id: msgspec.Raw = msgspec.Raw(b"")
    params: _Params = msgspec.field(default_factory=_Params)


_decode = msgspec.json.Decoder(_Call).decode


def answer(line: bytes) -> bytes | None:
    """The JSON-RPC answer to one message, without a newline; None for notifications and answers.

    Raises msgspec.DecodeError for what is not a JSON object of that shape.
    """
    call = _decode(line)
    number = bytes(call.id)
    if not number or not call.method:
        return None
    head = b'{"jsonrpc":"2.0","id":' + number
    modern = MODERN_MARK in line
    tail = _RESULT_TAIL if modern else b""
    match call.method:
        case "tools/call":
            text = bytes(call.params.arguments.get("text", b'""'))
            return head + b',"result":{"content":[{"type":"text","text":' + text + b"}]" + tail + b"}}"
        case "ping":
            return head + b',"result":{}}'
        case "tools/list":
            return head + b',"result":{' + _TOOLS + (tail + _CACHE if modern else b"") + b"}}"
        case "server/discover":
            return (
                head
                + b',"result":{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}'
                + _RESULT_TAIL
                + _CACHE
                + b"}}"
            )
        case "initialize" if not modern:
            wanted = call.params.protocolVersion
            version = wanted if wanted in LEGACY_VERSIONS else LEGACY_VERSIONS[-1]
            return (
                head
                + b',"result":{"protocolVersion":"'
                + version.encode()
                + b'","capabilities":{"tools":{}},"serverInfo":'
                + _INFO
                + b"}}"
            )
        case _:
            return head + b',"error":{"code":-32601,"message":"Method not found"}}'
