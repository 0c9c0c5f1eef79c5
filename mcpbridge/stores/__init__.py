"""Where session records live: one module per store, all with the interface ``mcpbridge.core.session.SessionStore``."""
