"""The dashboard: screens that show a Snapshot and fetch nothing."""
