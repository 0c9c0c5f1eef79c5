"""Where servers come from besides the configuration."""
