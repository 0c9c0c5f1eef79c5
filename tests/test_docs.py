"""What the documents say is true of the code: commands parse, files load, links lead somewhere."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcpbridge.admin.views import views
from mcpbridge.config.gateway import GatewayConfig
from mcpbridge.config.router import RouterConfig
from mcpbridge.config.rows import fields_of
from mcpbridge.errors import FAULTS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
PROGRAMS = ("mcpbridge", "mcp-router", "mcp-gateway")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def fences(name: str) -> Iterator[tuple[str, str]]:
    """Language and text of every fenced block."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", read(name), re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def commands() -> list[list[str]]:
    """Every command line of ours in a block or between backticks, and the router's argument lists of README's table."""
    found = []
    for name in DOCUMENTS:
        lines = [line for language, text in fences(name) if language in ("", "bash") for line in text.splitlines()]
        lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", read(name), flags=re.MULTILINE | re.DOTALL))
        for line in lines:
            line = f"mcpbridge {line}" if line.startswith(("router ", "gateway ")) else line
            if line.startswith(tuple(f"{program} " for program in PROGRAMS)):
                found.append(shlex.split(line))
    return found


def run(*arguments: str, **more) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mcpbridge", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, **more
    )


def test_there_are_commands_to_check():
    assert len(commands()) > 8


@pytest.mark.parametrize("name", sorted({command[1].split("|")[0] for command in commands()}))
def test_every_command_named_in_a_document_exists(name):
    assert run("help", name).returncode == 0, name


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_option_named_in_a_document_exists(command):
    options = {word.split("=")[0] for word in command[2:] if word.startswith("--") and word != "--"}
    text = run("help", command[1].split("|")[0]).stdout
    if command[1] == "token" and len(command) > 2:
        text += run("token", command[2].split("|")[0], "--help").stdout
    assert [option for option in options if option not in text] == []


def test_the_configuration_files_in_the_documents_load(tmp_path):
    examples = [(name, language, text) for name in DOCUMENTS for language, text in fences(name) if language in ("yaml", "json")]
    assert {language for _, language, _ in examples} == {"yaml", "json"}
    for number, (name, language, text) in enumerate(examples):
        path = tmp_path / f"{number}.{language}"
        path.write_text(text)
        is_router = language == "json" or re.search(r"^(gateway|direct_clients):", text, re.M) is not None
        kind = "router" if is_router else "gateway"
        done = run(
            "config",
            "validate",
            "--for",
            kind,
            str(path),
            env={"PATH": "/usr/bin:/bin"} | {name: secrets.token_hex(32) for name in re.findall(r"\$\{(\w+)\}", text)},
        )
        assert done.returncode == 0, (name, done.stdout + done.stderr)
        if language == "json":
            assert {"mcpServers", "servers"} & set(json.loads(text))


def test_files_and_links_in_the_documents_lead_somewhere():
    missing = []
    for name in DOCUMENTS:
        text = read(name)
        targets = set(re.findall(r"\]\((?!https?:)([^)#]+)\)", text))
        targets |= set(re.findall(r"`(?:\./)?((?:scripts|tests|mcpbridge|tui)/[\w./-]+)`", text))
        missing += [f"{name}: {target}" for target in sorted(targets) if not (ROOT / target).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_document_names_a_place_of_one_machine(document):
    assert not re.search(r"/(home|root|work|Users)/", read(document))


def test_every_error_can_be_looked_up_by_its_reason_and_by_its_code():
    everything = run("help", "errors").stdout
    for reason, fault in FAULTS.items():
        assert re.search(rf"^{fault.code}  .*\({reason};", everything, re.MULTILINE), reason


@pytest.mark.parametrize("reason", ["unsupported_across_eras", "1004"])
def test_one_error_can_be_looked_up(reason):
    done = run("help", "errors", reason)
    assert done.returncode == 0 and "cause:" in done.stdout and "action:" in done.stdout


def test_the_views_that_the_readme_lists_are_served():
    named = set(re.findall(r"`(/health\w*|/readyz|/api/v1/status)`", read("README.md")))
    assert len(named) >= 4
    assert named <= set(views("/api/v1"))


def test_the_keys_that_the_documents_name_are_in_the_tables():
    known = {field.key for program in (GatewayConfig, RouterConfig) for field in fields_of(program)}
    sections = "|".join({key.split(".")[0] for key in known if "." in key})
    named = {
        (name, key)
        for name in DOCUMENTS
        for key in re.findall(rf"`((?:{sections})(?:\.[a-z_]+)+)(?::[^`]*)?`", read(name))
        if not key.endswith((".py", ".yaml", ".front"))
    }
    assert ("README.md", "server.port") in named
    assert [pair for pair in sorted(named) if pair[1] not in known] == []


def test_the_measured_table_of_the_readme_is_what_was_measured():
    rows = json.loads((ROOT / "tests" / "results" / "bench-hop.json").read_text())["rows"]
    expected = []
    for row in rows:
        if (row["dialect"], row["clients"]) == ("legacy", 16):
            rate, p50, p99, cpu, memory = (
                statistics.median(sample[key] for sample in row["samples"])
                for key in ("calls_per_second", "p50_us", "p99_us", "cpu_us", "rss_mb")
            )
            hop = row["hop"].replace("http", "HTTP").replace("-", " → ")
            own = f"{cpu:,.0f} | {memory:.0f}" if cpu else "– | –"
            program = f"{row['program']} {row['version']}".strip()
            expected.append(f"| {hop} | {program} | {rate:,.0f} | {p50 / 1000:.1f} | {p99 / 1000:.1f} | {own} |")
    assert re.findall(r"^\| HTTP → .*\|$", read("README.md"), re.MULTILINE) == expected, "\n".join(expected)


def test_what_the_readme_says_of_predictions_is_what_was_measured():
    measured = json.loads((ROOT / "tests" / "results" / "bench-health.json").read_text())
    found, said = measured["found"], " ".join(read("README.md").split())
    percent = {name: [round(100 * part) for part in found[name]] for name in ("recall", "precision")}
    for text in (
        f"({sum(map(len, measured['leads_sec'].values()))} faults that grow",
        f"{int(found['clean_hours'][0])} clean endpoint-hours",
        "{} % foreseen ({} to {})".format(*percent["recall"]),
        f"by a median of {found['median_lead_sec'][0]:.0f} s",
        "{} % of alarms right ({} to {})".format(*percent["precision"]),
        "{:.3f} false ones per endpoint-hour ({:.3f} to {:.3f})".format(*found["false_alarms_per_hour"]),
    ):
        assert text in said, text


def test_the_table_of_cells_is_the_one_that_the_last_run_wrote():
    table = read("tests/results/interaction.md").split("\n\n")[1].strip()
    assert table.startswith("| client") and table in read("README.md")
