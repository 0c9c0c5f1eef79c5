"""The TOML editor: what is inserted, replaced and cut, and that the result means what was wanted and nothing else."""

from __future__ import annotations

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.clients.faults import TextFault, place_in
from mcpbridge.clients.toml_edit import load, remove_table, same, set_table, written, written_key

PATH = ("mcp_servers", "m")
ENTRY = {"command": "/bin/m", "args": ["router"]}
BLOCK = '[mcp_servers.m]\ncommand = "/bin/m"\nargs = ["router"]'

INSERTED = [
    ("", BLOCK + "\n"),
    ('model = "x"\n', f'model = "x"\n\n{BLOCK}\n'),
    ('model = "x"', f'model = "x"\n\n{BLOCK}'),
    ("# only a note\n\n\n", f"# only a note\n\n{BLOCK}\n\n\n"),
    (
        "[mcp_servers.x] # mine\ncommand = 'y' # why\n# about the next\n[tui]\ntheme = \"dark\"\n",
        f"[mcp_servers.x] # mine\ncommand = 'y' # why\n\n{BLOCK}\n# about the next\n[tui]\ntheme = \"dark\"\n",
    ),
    (
        '[mcp_servers.x]\r\ncommand = "y"\r\n[mcp_servers.x.env]\r\nA = """\r\n[no]\r\nb = 1"""\r\n',
        '[mcp_servers.x]\r\ncommand = "y"\r\n[mcp_servers.x.env]\r\nA = """\r\n[no]\r\nb = 1"""\r\n\r\n'
        + BLOCK.replace("\n", "\r\n")
        + "\r\n",
    ),
    ('[mcp_servers]\nx = { command = "y" }\n', f'[mcp_servers]\nx = {{ command = "y" }}\n\n{BLOCK}\n'),
    ('mcp_servers.x.command = "y"\n', f'mcp_servers.x.command = "y"\n\n{BLOCK}\n'),
]


@pytest.mark.parametrize(("before", "after"), INSERTED)
def test_a_table_goes_behind_the_last_one_of_its_family(before: str, after: str) -> None:
    found = set_table(before, PATH, ENTRY)
    assert found == after
    assert tomllib.loads(found)["mcp_servers"]["m"] == ENTRY
    assert set_table(found, PATH, ENTRY) == found, "what is there already is not written again"
    assert remove_table(found, PATH) == before, "and taking it out again gives the file as it was"


def test_only_the_values_that_differ_are_replaced() -> None:
    before = (
        '[mcp_servers.m] # ours\ncommand = "old" # a path\nstartup_timeout_sec = 20\nurl = "http://x"\n# note\n'
        'args = [\n  "a", # ]\n  "b",\n]\n\n[mcp_servers.m.tools.t]\napproval_mode = "approve"\n'
    )
    after = set_table(before, PATH, {
        "command": "new", "startup_timeout_sec": 20, "args": ["router"], "env": {"A B": "c"},
        "tools": {"t": {"approval_mode": "approve"}},
    })  # fmt: skip
    assert after == (
        '[mcp_servers.m] # ours\ncommand = "new" # a path\nstartup_timeout_sec = 20\n# note\n'
        'args = ["router"]\nenv = { "A B" = "c" }\n\n[mcp_servers.m.tools.t]\napproval_mode = "approve"\n'
    )


def test_a_sub_table_that_changes_makes_the_table_new() -> None:
    before = '[mcp_servers.m]\ncommand = "x"\n[mcp_servers.m.env]\nA = "1"\n\n[tui]\n'
    assert set_table(before, PATH, {"command": "x"}) == '[tui]\n\n[mcp_servers.m]\ncommand = "x"\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('[mcp_servers]\nm = { command = "x" } # c\ny = 1\n', "[mcp_servers]\ny = 1\n"),
        ('mcp_servers.m.command = "x"\nmcp_servers.m.args = []\na = 1\n', "a = 1\n"),
        ('[mcp_servers."m"]\ncommand = "x"\n[mcp_servers.m.env]\nA = "1"\n[tui]\n', "[tui]\n"),
        ('a = 1\n\n[mcp_servers.m]\n# inside\ncommand = "x"\n\n# of tui\n[tui]\n', "a = 1\n\n# of tui\n[tui]\n"),
        ("a = 1\n", "a = 1\n"),
    ],
)
def test_a_table_goes_with_its_sub_tables(before: str, after: str) -> None:
    assert remove_table(before, PATH) == after


def test_an_inline_table_that_would_have_to_be_rewritten_is_refused_with_its_place() -> None:
    text = 'a = 1\nmcp_servers = { x = { command = "y" } }\n'
    for edit in (lambda: set_table(text, PATH, ENTRY), lambda: remove_table(text, ("mcp_servers", "x"))):
        with pytest.raises(TextFault, match="cannot be edited in place") as raised:
            edit()
        assert place_in(text, raised.value.at, "f")[1:] == (2, 1)


@pytest.mark.parametrize(
    ("text", "place"),
    [("a = 1\nb = \n", "2:5"), ("a = 1\r\nb = 2\r\nc 3\r\n", "3:3"), ("[a", "1:3"), ("a = 1\na = 2", "2:6"), ('a = "', "1:6")],
)
def test_what_cannot_be_read_is_named_with_line_and_column(text: str, place: str) -> None:
    with pytest.raises(TextFault) as raised:
        set_table(text, PATH, ENTRY)
    found = place_in(text, raised.value.at, "f")
    assert f"{found.line}:{found.column}" == place


def test_deep_nesting_is_a_fault_not_a_crash() -> None:
    with pytest.raises(TextFault):
        load("a = " + "[" * 50_000)


KEYS = st.text(st.characters(codec="utf-8"), max_size=6)
SCALARS = st.text(st.characters(codec="utf-8"), max_size=8) | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.floats()
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
GAPS = st.sampled_from(["", "\n", "# [mcp_servers.m]\n", "\r\n", "  # x = 1\n\n"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A TOML text with tables of many forms."""
    text = "".join(f"{draw(GAPS)}k{at} = {written(draw(PLAIN))} {draw(GAPS)}\n" for at in range(draw(st.integers(0, 2))))
    for name in draw(st.lists(st.sampled_from(["a", "b c", "d"]), unique=True)):
        header = f"mcp_servers.{json.dumps(name)}"
        pairs = draw(st.dictionaries(KEYS, PLAIN, max_size=3))
        text += f"{draw(GAPS)}[{header}] {draw(GAPS)}\n"
        text += "".join(f"{written_key(key)} = {written(value)}\n" for key, value in pairs.items())
        if draw(st.booleans()) and "env" not in pairs:
            text += f"[{header}.env]\nA = '''\n[x]'''\n"
    if draw(st.booleans()):
        text += draw(GAPS) + '[other]\nb = """\n[mcp_servers.q]\n"""\n'
    return text.replace("\n", "\r\n").replace("\r\r\n", "\r\n") if draw(st.booleans()) else text


@given(documents(), st.sampled_from(["a", "b c", "new", "neu é"]), st.dictionaries(KEYS, PLAIN, max_size=3))
def test_any_document_means_the_same_afterwards_but_for_the_table(text: str, name: str, plain: dict[str, object]) -> None:
    before = load(text)
    servers = before.get("mcp_servers", {})
    after = set_table(text, ("mcp_servers", name), plain)
    assert same(load(after), {**before, "mcp_servers": {**servers, name: plain}})
    gone = remove_table(after, ("mcp_servers", name))
    if name not in servers:
        rest = iter(after)
        assert all(char in rest for char in text), "an insertion takes nothing away"
        assert gone == (text if text.strip() else ""), "and taking it out again gives the file as it was"
