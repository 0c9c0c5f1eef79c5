"""Regular expressions that could hold the process up are told from those that cannot."""

from __future__ import annotations

import re

import pytest

from mcpbridge.config.kinds import regex
from mcpbridge.config.patterns import danger

LONGEST = 63  # characters of a namespace


@pytest.mark.parametrize(
    "pattern",
    [
        "mcp-servers.*", "(team|infra)-[a-z]+-mcp", "^prod$", "a|b|c", "(?i:x)[a-z0-9-]+",
        "x{3}(y|z){2}", "(?!kube-).*", "(?:ab)*c",
        "[a-z]+-[a-z]+-[a-z]+", "(a)(b)?", "(a|b)+", "",
    ],
)  # fmt: skip
def test_common_patterns_are_harmless_and_quick_on_the_worst_names(pattern: str) -> None:
    assert danger(pattern) == ""
    for name in ("a" * LONGEST, "ab" * 31 + "!", "x" * 62 + "!", "mcp-servers" + "-" * 52):
        re.fullmatch(pattern, name)


@pytest.mark.requirement("config.gateway.discovery.providers.kubernetes.namespace_pattern")
@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$", "(a|aa)+", "(a*)*b", "(?:x+x+)+y", "(a?){60}", "((a+))*",
        "(?=(a+)+b)", "(?>(a+)+)b", "(a+b|c)*", "(?i:(a|ab)*)",
        ".*a.*a.*a.*a.*b", "(?:aa?){30}", "(a|ab)" * 9,
    ],
)  # fmt: skip
def test_patterns_that_could_take_for_ever_are_refused(pattern: str) -> None:
    assert danger(pattern)
    with pytest.raises(ValueError, match=r"a regular expression with.* could take for ever to match"):
        regex().parse(pattern)
