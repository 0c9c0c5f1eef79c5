"""The keys of balancing: the guide's variable, and what cannot be."""

from __future__ import annotations

import pytest

from tests.support.configs import Write, faults, gateway


@pytest.mark.requirement("env.MCP_CROSS_PROTOCOL_LOAD_BALANCE")
@pytest.mark.parametrize(("text", "strategy"), [("true", "cross_protocol"), ("0", "protocol_specific"), ("", "cross_protocol")])
def test_the_variable_of_the_guide_is_a_switch_between_two_strategies(text: str, strategy: str) -> None:
    config = gateway(None, {"MCP_CROSS_PROTOCOL_LOAD_BALANCE": text}).config
    assert config.load_balancing.strategy == strategy


def test_in_the_file_a_strategy_is_a_word_and_the_variable_is_no_word(write: Write) -> None:
    assert "cross_protocol" in faults(write("load_balancing: {strategy: true}"))[0]
    assert "true or false" in faults(None, {"MCP_CROSS_PROTOCOL_LOAD_BALANCE": "weighted"})[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("load_balancing: {protocol_weights: {http: -1}}", "a number from 0 to 100"),
        ("load_balancing: {protocol_weights: {http: .nan}}", "a number from 0 to 100"),
        ("load_balancing: {protocol_weights: {http: 101}}", "a number from 0 to 100"),
        ("load_balancing: {protocol_weights: {grpc: 1}}", "grpc"),
        ("load_balancing: {protocol_weights: {stdio: 0, websocket: 0, http: 0, sse: 0, tcp_binary: 0}}", "all are 0"),
        ("load_balancing: {panic_threshold: 1.5}", "a number from 0 to 1"),
        ("routing: {protocol_preference_order: [stdio, stdio]}", "once at most"),
        ("servers: [{name: a, endpoints: [{url: 'http://localhost/mcp', weight: -1}]}]", "a number from 0 to 100"),
    ],
)
def test_weights_and_shares_are_numbers_in_their_range(write: Write, text: str, said: str) -> None:
    assert said in faults(write(text))[0]
