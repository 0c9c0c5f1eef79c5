"""A FastMCP proxy in front of an HTTP MCP server, as its own documentation sets one up; runs in that peer's environment.

fastmcp_proxy.py PORT BACKEND_URL
"""

import sys

from fastmcp.server import create_proxy

if __name__ == "__main__":
    create_proxy(sys.argv[2], name="bench").run(
        transport="http", host="127.0.0.1", port=int(sys.argv[1]), log_level="error", show_banner=False
    )
