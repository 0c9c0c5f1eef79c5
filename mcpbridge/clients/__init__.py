"""The files in which MCP clients name their servers: found, read, edited without touching another byte, and put back.

``table`` says where the files are, ``shapes`` how a server is written there, ``entry`` what it means; ``json_edit`` and
``toml_edit`` change a text by positions; ``document`` is one file in memory, ``disk`` reads and replaces it; ``changes`` plans
and makes changes, and takes them back by ``journal``.

Source: issue 6 (client files); ux section 7.
"""
