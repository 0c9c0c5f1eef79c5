"""The terminal faces of mcpbridge. They see the window (Snapshot) and never the machinery behind it."""
