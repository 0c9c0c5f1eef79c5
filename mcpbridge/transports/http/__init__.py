"""Streamable HTTP, both eras: one POST is one exchange; a legacy session adds a GET stream and a DELETE.

    upstream.py   dial(): the client half, towards MCP servers
    listen.py     the server half: POST, GET, DELETE at /mcp and /mcp/{server}
    session.py    what a legacy HTTP client's session holds here: streams, their event log, open questions
    params.py     Mcp-Param-* headers, from tool schemas seen in tools/list

Source: MCP 2026-07-28 and 2025-11-25 "Streamable HTTP"; mcp-eras sections 1.2 and 1.3.
"""
