"""stdio: newline-delimited JSON-RPC over the pipes of a child process, or over our own stdin and stdout.

    bridge ── stdin ──>  child          bridge ══ socket ══ guard ── parent of ──> child, and of whatever outlives it
           <─ stdout ──                        fork orders, exits
           <─ stderr ──  (drained, labelled)   end of socket = the bridge is dead: everything below the guard ends

One message per line, UTF-8, no newline inside a message. ``child`` talks to a server we start, ``standard`` to the client
that started us, ``guard`` sees to it that no process outlives the bridge.

Source: MCP stdio transport (all revisions); architecture section 8.
"""
