"""Tiny MCP servers of our own, for the quickstart, for trying things out and for tests: ``demo.stdio`` and ``demo.http``."""
