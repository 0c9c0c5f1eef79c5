"""Several servers behind one endpoint: names, owners, merged lists, one dead server never takes the others down.

    names.py      server__tool, server:task          (pure)
    exposed.py    whose an exposed name is
    resources.py  who owns a URI                     (pure)
    cursors.py    one cursor over several lists
    merge.py      capabilities and instructions      (pure)
    face.py       messages with the endpoint's names
    show.py       items of lists with the endpoint's names
    lists.py      one page of a merged list
    listen.py     one listen stream over N servers
    endpoint.py   the handler

Source: mcp-eras section 4.
"""
