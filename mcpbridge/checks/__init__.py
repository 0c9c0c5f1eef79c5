"""Checks of a server from the outside, in stages: used by ``mcpbridge test`` and whoever else wants to know where it fails.

    place.py   name, address, TLS: what any client needs before it says a word
    walk.py    from there to tools/list, stage by stage

Nothing here prints, and no tool is called. What is reached how comes from the wiring as values.

Source: contract section 1.1 (``cli.test.*``).
"""
