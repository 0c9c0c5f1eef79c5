"""Several servers behind one endpoint: names, owners, merged lists, one dead server never takes the others down.

    names.py      server__tool, cursors            (pure)
    resources.py  who owns a URI                    (pure)
    merge.py      capabilities and instructions     (pure)
    endpoint.py   the handler
    lists.py      one page of a merged list
    listen.py     one listen stream over N servers

Source: mcp-eras section 4.
"""
