"""The HTTP/1.1 engine: server, client and connection pool over ``wire.http1``. Knows bodies, not what they say."""
