"""Cause and action of every error of the table, in words for the person who meets it. A test keeps it complete.

Source: contract section 6.4 (``error.client-hint``).
"""

from __future__ import annotations

from typing import Final

ADVICE: Final[dict[str, tuple[str, str]]] = {
    "parse_error": (
        "what arrived is not JSON, or has a key twice",
        "check the client; one message per line on stdio, one per body over HTTP",
    ),
    "invalid_request": ("it is JSON, but no JSON-RPC 2.0 message", "check jsonrpc, id and method"),
    "method_not_found": (
        "the server, or this endpoint, has no such method",
        "compare with the capabilities in initialize or discover",
    ),
    "invalid_params": ("the parameters do not fit the method", "read the message: it names the parameter"),
    "unknown_request_state": (
        "the state of an answered question expired, or the process that held it is gone",
        "start the call anew",
    ),
    "request_state_mismatch": (
        "a requestState came back with another method or other params than the call it was given for",
        "send the original params again, with requestState and inputResponses beside them",
    ),
    "internal_error": ("a fault of mcpbridge itself", "look for the traceback in its log and report it"),
    "header_mismatch": (
        "HTTP headers and body name different methods, names or versions",
        "a proxy or client that rewrites one of them",
    ),
    "missing_capability": ("the server needs a capability that the client did not declare", "use a client that has it"),
    "unsupported_version": ("client and server share no protocol version", "see data.supported, and update the older side"),
    "detection_failed": (
        "the address answered as none of the known protocols",
        "name the protocol in the configuration and check the address",
    ),
    "no_backend": ("no endpoint of the server can take calls now", "mcpbridge status names the state and cause of each"),
    "stdio_no_such_file": ("the command of a server does not exist", "check command and PATH; data.path is what was tried"),
    "stdio_cannot_start": ("the command exists, but cannot be run", "check that it is executable, and its cwd"),
    "websocket_refused": ("nothing listens at the server's address", "start the server, or correct host and port"),
    "connection_refused": ("nothing listens at the server's address", "start the server, or correct host and port"),
    "proxy_failed": (
        "the proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names is not reached, or does not let the connection through",
        "the message names the proxy and its answer; correct the variable, or add the server's host to NO_PROXY",
    ),
    "http_not_found": ("the server's address has no MCP endpoint", "check the path of the url; most servers use /mcp"),
    "stream_closed": ("the server ended the connection with the call open", "look at the server's log; call again"),
    "protocol_mismatch": (
        "the other side speaks another protocol",
        "check protocol and port; data.expected and data.got say more",
    ),
    "timeout": (
        "no answer within the deadline",
        "raise routing.request_timeout (router: local.request_timeout_ms), or look at the server",
    ),
    "unanswered": (
        "the server asked the user something during the call, and no answer came",
        "answer in the client in time, or raise routing.parked_ttl",
    ),
    "queue_full": ("more calls wait than may wait", "call more slowly, or raise local.max_concurrent_requests"),
    "backend_refused": (
        "the server does not accept the credentials it is called with, or wants some and gets none",
        "check token_env or the headers of that server in the configuration; calling again does not help",
    ),
    "server_busy": (
        "all children or connections of the server are in use",
        "raise its max_children, or connection.pool.max_size",
    ),
    "rate_limited": ("the caller sent more than its share", "wait for Retry-After"),
    "breaker_open": ("the server failed repeatedly and is left alone for a while", "mcpbridge status names the last cause"),
    "draining": ("this process is shutting down", "call again: another one, or the next, answers"),
    "session_unknown": ("the session ended, expired, or belongs to another caller", "initialize again"),
    "event_unknown": (
        "a legacy client came back with a Last-Event-ID of which nothing is kept: not of this session, too old, or forgotten",
        "open the stream without Last-Event-ID; a call whose answer is lost must be made again",
    ),
    "session_required": ("a legacy client sent no Mcp-Session-Id", "initialize first and send the id it answered with"),
    "forbidden": (
        "the token is valid, but lacks the scope, or the Host or Origin is not allowed",
        "issue a token with the scope (mcpbridge token issue), or add server.allowed_origins",
    ),
    "unauthorized": (
        "no token, or one that is not valid here",
        "mcpbridge token inspect shows its expiry; mcpbridge token issue makes one",
    ),
    "answer_too_large": ("the server's answer is larger than allowed", "raise backends.max_response_size, or ask for less"),
    "request_too_large": ("the request is larger than allowed", "send less, or raise server.security.max_request_size"),
    "server_exited": (
        "the server's process ended with the call open",
        "the message has its exit status and last words; it is started again",
    ),
    "bad_answer": ("the server's answer is no valid MCP message", "report it to the server's author"),
    "backend_session_lost": ("the server forgot the session, usually by a restart", "call again: a new one is opened"),
    "session_moved": ("the session went on at another backend of the server meanwhile", "call again"),
    "backend_error": ("the server answered with an HTTP error", "the message has its status; look at the server's log"),
    "unsupported_across_eras": (
        "client and server speak different generations of MCP, and this exchange has no counterpart",
        "use a server or client of the other side's version for it",
    ),
    "too_many_sessions": ("the caller has too many open sessions", "end some (DELETE), or raise sessions.max_per_principal"),
    "secret_unavailable": (
        "a ${secret:NAME}, token_env or token_file could not be read",
        "the message names it and where to put it",
    ),
    "too_many_parked": (
        "too many calls of the caller, or of all, wait for answers to questions of their servers",
        "answer or cancel some; unanswered ones end after routing.parked_ttl",
    ),
}
