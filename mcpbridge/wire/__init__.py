"""Ground floor: messages, the specification's tables, framing. Pure: no I/O, no clock, no asyncio."""
