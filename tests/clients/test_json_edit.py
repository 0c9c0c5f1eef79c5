"""The JSON editor: what is inserted, replaced and cut, that all the rest stays, and that the result says what was meant."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.clients.faults import TextFault, place_in
from mcpbridge.clients.json_edit import remove_value, set_value
from mcpbridge.clients.jsonc import MAX_DEPTH, parse

ENTRY = {"c": "r"}
PATH = ("mcpServers", "m")

INSERTED = [
    # file, file afterwards
    ("", '{\n  "mcpServers": {\n    "m": {\n      "c": "r"\n    }\n  }\n}\n'),
    ("{}", '{\n  "mcpServers": {\n    "m": {\n      "c": "r"\n    }\n  }\n}'),
    ('{"mcpServers": {}}', '{"mcpServers": {"m": {"c": "r"}}}'),
    ('{"a": 1, "mcpServers": {"x": {}}}', '{"a": 1, "mcpServers": {"x": {}, "m": {"c": "r"}}}'),
    ('{"mcpServers": {"x": {},}}', '{"mcpServers": {"x": {}, "m": {"c": "r"},}}'),
    (
        '{\r\n\t"mcpServers": {\r\n\t\t"x": {}\r\n\t}\r\n}\r\n',
        '{\r\n\t"mcpServers": {\r\n\t\t"x": {},\r\n\t\t"m": {\r\n\t\t\t"c": "r"\r\n\t\t}\r\n\t}\r\n}\r\n',
    ),
    (
        '{\n    "mcpServers": {\n        "x": {} // mine\n        // y\n    },\n}',
        (
            '{\n    "mcpServers": {\n        "x": {}, // mine\n        "m": {\n            "c": "r"\n        }\n'
            "        // y\n    },\n}"
        ),
    ),
    (
        '{\n  "mcpServers": {\n    "x": {}, /* a */ // b\n  }\n}',
        '{\n  "mcpServers": {\n    "x": {}, /* a */ // b\n    "m": {\n      "c": "r"\n    },\n  }\n}',
    ),
    (
        '{\n  "a": [\n    1 ],\n  "mcpServers": { }\n}',
        '{\n  "a": [\n    1 ],\n  "mcpServers": { \n    "m": {\n      "c": "r"\n    }\n  }\n}',
    ),
    (
        '{\n  "mcpServers": {\n    // none yet\n  }\n}',
        '{\n  "mcpServers": {\n    // none yet\n    "m": {\n      "c": "r"\n    }\n  }\n}',
    ),
    ('{"a": 1}', '{"a": 1, "mcpServers": {"m": {"c": "r"}}}'),
    ('{\n  "mcpServers": { "x": { "a": 1 } }\n}', '{\n  "mcpServers": { "x": { "a": 1 }, "m": {"c": "r"} }\n}'),
    ('{\n  "mcpServers": {\n    "x": 1 }\n}', '{\n  "mcpServers": {\n    "x": 1,\n    "m": {\n      "c": "r"\n    } }\n}'),
]


@pytest.mark.parametrize(("before", "after"), INSERTED)
def test_an_entry_goes_behind_the_last_one_in_the_style_of_the_file(before: str, after: str) -> None:
    found = set_value(before, PATH, ENTRY, strict=False)
    assert found == after
    assert parse(found, strict=False).plain["mcpServers"]["m"] == ENTRY
    assert set_value(found, PATH, ENTRY, strict=False) == found, "what is there already is not written again"


@pytest.mark.parametrize("before", [before for before, _ in INSERTED[3:] if '"x"' in before])
def test_taking_it_out_again_gives_the_file_as_it_was(before: str) -> None:
    assert remove_value(set_value(before, PATH, ENTRY, strict=False), PATH, strict=False) == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"s": {"m": 1, "x": 2}}', '{"s": {"x": 2}}'),
        ('{"s": {"x": 2, "m": 1}}', '{"s": {"x": 2}}'),
        ('{"s": {"m": 1}}', '{"s": {}}'),
        ('{"s": {\n  "m": 1,\n  "x": 2\n}}', '{"s": {\n  "x": 2\n}}'),
        ('{"s": {\n  "m": 1, // why\n  "x": 2\n}}', '{"s": {\n   // why\n  "x": 2\n}}'),
        ('{"s": {\n  "x": 2, // y\n  "m": 1 }}', '{"s": {\n  "x": 2 // y\n   }}'),
        ('{"s": {\n  "x": 2,\n  "m": 1 }}', '{"s": {\n  "x": 2 }}'),
        ('{"s": {"x": 2, "m": 1 /* a */, "z": 3}}', '{"s": {"x": 2, /* a */ "z": 3}}'),
        ('{"s": {"x": 2, "m": 1,}}', '{"s": {"x": 2,}}'),
        ('{"s": {}}', '{"s": {}}'),
        ("", ""),
        ('{"t": 1}', '{"t": 1}'),
    ],
)
def test_an_entry_goes_with_its_comma_and_its_line_and_comments_stay(before: str, after: str) -> None:
    found = remove_value(before, ("s", "m"), strict=False)
    assert parse(found or "{}", strict=False).plain == {
        key: {name: value for name, value in inner.items() if name != "m"} if isinstance(inner, dict) else inner
        for key, inner in parse(before or "{}", strict=False).plain.items()
    }
    assert found.replace(" ", "") == after.replace(" ", "")


def test_only_the_value_is_replaced() -> None:
    before = '{\n  // servers\n  "mcpServers": {\n    "m": {"command": "old"}, // ours\n    "x": {}\n  }\n}\n'
    assert set_value(before, PATH, {"command": "new"}, strict=False) == before.replace('"old"', '"new"')
    assert set_value(before, (*PATH, "command"), "new", strict=False) == before.replace('"old"', '"new"')


FAULTS = [
    # text, strict, line:column, words
    ('{"a": 1,\n  b: 2}', False, "2:3", "'b' is no JSON"),
    ('{"a": 1\n  "b": 2}', False, "2:3", 'expected "," or "}", found "b"'),
    ('{"a": 1', False, "1:8", "found the end of the file"),
    ('{"a" 1}', False, "1:6", 'expected ":" after "a", found 1'),
    ("{}\r\n}", False, "2:1", "expected the end of the file"),
    ('{"a": "x\n"}', False, "1:7", "closing quote is missing"),
    ('{"a": "\\x"}', False, "1:7", "illegal escape"),
    ('{"a": "\x01"}', False, "1:7", "control character"),
    ("{'a': 1}", False, "1:2", "single quotes"),
    ("{ /* ", False, "1:3", "never ends"),
    ('{"a": 01}', False, "1:7", "'01' is no JSON"),
    ('{"a": nul}', False, "1:7", "'nul' is no JSON"),
    ('{"a": 1,}', True, "1:8", "comma before }"),
    ("{\n // x\n}", True, "2:2", "a comment"),
    ("[" * (MAX_DEPTH + 1), False, f"1:{MAX_DEPTH + 1}", "nested deeper"),
    ('{"mcpServers": []}', False, "1:16", "mcpServers must be an object"),
    ("[]", False, "1:1", "the whole must be an object"),
    ('{"mcpServers": {}, "mcpServers": {}}', False, "1:20", "is there twice"),
    ('{"mcpServers": {"m": 1,\n"m": 2}}', False, "2:1", "is there twice"),
]


@pytest.mark.parametrize(("text", "strict", "place", "words"), FAULTS)
def test_what_cannot_be_read_is_named_with_line_and_column(text: str, strict: bool, place: str, words: str) -> None:
    with pytest.raises(TextFault) as raised:
        set_value(text, PATH, ENTRY, strict=strict)
    found = place_in(text, raised.value.at, "f")
    assert f"{found.line}:{found.column}" == place
    assert words in raised.value.message, raised.value.message


def test_numbers_of_any_size_stay_as_they_are() -> None:
    before = '{"n": ' + "9" * 5000 + ', "f": 1e999, "mcpServers": {}}'
    assert set_value(before, PATH, {}, strict=True) == before.replace('"mcpServers": {}', '"mcpServers": {"m": {}}')


def test_half_a_character_is_written_as_an_escape() -> None:
    found = set_value("{}", ("s",), "\ud800", strict=True)
    assert found.encode("utf-8") == b'{\n  "s": "\\ud800"\n}'


NAMES = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
NOTES = st.sampled_from(["", " ", "/* c */", " // c\n", "\n", "\r\n  ", "\n\n/* , } */\n"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A JSON text with white space and comments anywhere between its tokens."""

    def written(value: object) -> str:
        gap = draw(NOTES)
        if isinstance(value, dict):
            parts = [
                f"{draw(NOTES)}{json.dumps(name)}{draw(NOTES)}:{written(inner)}{draw(NOTES)}" for name, inner in value.items()
            ]
            trailing = "," + draw(NOTES) if parts and draw(st.booleans()) else ""
            return f"{gap}{{{','.join(parts)}{trailing}{draw(NOTES)}}}"
        return gap + json.dumps(value, ensure_ascii=draw(st.booleans()))

    servers = draw(st.dictionaries(NAMES, VALUES, max_size=3))
    whole = draw(st.dictionaries(NAMES.filter(lambda name: name != "mcpServers"), VALUES, max_size=3))
    if draw(st.booleans()):
        whole["mcpServers"] = servers
    items = list(whole.items())
    return written(dict(draw(st.permutations(items)))) + draw(NOTES)


@given(documents(), NAMES, VALUES)
def test_any_document_says_the_same_afterwards_but_for_the_entry(text: str, name: str, value: object) -> None:
    before = parse(text, strict=False).plain
    after = set_value(text, ("mcpServers", name), value, strict=False)
    wanted = {**before, "mcpServers": {**before.get("mcpServers", {}), name: value}}
    assert parse(after, strict=False).plain == wanted
    if name not in before.get("mcpServers", {}):
        rest = iter(after)
        assert all(char in rest for char in text), "an insertion takes nothing away"
    gone = remove_value(after, ("mcpServers", name), strict=False)
    del wanted["mcpServers"][name]
    assert parse(gone, strict=False).plain == wanted
    if before.get("mcpServers") and name not in before["mcpServers"]:
        assert "".join(gone.split()) == "".join(text.split()), (
            "and taking it out again gives the file as it was, but for spaces"
        )
