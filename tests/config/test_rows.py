"""The tables that follow from the sections: complete, typed alike, and every key settable in every way."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
import pytest

from mcpbridge.config.gateway import EMBEDDED, GatewayConfig
from mcpbridge.config.router import RouterConfig
from mcpbridge.config.rows import Field, Section, build, fields_of

ALL: list[tuple[type[Section], Field]] = [
    (program, field) for program in (GatewayConfig, RouterConfig) for field in fields_of(program)
]
IDS = [f"{program.__name__}.{field.key}" for program, field in ALL]


@pytest.mark.parametrize(("program", "field"), ALL, ids=IDS)
def test_every_row_speaks_for_itself(program: type[Section], field: Field) -> None:
    assert len(field.row.help) > 3 and not field.row.help.endswith(".")
    assert field.default is not msgspec.NODEFAULT, "a configuration of nothing but defaults must exist"
    assert field.row.kind.form in ("scalar", "texts", "map") or field.row.item is not None


@pytest.mark.parametrize(("program", "field"), ALL, ids=IDS)
def test_a_default_is_what_its_kind_would_read(program: type[Section], field: Field) -> None:
    if field.row.kind.form == "scalar" and field.default not in ("", 0, None):
        text = str(field.default)
        bare = 1000 if field.key.endswith("_ms") else 1
        assert field.row.kind.parse(str(field.default * bare) if bare > 1 else text) == field.default


def test_defaults_of_the_structs_are_those_of_the_rows() -> None:
    for program in (GatewayConfig, RouterConfig):
        assert build(program, {}) == program()
        assert build(program, {field.key: field.default for field in fields_of(program)}) == program()


def test_values_land_where_their_keys_say() -> None:
    config = build(GatewayConfig, {"server.tls.min_version": "1.2", "connection.pool.max_size": 7})
    assert (config.server.tls.min_version, config.connection.pool.max_size) == ("1.2", 7)
    assert build(RouterConfig, {"gateway.connection.timeout_ms": 1.5}).gateway.connection.timeout == 1.5
    assert build(RouterConfig, {"gateway.connection.pool.max_size": 7}).gateway.connection.pool.max_size == 7


def test_the_types_of_the_structs_hold_for_the_defaults() -> None:
    for program in (GatewayConfig, RouterConfig):
        assert msgspec.convert(msgspec.to_builtins(program()), program) == program()


def test_keys_variables_and_aliases_are_unique() -> None:
    for program in (GatewayConfig, RouterConfig):
        fields = list(fields_of(program))
        paths = [path for field in fields for path in (field.key, *field.row.aliases)]
        assert len(paths) == len(set(paths))
        variables = [name for field in fields for name in (field.variable, *field.row.env) if name]
        assert len(variables) == len(set(variables))


def test_the_embedded_defaults_name_keys_that_exist() -> None:
    assert EMBEDDED.keys() <= {field.key for field in fields_of(GatewayConfig)}


def test_every_secret_row_is_text() -> None:
    for _, field in ALL:
        annotated: Any = typing.cast(Any, field.default)
        if field.row.secret:
            assert isinstance(annotated, str | tuple)
