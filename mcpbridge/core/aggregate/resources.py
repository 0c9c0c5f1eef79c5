"""Who owns a resource URI when several servers stand behind one endpoint.

    1. an alias of ours                 mcpbridge+<server>:///<uri>
    2. a URI that one server listed     that server
    3. a template that fits             its server
    4. a scheme only one server uses    that server
    5. otherwise                        every server that has resources, in order, until one knows it

URIs stay verbatim: they also occur inside content. Only a URI or template that an earlier server lists as well gets an alias.
In it `:` and `%` are escaped, so that it is a URI that URL libraries leave as it is: `mcpbridge+git:///file%3A///x`.

Source: mcp-eras section 4 (resources).
"""

from __future__ import annotations

import re
from collections import OrderedDict

MAX_URIS = 50_000
MAX_TEMPLATE = 2048
_PREFIX = "mcpbridge+"
_ESCAPED = re.compile("%3a|%25", re.IGNORECASE)


class Owners:
    """What one endpoint learnt about its servers' resources. ``order``: server names as configured."""

    def __init__(self, order: list[str]) -> None:
        self._aliased: dict[str, set[str]] = {}  # server -> URIs shown under an alias
        self._aliased_templates: dict[str, dict[str, _Template]] = {}
        self._order: list[str] = []
        self._by_uri: OrderedDict[str, str] = OrderedDict()
        self._templates: dict[str, tuple[str, _Template]] = {}
        self._schemes: dict[str, set[str]] = {}
        self.change(order)

    def change(self, order: list[str]) -> None:
        """Other servers from now on. What those that go had is forgotten; it belongs to whoever lists it next."""
        gone = set(self._order) - set(order)
        self._order = order
        self._scheme_of = {_scheme(name): name for name in reversed(order)}
        if not gone:
            return
        self._by_uri = OrderedDict((uri, server) for uri, server in self._by_uri.items() if server not in gone)
        self._templates = {text: held for text, held in self._templates.items() if held[0] not in gone}
        self._schemes = {scheme: left for scheme, users in self._schemes.items() if (left := users - gone)}
        for server in gone:
            self._aliased.pop(server, None)
            self._aliased_templates.pop(server, None)

    def listed(self, server: str, uri: str) -> str:
        """A server listed a URI: the URI to show. The first configured server that has it keeps it as it is."""
        if server not in self._order:  # it went while its list was read
            return uri
        self._schemes.setdefault(uri.partition(":")[0], set()).add(server)
        if self._is_first(server, self._by_uri.get(uri)):
            self._by_uri[uri] = server
            self._by_uri.move_to_end(uri)
            if len(self._by_uri) > MAX_URIS:
                self._by_uri.popitem(last=False)
            self._aliased.get(server, set()).discard(uri)
            return uri
        aliased = self._aliased.setdefault(server, set())
        if len(aliased) < MAX_URIS:
            aliased.add(uri)
        return alias(server, uri)

    def template(self, server: str, template: str) -> str:
        """A server listed a URI template (RFC 6570, simple and path expansions): the template to show, as in ``listed``."""
        if server in self._order:
            self._schemes.setdefault(template.partition(":")[0], set()).add(server)
        if len(template) > MAX_TEMPLATE or server not in self._order:
            return template
        held = self._templates.get(template)
        if self._is_first(server, held[0] if held is not None else None):
            if held is not None or len(self._templates) < MAX_URIS:
                self._templates[template] = (server, _Template(template))
            self._aliased_templates.get(server, {}).pop(template, None)
            return template
        aliased = self._aliased_templates.setdefault(server, {})
        if len(aliased) < MAX_URIS:
            aliased[template] = _Template(template)
        return alias(server, template)

    def _is_first(self, server: str, holder: str | None) -> bool:
        return holder is None or holder == server or self._order.index(server) < self._order.index(holder)

    def of(self, uri: str) -> tuple[str | None, str]:
        """``(server or None, the server's own URI)``; None means: ask everyone."""
        if uri.startswith(_PREFIX):
            scheme, _, own = uri.partition(":///")
            server = self._scheme_of.get(scheme.lower())
            if server is not None:
                return server, _ESCAPED.sub(lambda found: ":" if found[0].lower() == "%3a" else "%", own)
        if uri in self._by_uri:
            return self._by_uri[uri], uri
        if uri in self._templates:
            return self._templates[uri][0], uri
        for server, pattern in self._templates.values():
            if pattern.fits(uri):
                return server, uri
        users = self._schemes.get(uri.partition(":")[0], set())
        return (next(iter(users)), uri) if len(users) == 1 else (None, uri)

    def shown(self, server: str, uri: str) -> str:
        """How this server's URI is shown to clients."""
        if uri in self._aliased.get(server, ()):
            return alias(server, uri)
        templates = self._aliased_templates.get(server)
        if templates and self._by_uri.get(uri) != server and any(pattern.fits(uri) for pattern in templates.values()):
            return alias(server, uri)
        return uri

    def has_aliases(self, server: str) -> bool:
        return bool(self._aliased.get(server) or self._aliased_templates.get(server))


def alias(server: str, uri: str) -> str:
    """How a server's URI or template is shown when an earlier server has the same one."""
    return f"{_scheme(server)}:///{uri.replace('%', '%25').replace(':', '%3A')}"


def _scheme(server: str) -> str:
    """A URI scheme for a server: schemes are lower-case letters, digits, + - . only (RFC 3986 section 3.1)."""
    return _PREFIX + "".join(c if c.isalnum() or c == "-" else f".{ord(c):02x}" for c in server.lower())


class _Template:
    """The literals of a URI template and, between each two, whether the gap may hold slashes (`{+x}`, `{/x}`, `{#x}`).

    Matching finds each literal at its first place after the one before: linear in the URI, whatever the template.
    """

    __slots__ = ("_gaps", "_literals")

    def __init__(self, template: str) -> None:
        parts = re.split(r"(\{[^{}]*\})", template)
        self._literals = [parts[0]]
        self._gaps: list[bool] = []
        for expression, literal in zip(parts[1::2], parts[2::2], strict=True):
            takes_slashes = expression[1:2] in ("+", "/", "#")
            if self._gaps and not self._literals[-1]:  # two expressions side by side are one gap
                self._gaps[-1] |= takes_slashes
                self._literals[-1] = literal
            else:
                self._gaps.append(takes_slashes)
                self._literals.append(literal)

    def fits(self, uri: str) -> bool:
        """Whether the URI may come from the template."""
        first, *rest = self._literals
        if not uri.startswith(first):
            return False
        at = len(first)
        for number, (takes_slashes, literal) in enumerate(zip(self._gaps, rest, strict=True), 1):
            is_last = number == len(rest)
            if is_last:
                found = len(uri) - len(literal) if uri.endswith(literal) else -1
            else:
                found = uri.find(literal, at)
            if found < at or any(c in uri[at:found] for c in ("?#" if takes_slashes else "/?#")):
                return False
            at = found + len(literal)
        return at == len(uri)
