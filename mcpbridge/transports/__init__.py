"""The protocols of the bridge: one module or small package each, both halves in it."""
