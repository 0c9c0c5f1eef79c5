"""Detection: which protocol and era a server speaks, by asking it. The grammar of proofs is ``wire.proof``.

    line.py      one bounded connection to a pinned address
    probes.py    the questions: Streamable HTTP, HTTP+SSE, WebSocket, MCPB, lines
    race.py      which are asked when, within a second and four sockets
    detector.py  what is remembered, once for all who ask; failures, accuracy

Deleting this room leaves a bridge whose addresses need a ``protocol:``.

Source: reliability section 6.
"""
