"""Who owns a URI."""

from __future__ import annotations

from mcpbridge.core.aggregate.resources import MAX_URIS, Owners


def test_a_listed_uri_stays_as_it_is_and_names_its_server() -> None:
    owners = Owners(["a", "b"])
    assert owners.listed("b", "file:///x") == "file:///x"
    assert owners.of("file:///x") == ("b", "file:///x")


def test_a_uri_of_two_servers_stays_with_the_first_configured_one_and_the_other_gets_an_alias() -> None:
    owners = Owners(["a", "B_1"])
    assert owners.listed("a", "file:///x") == "file:///x"
    shown = owners.listed("B_1", "file:///x")
    assert shown == "mcpbridge+b.5f1:///file%3A///x"
    assert owners.of(shown) == ("B_1", "file:///x")
    assert owners.of("file:///x") == ("a", "file:///x")
    assert owners.shown("B_1", "file:///x") == shown
    assert owners.shown("a", "file:///x") == "file:///x"


def test_the_first_configured_server_takes_a_uri_over_when_it_lists_it_later() -> None:
    owners = Owners(["a", "b"])
    owners.listed("b", "m://x")
    owners.listed("a", "m://x")
    assert owners.of("m://x")[0] == "a"
    assert owners.listed("b", "m://x") == "mcpbridge+b:///m%3A//x"


def test_an_alias_comes_back_as_the_uri_it_stands_for() -> None:
    owners = Owners(["a", "b"])
    for uri in ("x:1", "file:///a%20b", "m://%3A%25%2525", "a:b:c?d=e:f#g:%", "é:ü"):
        owners.listed("a", uri)
        assert owners.of(owners.listed("b", uri)) == ("b", uri)
    assert owners.of("MCPBRIDGE+b:///x%3a1") == (None, "MCPBRIDGE+b:///x%3a1")
    assert owners.of("mcpbridge+b:///x%3a1") == ("b", "x:1")
    assert owners.of("mcpbridge+nobody:///x%3A1") == (None, "mcpbridge+nobody:///x%3A1")


def test_a_template_of_two_servers_gets_an_alias_and_so_does_what_comes_from_it() -> None:
    owners = Owners(["a", "b"])
    assert owners.template("a", "m://{id}/x") == "m://{id}/x"
    assert owners.template("b", "m://{id}/x") == "mcpbridge+b:///m%3A//{id}/x"
    assert owners.of("m://7/x") == ("a", "m://7/x")
    assert owners.of("mcpbridge+b:///m%3A//a%20b/x") == ("b", "m://a%20b/x")
    assert owners.shown("b", "m://7/x") == "mcpbridge+b:///m%3A//7/x"
    assert owners.shown("a", "m://7/x") == "m://7/x"
    assert owners.has_aliases("b")
    assert not owners.has_aliases("a")


def test_templates_and_schemes_name_an_owner() -> None:
    owners = Owners(["a", "b"])
    owners.template("a", "weather://{city}/now")
    owners.template("b", "docs://{+path}")
    assert owners.of("weather://{city}/now") == ("a", "weather://{city}/now")
    assert owners.of("weather://paris/now") == ("a", "weather://paris/now")
    assert owners.of("docs://a/b/c") == ("b", "docs://a/b/c")
    assert owners.of("weather://somewhere/else/entirely") == ("a", "weather://somewhere/else/entirely")  # its scheme
    assert owners.of("other://x") == (None, "other://x")


def test_what_is_remembered_is_bounded() -> None:
    owners = Owners(["a"])
    for number in range(MAX_URIS + 10):
        owners.listed("a", f"n:{number}")
    assert len(owners._by_uri) == MAX_URIS


def test_a_hostile_template_costs_no_time() -> None:
    owners = Owners(["a"])
    owners.template("a", "x://" + "{a}" * 600)
    owners.template("a", "x://" + "{a}b" * 400)
    assert owners.of("x://" + "b" * 2000 + "/c")[0] == "a"  # by its scheme: neither template fits
