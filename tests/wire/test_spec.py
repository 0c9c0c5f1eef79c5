"""The specification's tables, held against the official schemas where they are at hand, and the decisions made from them."""

import json
import os
from itertools import product
from pathlib import Path

import pytest

from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from mcpbridge.wire import spec
from mcpbridge.wire.envelope import parse
from mcpbridge.wire.message import Notification, Request, Response

SCHEMAS = Path(os.environ.get("MCP_SCHEMAS", Path(__file__).parents[3] / "shared" / "mcp-schema"))
META = {spec.PROTOCOL_VERSION: "2026-07-28", spec.CLIENT_CAPABILITIES: {}}
HEADERS = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "echo"}


def modern(method="tools/call", params=None, **changes):
    meta = {name: value for name, value in {**META, **changes}.items() if value is not ...}
    return m.request(7, method, {**({"name": "echo"} if params is None else params), "_meta": meta})


# Tables


def test_versions_are_five_and_each_has_one_era():
    assert spec.VERSIONS == ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")
    assert [spec.era_of(version) for version in spec.VERSIONS] == ["legacy"] * 4 + ["modern"]
    assert spec.era_of("2099-01-01") is None
    assert spec.is_at_least("2026-07-28", "2025-06-18") and not spec.is_at_least("2025-03-26", "2025-06-18")
    with pytest.raises(ValueError):
        spec.is_at_least("2099-01-01", "2025-06-18")


def test_initialize_is_answered_with_the_version_asked_for_or_the_newest_legacy_one():
    assert spec.negotiate("2025-03-26") == "2025-03-26"
    assert spec.negotiate("2026-07-28") == "2025-11-25" == spec.negotiate("nonsense")


def test_what_a_method_addresses():
    named = {
        method: spec.name_of(method)
        for method in ("tools/call", "prompts/get", "resources/read", "tasks/get", "tools/list", "?")
    }
    assert named == {
        "tools/call": "name",
        "prompts/get": "name",
        "resources/read": "uri",
        "tasks/get": "taskId",
        "tools/list": None,
        "?": None,
    }


def test_only_what_changes_nothing_is_retry_safe():
    safe = {method for method in spec.METHODS if spec.retry_safe(method)}
    assert {"tools/list", "resources/read", "server/discover", "ping", "completion/complete"} <= safe
    assert not safe & {
        "tools/call",
        "initialize",
        "subscriptions/listen",
        "logging/setLevel",
        "sampling/createMessage",
        "tasks/cancel",
    }
    assert not spec.retry_safe("vendor/unknown")
    assert all(spec.METHODS[method].kind == "request" for method in safe)


def test_lists_and_the_results_that_can_be_cached():
    assert spec.LISTS == {
        "tools/list": "tools",
        "prompts/list": "prompts",
        "resources/list": "resources",
        "resources/templates/list": "resourceTemplates",
    }
    assert frozenset({*spec.LISTS, "server/discover", "resources/read"}) == spec.CACHEABLE


def test_the_capability_behind_a_method_depends_on_the_version():
    assert spec.capability_for("completion/complete", "2024-11-05") == ()
    assert spec.capability_for("completion/complete", "2025-03-26") == ("completions",)
    assert spec.capability_for("resources/subscribe", "2025-11-25") == ("resources", "subscribe")
    assert spec.capability_for("vendor/unknown", "2025-11-25") == ()


def schema_of(version):
    path = SCHEMAS / f"{version}.json"
    if not path.exists():
        pytest.skip("official schemas are not at hand")
    document = json.loads(path.read_text())
    return document.get("$defs") or document["definitions"]


def methods_in(types, union):
    """Method names of one of the schema's unions of requests or notifications; a union of one is the type itself."""
    chosen = types[union]
    parts = [types[part["$ref"].rpartition("/")[2]] for part in chosen.get("anyOf", ())] or [chosen]
    return {part["properties"]["method"]["const"] for part in parts}


@pytest.mark.parametrize("version", spec.VERSIONS)
def test_every_method_is_where_the_schema_has_it_and_nowhere_else(version):
    types = schema_of(version)
    senders: tuple[spec.Sender, ...] = ("client", "server")
    for sender, kind in product(senders, ("request", "notification")):
        union = f"{sender.title()}{kind.title()}"
        official = methods_in(types, union) if union in types else set()
        ours = {name for name, row in spec.METHODS.items() if row.kind == kind and spec.is_known(name, version, sender)}
        if version in spec.MODERN:  # the tasks extension is not part of the schema
            ours = {name for name in ours if "tasks" not in name}
        assert ours == official, (version, sender, kind)


@pytest.mark.parametrize("version", spec.VERSIONS)
def test_log_levels_capabilities_and_names_are_the_schemas(version):
    types = schema_of(version)
    assert set(spec.LOG_LEVELS) == set(types["LoggingLevel"]["enum"])
    declared = {"server": types["ServerCapabilities"]["properties"], "client": types["ClientCapabilities"]["properties"]}
    for name, row in spec.METHODS.items():
        needs = spec.capability_for(name, version)
        answering = "server" if spec.is_known(name, version, "client") == (row.kind == "request") else "client"
        known = spec.is_known(name, version, "client") or spec.is_known(name, version, "server")
        if known and needs and not name.startswith("tasks/"):
            assert needs[0] in declared[answering], name


def test_modern_reserved_keys_and_cacheable_results_are_the_schemas():
    types = schema_of("2026-07-28")
    meta = types["RequestMetaObject"]
    assert {spec.PROTOCOL_VERSION, spec.CLIENT_CAPABILITIES, spec.CLIENT_INFO, spec.LOG_LEVEL, spec.PROGRESS} == set(
        meta["properties"]
    )
    assert set(spec.REQUIRED_META) == set(meta["required"])
    assert spec.SERVER_INFO in types["ResultMetaObject"]["properties"]
    assert spec.SUBSCRIPTION_ID in types["NotificationMetaObject"]["properties"]
    cached = {name for name, row in types.items() if "ttlMs" in row.get("required", ())} - {"CacheableResult"}
    assert len(cached) == len(spec.CACHEABLE)
    assert methods_in(types, "InputRequest") == set(spec.INPUT_METHODS)
    assert {*spec.LISTEN_FLAGS, "resourceSubscriptions"} == set(types["SubscriptionFilter"]["properties"])


# Which era speaks


def call(method, params=None):
    return m.request(1, method, params)


CLAIM = {"_meta": {spec.PROTOCOL_VERSION: "2026-07-28"}}


@pytest.mark.parametrize(
    ("message", "header", "era"),
    [
        ([call("tools/list")], "2025-03-26", "legacy"),
        (Response(1, None), "2026-07-28", "legacy"),
        (call("tools/list", CLAIM), None, "modern"),
        (call("tools/list", CLAIM), "2025-11-25", "modern"),
        (call("tools/list", {"_meta": {spec.PROTOCOL_VERSION: "2025-11-25"}}), None, "modern"),
        (call("tools/list", {"_meta": {spec.PROTOCOL_VERSION: 5}}), None, "modern"),
        (call("initialize", {"protocolVersion": "2025-11-25"}), None, "legacy"),
        (call("initialize", {"protocolVersion": "2026-07-28"}), "2026-07-28", "legacy"),
        (call("initialize", CLAIM), None, "modern"),
        (call("tools/list"), None, "legacy"),
        (call("tools/list"), "2025-11-25", "legacy"),
        (call("tools/list"), "2099-01-01", "legacy"),
        (call("tools/list", {"_meta": {"progressToken": 1}}), "2025-06-18", "legacy"),
        (Notification("notifications/cancelled"), None, "legacy"),
        (Notification("notifications/cancelled"), "2025-11-25", "legacy"),
        (Notification("notifications/cancelled"), "2026-07-28", "modern"),
        (m.notification("notifications/cancelled", CLAIM), None, "modern"),
    ],
)
def test_the_body_says_which_era_speaks_and_the_header_only_where_the_body_cannot(message, header, era):
    assert spec.classify(message, header) == era


def test_a_request_without_metadata_under_a_modern_header_learns_what_it_lacks():
    with pytest.raises(BridgeError) as caught:
        spec.classify(call("tools/list", {"_meta": {spec.CLIENT_CAPABILITIES: {}}}), "2026-07-28")
    error = caught.value
    assert (error.reason, error.id, error.data) == ("invalid_params", 1, {"missing": [spec.PROTOCOL_VERSION]})


def test_a_batch_must_not_claim_to_be_modern():
    with pytest.raises(BridgeError) as caught:
        spec.classify([call("tools/list"), call("tools/list", CLAIM)], None)
    assert caught.value.reason == "invalid_request"


# The modern ladder


def refused(request, headers=None, **options):
    with pytest.raises(BridgeError) as caught:
        spec.check_modern(request, headers, **options)
    assert caught.value.id == 7
    return caught.value


def test_a_complete_modern_request_passes_with_and_without_headers():
    assert spec.check_modern(modern()) == "2026-07-28" == spec.check_modern(modern(), HEADERS)
    info = {spec.CLIENT_INFO: {"name": "c", "version": "1"}, spec.LOG_LEVEL: "debug"}
    assert spec.check_modern(modern(**info)) == "2026-07-28"


def test_missing_metadata_is_named():
    bare = m.request(7, "tools/list")
    assert refused(bare).data["missing"] == list(spec.REQUIRED_META)
    error = refused(modern(**{spec.CLIENT_CAPABILITIES: ...}))
    assert (error.fault.code, error.fault.status, error.data["missing"]) == (-32602, 400, [spec.CLIENT_CAPABILITIES])


@pytest.mark.parametrize(
    "changes",
    [
        {spec.PROTOCOL_VERSION: 5},
        {spec.CLIENT_CAPABILITIES: []},
        {spec.CLIENT_CAPABILITIES: None},
        {spec.CLIENT_INFO: "c"},
        {spec.LOG_LEVEL: "loud"},
        {spec.LOG_LEVEL: 3},
    ],
)
def test_metadata_of_the_wrong_kind_is_refused(changes):
    assert refused(modern(**changes)).reason == "invalid_params"


def test_an_unknown_version_is_refused_with_both_sides_versions():
    error = refused(modern(**{spec.PROTOCOL_VERSION: "2025-11-25"}))
    assert error.fault.code == -32022
    assert error.data == {"supported": ["2026-07-28"], "requested": "2025-11-25"}
    assert refused(modern(), supported=("2027-01-01",)).data["supported"] == ["2027-01-01"]


@pytest.mark.parametrize(
    ("changes", "header"),
    [
        ({"mcp-protocol-version": None}, "mcp-protocol-version"),
        ({"mcp-protocol-version": "2025-11-25"}, "mcp-protocol-version"),
        ({"mcp-method": None}, "mcp-method"),
        ({"mcp-method": "TOOLS/CALL"}, "mcp-method"),
        ({"mcp-name": None}, "mcp-name"),
        ({"mcp-name": "Echo"}, "mcp-name"),
        ({"mcp-name": "=?base64?ZWNobw?="}, "mcp-name"),
        ({"mcp-name": "\xe9"}, "mcp-name"),
    ],
)
def test_headers_must_say_what_the_body_says(changes, header):
    headers = {name: value for name, value in {**HEADERS, **changes}.items() if value is not None}
    error = refused(modern(), headers)
    assert (error.fault.code, error.data) == (-32020, {"header": header})


def test_a_client_that_contradicts_itself_learns_that_before_its_version_is_judged():
    assert refused(modern(**{spec.PROTOCOL_VERSION: "2099-01-01"}), HEADERS).reason == "header_mismatch"
    headers = {**HEADERS, "mcp-protocol-version": "2099-01-01"}
    assert refused(modern(**{spec.PROTOCOL_VERSION: "2099-01-01"}), headers).reason == "unsupported_version"


def test_names_may_come_encoded():
    spec.check_modern(modern(), {**HEADERS, "mcp-name": "=?base64?ZWNobw==?="})
    read = {"mcp-protocol-version": "2026-07-28", "mcp-method": "resources/read", "mcp-name": spec.encode_header("file:///ü")}
    spec.check_modern(modern("resources/read", {"uri": "file:///ü"}), read)


def test_only_methods_with_a_name_need_its_header():
    listing = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/list"}
    spec.check_modern(modern("tools/list", {}), listing)
    spec.check_modern(modern("tools/call", {"name": 5}), {**listing, "mcp-method": "tools/call"})
    task = {**listing, "mcp-method": "tasks/get"}
    spec.check_modern(modern("tasks/get", {"taskId": "t"}), task)
    assert refused(modern("tasks/get", {"taskId": "t"}), {**task, "mcp-name": "u"}).reason == "header_mismatch"


def test_the_name_is_read_from_the_bytes_that_go_on():
    with pytest.raises(BridgeError):
        parse(modern().encode().replace(b'"name":"echo"', b'"name":"echo","name":"other"'))
    request = parse(modern().encode().replace(b'"name":"echo"', b'"name":"other","Name":"echo"'))
    assert isinstance(request, Request)
    assert refused(request, HEADERS).data == {"header": "mcp-name"}
