"""Nothing outlives the bridge: families that resist, hide or were left behind; guards and bridges that are killed."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import zipfile

import msgspec
import pytest

import mcpbridge
from mcpbridge.transports.stdio import guard
from mcpbridge.transports.stdio.guard_process import processes, read_process
from tests.support.counts import count
from tests.transports.stdio.conftest import has_tag, until, zombies

ONE_LOOP = pytest.mark.asyncio(loop_factories=["asyncio"])  # the bridge under test is a process of its own
CYCLES = count("kill_cycles")

STUBBORN = "trap '' TERM INT HUP; while :; do sleep 0.05; done"
ESCAPED = f'{sys.executable} -I -S -c "import os,time\nos.setsid()\nif os.fork(): os._exit(0)\nos.setsid()\ntime.sleep(60)"'
GROUPED = f'{sys.executable} -I -S -c "import os,signal as s,time\nos.setpgid(0,0)\ns.signal(15,s.SIG_IGN)\ntime.sleep(60)"'
FAMILIES = {
    "a shell that waits for its server": "cat; true",
    "a server that ignores SIGTERM": f"echo up; {STUBBORN}",
    "grandchildren that ignore SIGTERM": f'sh -c "{STUBBORN}" & sh -c "{STUBBORN}" & cat',
    "a leader that ends before its grandchildren": f'sh -c "{STUBBORN}" & exit 0',
    "a daemon of two forks in a session of its own": f"{ESCAPED} & cat",
    "a daemon left by a leader that ended": f"{ESCAPED} & sleep 0.1; exit 0",
    "a job in a group of its own": f"{GROUPED} & cat",
    "a daemon that forgot its environment": '(setsid env -i sh -c "sleep 60; true" "$TEST_TAG" &); cat',
    "a stopped server": "kill -STOP $$; cat",
}


@pytest.mark.parametrize("script", FAMILIES.values(), ids=FAMILIES)
async def test_close_ends_the_whole_family(bridge, script):
    talk = await bridge.talk("sh", "-c", script)
    await asyncio.wait([talk.closed], timeout=0.2)
    async with asyncio.timeout(5):
        await talk.child.close()
    assert bridge.alive() == []
    assert zombies() == []


@ONE_LOOP
@pytest.mark.parametrize("script", FAMILIES.values(), ids=FAMILIES)
async def test_a_killed_bridge_leaves_nobody(bridge, script):
    """The bridge is a process of its own here; it starts the family, says so, and is killed with SIGKILL."""
    program = f"""
        import asyncio, sys
        from mcpbridge.transports.stdio.child import spawn
        async def main():
            child = await spawn(["sh", "-c", {script!r}], env={{}}, cwd=None, name="x", max_message=1000, on_stderr=len)
            child.start(lambda message: None, lambda cause: None)
            await asyncio.sleep(0.2)
            print("up", flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, env=bridge.env(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"up\n"
        assert bridge.alive() != []
        process.kill()
    await bridge.until_alive(0)  # the guard itself carries no tag


@ONE_LOOP
async def test_a_bridge_that_just_ends_takes_its_children_along(bridge):
    program = """
        import asyncio
        from mcpbridge.transports.stdio.child import spawn
        async def main():
            await spawn(["sleep", "60"], env={}, cwd=None, name="x", max_message=1000, on_stderr=len)
        asyncio.run(main())
    """
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)], env=bridge.env()) as process:
        assert await asyncio.to_thread(process.wait) == 0
    await bridge.until_alive(0)


async def test_a_ctrl_c_in_the_terminal_reaches_neither_guard_nor_children(bridge):
    child = await bridge.spawn("cat")
    for pid in (child.pid, guard.current().pid):
        process = read_process(pid)
        assert process is not None and process.group == process.session == pid
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(guard.current().pid, number)
    again = await bridge.talk("cat")
    assert await again.ask(b"1") == b"1"


async def test_a_killed_guard_ends_its_children_with_a_cause_and_the_next_child_has_a_new_one(bridge):
    talk = await bridge.talk("sh", "-c", f"{ESCAPED} & echo up; exec cat")
    assert await talk.next() == b"up"
    first = guard.current()
    os.kill(first.pid, signal.SIGKILL)
    cause = await talk.end()
    assert cause.reason == "server_exited" and "guard" in cause.detail
    await bridge.until_alive(0)
    again = await bridge.talk("cat")
    assert await again.ask(b"1") == b"1"
    assert guard.current() is not first
    await until(lambda: zombies() == [])


async def test_one_guard_serves_all_children_and_is_small(bridge):
    children = [await bridge.spawn("cat") for _ in range(5)]
    parents = {read_process(child.pid).parent for child in children}
    assert parents == {guard.current().pid}
    with open(f"/proc/{guard.current().pid}/smaps_rollup") as file:
        own = next(int(line.split()[1]) for line in file if line.startswith("Private_Dirty"))
    assert own < 10_000  # kB


async def test_the_guard_holds_neither_our_secrets_nor_our_pipes(bridge, monkeypatch):
    monkeypatch.setenv("JWT_SECRET", "not-for-the-guard")
    await bridge.spawn("cat")
    pid = guard.current().pid
    with open(f"/proc/{pid}/environ", "rb") as file:
        assert b"not-for-the-guard" not in file.read()
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}
    open_files = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert len([name for name in open_files if name.startswith("pipe")]) == 2  # its own alarm


async def test_ending_one_family_leaves_the_others_alone(bridge):
    staying, leaving = await bridge.talk("sh", "-c", f"{ESCAPED} & cat"), await bridge.talk("sh", "-c", f"{ESCAPED} & cat")
    await bridge.until_alive(6)
    await leaving.child.close()
    await bridge.until_alive(3)  # a daemon of the other family may just be between its two forks
    assert await staying.ask(b"1") == b"1"


async def test_orphans_of_living_servers_are_reaped(bridge):
    talk = await bridge.talk("sh", "-c", "for i in 1 2 3 4 5; do (true & true) ; done; echo done; cat")
    assert await talk.next() == b"done"
    await until(lambda: not [p for p in processes() if p.parent == guard.current().pid and p.state == "Z"])


async def test_many_cycles_of_connect_and_kill_leave_no_process_no_descriptor_and_no_zombie(bridge):
    script = f'sh -c "{STUBBORN}" & {ESCAPED} & cat; true'
    counts = []
    for cycle in range(CYCLES):
        talk = await bridge.talk("sh", "-c", script)
        assert await talk.ask(b"%d" % cycle) == b"%d" % cycle
        if cycle % 2:
            os.kill(talk.child.pid, signal.SIGKILL)
            await talk.end()
        await talk.child.close()
        bridge.children.clear()
        counts.append(len(os.listdir("/proc/self/fd")))
        assert bridge.alive() == []
    assert zombies() == []
    assert counts[-1] <= counts[0]


async def test_a_burst_of_children_starts_while_the_socket_is_full(bridge):
    big = {"BIG": "x" * 100_000}
    talks = await asyncio.gather(*[bridge.talk("cat", env=big) for _ in range(12)])
    assert [await talk.ask(b"%d" % n) for n, talk in enumerate(talks)] == [b"%d" % n for n in range(12)]
    async with asyncio.timeout(5):
        await asyncio.gather(*[talk.child.close() for talk in talks])
    assert not [p for p in processes() if has_tag(p.pid, bridge.tag)]


@ONE_LOOP
async def test_the_guard_starts_from_a_zip_archive(bridge, tmp_path):
    archive = tmp_path / "bridge.pyz"
    root = pathlib.Path(mcpbridge.__file__).parent
    with zipfile.ZipFile(archive, "w") as file:
        for source in root.rglob("*.py"):
            file.write(source, source.relative_to(root.parent))
        program = """
            import asyncio, mcpbridge
            from mcpbridge.transports.stdio import guard
            from mcpbridge.transports.stdio.child import spawn
            async def main():
                child = await spawn(["cat"], env={}, cwd=None, name="x", max_message=1000, on_stderr=len)
                answer = asyncio.get_running_loop().create_future()
                child.start(answer.set_result, lambda cause: None)
                child.send(b"1")
                print(".pyz" in mcpbridge.__file__, await answer)
                await child.close()
                await guard.close()
            asyncio.run(main())
        """
        file.writestr("__main__.py", textwrap.dedent(program))
    site = pathlib.Path(msgspec.__file__).parent.parent
    environment = {**bridge.env(), "PYTHONPATH": str(site)}
    command = [sys.executable, str(archive)]
    done = await asyncio.to_thread(subprocess.run, command, env=environment, cwd=tmp_path, capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"True b'1'\n", b"")
