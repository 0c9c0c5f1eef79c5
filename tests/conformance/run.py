"""Run the official MCP conformance suites against a server URL and judge them by scenario.

``python tests/conformance/run.py --url http://localhost:PORT/mcp --suite 0.1.16|0.2 --spec-version 2025-11-25 [--json FILE]``
prints one line per scenario and exits 0 when all passed, 1 when some failed, 2 when the suite itself could not run.
A scenario passes with at least one SUCCESS and no FAILURE among its checks; one that ran no check at all is a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # as a script it runs from anywhere
from tests.support import setup

#: name on the command line -> alias of the installed package
SUITES = {"0.1.16": "conformance-0.1", "0.2": "conformance-0.2"}
CLIENT_TIMEOUT = 60.0  # seconds for one client scenario; the suite gives the client 30
SUITE_TIMEOUT = 240.0  # seconds for all scenarios; without a bridge they take 15-40 s here


class SuiteFailed(Exception):
    """The suite could not run to its end; the message says why."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Verdict of one scenario: counts of its checks and the messages of the failed ones."""

    name: str
    succeeded: int
    failed: int
    causes: list[str] = field(default_factory=list)

    @property
    def is_passed(self) -> bool:
        return self.succeeded > 0 and self.failed == 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Verdicts of one run of a suite."""

    suite: str
    version: str
    scenarios: list[Scenario]

    @property
    def passed(self) -> int:
        return sum(scenario.is_passed for scenario in self.scenarios)

    @property
    def failures(self) -> list[Scenario]:
        return [scenario for scenario in self.scenarios if not scenario.is_passed]

    def table(self) -> str:
        """The outcome for a person: one line per scenario, causes below the failed ones, the sum at the end."""
        lines = []
        for scenario in self.scenarios:
            mark = "pass" if scenario.is_passed else "FAIL"
            lines.append(f"{mark}  {scenario.name:<52} {scenario.succeeded:>3} ok {scenario.failed:>3} failed")
            lines.extend(f"        {cause}" for cause in scenario.causes)
        lines.append(f"{self.passed}/{len(self.scenarios)} scenarios pass (suite {self.suite} at {self.version})")
        return "\n".join(lines)


def scenario_names(suite: str, version: str, side: str = "server") -> list[str]:
    """Scenarios that a suite has for a protocol version and a side (``server``, ``client``), in its own order.

    Raises: SuiteFailed.
    """
    listed = execute(
        [setup.node(), setup.script(SUITES[suite]), "list", f"--{side}", "--spec-version", version], Path.cwd(), 30
    )
    return re.findall(r"^ {2}- ([\w./-]+)", listed, re.MULTILINE)


def execute(command: list[str], cwd: Path, timeout: float) -> str:
    """Standard output of a command that runs in a process group of its own and never outlives this call.

    Raises: SuiteFailed when it does not start or does not end in ``timeout`` seconds.
    """
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=setup.node_environment(),
            start_new_session=True,
        )
    except OSError as err:
        raise SuiteFailed(f"{command[0]}: {err}") from err
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as err:
        raise SuiteFailed(f"no end after {timeout:.0f} s: {' '.join(command)}") from err
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    return output


def judge(name: str, checks: list[dict[str, object]]) -> Scenario:
    """Verdict over the checks that a scenario wrote."""
    failed = [check for check in checks if check.get("status") == "FAILURE"]
    causes = [f"{check.get('id')}: {str(check.get('errorMessage') or check.get('description'))[:400]}" for check in failed]
    return Scenario(name, sum(check.get("status") == "SUCCESS" for check in checks), len(failed), causes)


def run(url: str, suite: str, version: str, scenario: str | None = None, *, timeout: float = SUITE_TIMEOUT) -> Outcome:
    """Run all scenarios of ``suite`` for ``version`` (or only ``scenario``) against the server at ``url``.

    Raises: SuiteFailed when the suite does not start, wrote nothing, or takes longer than ``timeout`` seconds.
    """
    names = [scenario] if scenario else scenario_names(suite, version)
    if not names:
        raise SuiteFailed(f"suite {suite} has no scenarios for {version}")
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        selection = ["--scenario", scenario] if scenario else ["--suite", "all"]
        output = execute(
            [
                setup.node(),
                setup.script(SUITES[suite]),
                "server",
                "--url",
                url,
                *selection,
                "--spec-version",
                version,
                "-o",
                folder,
            ],
            Path(folder),
            timeout,
        )
        found: dict[str, Scenario] = {}
        for written in Path(folder).glob("server-*/checks.json"):
            folder_of = re.fullmatch(r"server-(.+)-\d{4}-\d\d-\d\dT[\w-]+", written.parent.name)
            if folder_of and folder_of[1] in names:
                found[folder_of[1]] = judge(folder_of[1], json.loads(written.read_text()))
    if not found:
        raise SuiteFailed("the suite wrote no results:\n" + "\n".join(output.splitlines()[-20:]))
    thrown = dict(re.findall(r"^Failed to run scenario ([\w./-]+): (.*)$", output, re.MULTILINE))
    absent = {n: Scenario(n, 0, 0, [thrown.get(n, "ran no check")[:400]]) for n in names if n not in found}
    return Outcome(suite, version, [found.get(name) or absent[name] for name in names])


def run_client(command: list[str], suite: str, version: str, scenario: str) -> Scenario:
    """Verdict of one client scenario over what ``command`` did with the suite's server, whose URL is appended to it.

    Raises: SuiteFailed when the suite does not start, wrote nothing, or takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        client = ["client", "--command", shlex.join(command), "--scenario", scenario, "--spec-version", version, "-o", folder]
        output = execute([setup.node(), setup.script(SUITES[suite]), *client], Path(folder), CLIENT_TIMEOUT)
        for written in Path(folder).glob("*/checks.json"):
            return judge(scenario, json.loads(written.read_text()))
    raise SuiteFailed(f"{scenario} wrote no results:\n" + "\n".join(output.splitlines()[-20:]))


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="official MCP conformance suites against a server")
    parser.add_argument("--url", required=True, help="use localhost, not 127.0.0.1 (the suites check the Host header)")
    parser.add_argument("--suite", choices=sorted(SUITES), required=True)
    parser.add_argument("--spec-version", required=True)
    parser.add_argument("--scenario", help="only this one")
    parser.add_argument("--json", type=Path, help="write the verdicts here")
    options = parser.parse_args()
    try:
        outcome = run(options.url, options.suite, options.spec_version, options.scenario)
    except SuiteFailed as err:
        print(f"suite {options.suite} did not run: {err}", file=sys.stderr)
        return 2
    print(outcome.table())
    if options.json:
        options.json.write_text(json.dumps(asdict(outcome), indent=2))
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
