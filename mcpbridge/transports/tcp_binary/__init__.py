"""TCP binary: MCP messages in MCPB frames over TCP or TLS, towards servers and towards clients.

    client --[12-byte header][JSON-RPC message]--> server        wire.mcpb has the whole protocol

    connection   what both ends share: a core.ports.Connection over frames
    dial         towards servers: negotiation, sign-in, health frames while idle
    listen       towards clients: negotiation, sign-in, limits, drain
    health       the port that tells other programs whether we are ready

Source: architecture section 8; contract http.gateway.tcp, http.gateway.tcp-health.
"""
