"""HTTP+SSE, the transport of MCP 2024-11-05: one stream down, POSTs up. Deprecated, and still spoken by many.

    GET /events                      ─►     Accept: text/event-stream
                                     ◄─     event: endpoint          a URI of the stream's own origin
                                            data: /events/messages?session=…
    POST /events/messages?session=…  ─►     one JSON-RPC message
                                     ◄─     202
                                     ◄─     event: message           on the stream: answers, questions, notifications
                                            data: {"jsonrpc":"2.0",…}

The session is the stream: when it ends, everything asked on it is cancelled. Legacy versions only; the modern era has no such
form. ``dial`` reaches servers, ``listen`` serves clients.

Source: https://modelcontextprotocol.io/specification/2024-11-05/basic/transports ; mcp-eras section 1.4.
"""
