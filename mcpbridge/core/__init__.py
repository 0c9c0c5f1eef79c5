"""The engine room: exchanges, rings, links, servers and backends. Knows no transport, no policy and no configuration file."""
