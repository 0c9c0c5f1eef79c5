"""The window: what the bridge shows of itself. Views are pure functions of a Snapshot; nothing here carries MCP traffic."""
