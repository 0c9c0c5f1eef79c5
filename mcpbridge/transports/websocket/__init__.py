"""WebSocket, both halves: one JSON-RPC message per text frame, subprotocol ``mcp``.

    client                                                     server
    GET /ws HTTP/1.1, Upgrade: websocket         ──►
    Sec-WebSocket-Protocol: mcp                  ◄──           101 Switching Protocols, Sec-WebSocket-Protocol: mcp
    text frame {"jsonrpc":"2.0","id":1,…}        ──►
                                                 ◄──           text frame {"jsonrpc":"2.0","id":1,…}

A custom transport in the words of MCP: connecting is the upgrade (the credential is in its headers), a frame or a sequence of
fragments is a message, cancelling is ``notifications/cancelled``, and a client that goes cancels what it asked.

Source: RFC 6455, RFC 7692; MCP custom transports; architecture section 8; contract http.gateway.ws, limit.ws-message.
"""
