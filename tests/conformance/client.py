"""The client that the suites' client scenarios drive: it does what a scenario asks for, over the official Python SDK 2.x.

``client.py [--through ARGV_JSON] [--crossed] URL``: the suite appends the URL of its server and says the rest in variables
(``MCP_CONFORMANCE_SCENARIO``, ``…_PROTOCOL_VERSION``, ``…_CONTEXT``). ``--through`` is a stdio command that stands between; its
last argument becomes the URL. ``--crossed`` speaks the era that the scenario is not about. The suite judges what its server
saw, so errors that the server answered are no concern of this program. Runs in the environment ``sdk2``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import warnings
from typing import Any

import mcp_types as types
from mcp import Client, MCPError, StdioServerParameters
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

Json = dict[str, Any]
TIMEOUT = 20.0  # seconds for one request; a scenario is given 30
FIRST_CALLS: dict[str, list[tuple[str, Json]]] = {
    "tools_call": [("add_numbers", {"a": 5, "b": 3})],
    "elicitation-sep1034-client-defaults": [("test_client_elicitation_defaults", {})],
    "sse-retry": [("test_reconnection", {})],
    "sep-2322-client-request-state": [
        ("test_mrtr_echo_state", {}),
        ("test_mrtr_unrelated", {}),
        ("test_mrtr_no_state", {}),
        ("test_mrtr_no_result_type", {}),
    ],
}


async def on_elicit(context: Any, params: Any) -> types.ElicitResult:
    """Accept with the defaults of the form, and yes to everything that has none."""
    properties = params.model_dump(by_alias=True, mode="json", exclude_none=True)["requestedSchema"]["properties"]
    content = {name: schema.get("default", True) for name, schema in properties.items()}
    return types.ElicitResult(action="accept", content=content)


async def attempt(operation: Any) -> Any:
    """The result of a request, or None when the server or the SDK refused it."""
    try:
        return await operation
    except (MCPError, ValueError, RuntimeError) as err:
        print(f"refused: {err}", file=sys.stderr)
        return None


async def use_everything(client: Client, tools: list[Any]) -> None:
    """Call, read and get all that the server lists."""
    for tool in tools:
        arguments = dict.fromkeys(tool.input_schema.get("required", ()), "value")
        await attempt(client.call_tool(tool.name, arguments))
    capabilities = client.server_capabilities
    if capabilities.resources is not None and (found := await attempt(client.list_resources())):
        for resource in found.resources:
            await attempt(client.read_resource(str(resource.uri)))
    if capabilities.prompts is not None and (listed := await attempt(client.list_prompts())):
        for prompt in listed.prompts:
            await attempt(client.get_prompt(prompt.name, {}))


async def play(client: Client, scenario: str, context: Json) -> None:
    listed = await attempt(client.list_tools())
    tools = listed.tools if listed else []
    for name, arguments in FIRST_CALLS.get(scenario, []):
        await attempt(client.call_tool(name, arguments))
    for call in context.get("toolCalls", []):
        await attempt(client.call_tool(call["name"], call["arguments"]))
    if scenario.startswith("json-schema-2020-12"):
        focal, echo = tools
        await attempt(client.call_tool(echo.name, {"schema": focal.input_schema}))
    elif scenario in ("http-standard-headers", "http-invalid-tool-headers"):
        await use_everything(client, tools)


async def main() -> int:
    parser = argparse.ArgumentParser(description="client for the suites' client scenarios")
    parser.add_argument("--through", type=json.loads, help="stdio command between, as a JSON list")
    parser.add_argument("--crossed", action="store_true", help="speak the other era")
    parser.add_argument("url")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    version = os.environ["MCP_CONFORMANCE_PROTOCOL_VERSION"]
    through = options.through
    target: Any = options.url
    if through:
        target = StdioServerParameters(command=through[0], args=[*through[1:], options.url], env=dict(os.environ))
    mode = "auto" if (version in MODERN_PROTOCOL_VERSIONS) is not options.crossed else "legacy"
    async with Client(target, mode=mode, elicitation_callback=on_elicit, read_timeout_seconds=TIMEOUT) as client:
        await play(client, os.environ["MCP_CONFORMANCE_SCENARIO"], json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}")))
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
