"""What the bridge tells about itself: log lines, metrics, the snapshot."""
