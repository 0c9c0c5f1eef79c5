"""A child as a Connection: messages, back-pressure, ends and their causes."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import pytest

from mcpbridge.errors import BridgeError
from mcpbridge.transports.stdio.child import MAX_BUFFER, spawn

ECHO = "import sys\nfor line in sys.stdin.buffer:\n sys.stdout.buffer.write(line); sys.stdout.buffer.flush()"


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", code)


async def test_messages_go_there_and_back_in_order(bridge):
    talk = await bridge.talk(*python(ECHO))
    for number in range(100):
        talk.child.send(b'{"n":%d}' % number)
    assert [await talk.next() for _ in range(100)] == [b'{"n":%d}' % number for number in range(100)]


async def test_a_message_with_line_breaks_becomes_one_line(bridge):
    talk = await bridge.talk(*python(ECHO))
    assert json.loads(await talk.ask(b'{\r\n "a": "x\\ny"\n}')) == {"a": "x\ny"}


async def test_ten_megabytes_pass_both_ways(bridge):
    talk = await bridge.talk(*python(ECHO))
    message = b'"' + b"x" * 10_000_000 + b'"'
    assert await talk.ask(message) == message


async def test_a_child_that_does_not_read_makes_drain_wait(bridge):
    talk = await bridge.talk("sleep", "60")
    for _ in range(4):
        talk.child.send(b"x" * 1_000_000)
    draining = asyncio.ensure_future(talk.child.drain())
    await asyncio.wait([draining], timeout=0.05)
    assert not draining.done()
    await talk.child.close()
    await draining


async def test_a_child_that_never_reads_is_refused_more_than_the_buffer_holds(bridge):
    talk = await bridge.talk("sleep", "60")
    message = b"x" * 1_000_000
    for _ in range(MAX_BUFFER // len(message) + 1):
        talk.child.send(message)
    with pytest.raises(ConnectionError, match="server 'weather' does not read"):
        talk.child.send(b"{}")
    talk.child.abandon()


async def test_nothing_is_delivered_before_start_and_everything_after(bridge):
    child = await bridge.spawn("sh", "-c", "echo 1; echo 2; exec cat")
    received: list[bytes] = []
    done = asyncio.Event()

    def on_message(message: bytes) -> None:
        received.append(message)
        if message == b"3":
            done.set()

    child.send(b"3")
    child.start(on_message, lambda cause: None)
    async with asyncio.timeout(5):
        await done.wait()
    assert received == [b"1", b"2", b"3"]


async def test_a_paused_child_is_not_read_and_its_words_come_after_resume_even_when_it_has_ended(bridge):
    talk = await bridge.talk("sh", "-c", "read go; echo said; exit 3")
    talk.child.pause()
    talk.child.send(b"go")
    await asyncio.wait([talk.closed], timeout=0.6)
    assert talk.messages.empty() and not talk.closed.done()
    talk.child.resume()
    assert await talk.next() == b"said"
    assert (await talk.end()).data["exit_status"] == 3


async def test_a_last_line_without_newline_is_delivered(bridge):
    talk = await bridge.talk("printf", '{"last":1}')
    assert await talk.next() == b'{"last":1}'
    await talk.end()


@pytest.mark.parametrize(
    ("script", "data", "words"),
    [
        ("echo no key >&2; exit 3", {"exit_status": 3}, "server 'weather': exit status 3; stderr: no key"),
        ("exit 0", {"exit_status": 0}, "server 'weather': exit status 0"),
        ("kill -9 $$", {"signal": "SIGKILL"}, "server 'weather': ended by SIGKILL"),
        ("kill -SEGV $$", {"signal": "SIGSEGV"}, "server 'weather': ended by SIGSEGV"),
        ("exec 1>&- ; sleep 60", {}, "server 'weather': closed its stdout"),
    ],
)
async def test_the_end_names_the_server_the_status_and_its_last_words(bridge, script, data, words):
    cause = await (await bridge.talk("sh", "-c", script)).end()
    assert isinstance(cause, BridgeError)
    assert (cause.reason, cause.detail, cause.data) == ("server_exited", words, {"server": "weather", **data})


async def test_an_ended_child_refuses_messages(bridge):
    talk = await bridge.talk("true")
    await talk.end()
    with pytest.raises(ConnectionError):
        talk.child.send(b"{}")


async def test_a_killed_child_ends_the_conversation_although_a_helper_holds_its_stdout(bridge):
    talk = await bridge.talk("sh", "-c", "sleep 60 & echo ready; exec cat")
    assert await talk.next() == b"ready"
    talk.child._ward.end(0.0)
    assert (await talk.end()).data["signal"] in ("SIGKILL", "SIGTERM")
    await bridge.until_alive(0)


async def test_a_command_that_is_not_there_is_refused_by_name_and_was_not_sent():
    with pytest.raises(BridgeError) as caught:
        await spawn(["no-such-command-x"], env={}, cwd=None, name="w", max_message=1, on_stderr=print)
    error = caught.value
    assert (error.reason, error.sent, error.data) == ("stdio_no_such_file", False, {"path": "no-such-command-x"})


async def test_a_missing_interpreter_is_a_missing_file(bridge, tmp_path):
    script = tmp_path / "server"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(BridgeError) as caught:
        await bridge.spawn(str(script))
    assert (caught.value.reason, caught.value.sent, caught.value.data) == ("stdio_no_such_file", False, {"path": str(script)})


async def test_a_file_that_is_no_program_cannot_start(bridge, tmp_path):
    script = tmp_path / "server"
    script.write_bytes(b"\x7fELF nonsense")
    script.chmod(0o755)
    with pytest.raises(BridgeError) as caught:
        await bridge.spawn(str(script))
    assert (caught.value.reason, caught.value.sent) == ("stdio_cannot_start", False)


async def test_arguments_environment_and_directory_arrive_exactly(bridge, tmp_path, monkeypatch):
    monkeypatch.setenv("JWT_SECRET", "do-not-pass")
    monkeypatch.setenv("MCPBRIDGE_SEAL_KEY", "do-not-pass")
    monkeypatch.setenv("PASSED_ON", "yes")
    code = "import os,sys,json; print(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]))"
    talk = await bridge.talk(*python(code), "a b", "ü$HOME;*", "", env={"X": "ü y"}, cwd=str(tmp_path))
    argv, cwd, env = json.loads(await talk.next())
    assert argv == ["a b", "ü$HOME;*", ""]
    assert cwd == str(tmp_path)
    assert (env["X"], env["PASSED_ON"]) == ("ü y", "yes")
    assert "do-not-pass" not in env.values()


async def test_the_child_has_default_signals_and_nothing_but_its_three_pipes(bridge):
    code = (
        "import os,re\nstatus=open('/proc/self/status').read()\n"
        "mask=[int(re.search(k+r':\\s*(\\w+)',status).group(1),16) for k in ('SigBlk','SigIgn')]\n"
        "fds=os.listdir('/proc/self/fd')\n"
        "print(sorted(map(int,fds))[:3], len(fds), mask[0], mask[1] & 0b1000000000000111)"
    )
    talk = await bridge.talk(*python(code))
    assert await talk.next() == b"[0, 1, 2] 4 0 0"  # the fourth is the directory being listed; Python itself ignores SIGPIPE


async def test_stderr_comes_in_lines_and_secrets_of_the_configuration_are_masked(bridge):
    talk = await bridge.talk("sh", "-c", 'echo "key $API_KEY" >&2; echo two >&2; read x', env={"API_KEY": "hunter2-hunter2"})
    talk.child.send(b"{}")
    cause = await talk.end()
    assert bridge.stderr == ["key ***", "two"]
    assert "hunter2" not in str(cause)


async def test_a_flood_on_stderr_neither_blocks_the_child_nor_reaches_the_log(bridge):
    talk = await bridge.talk(*python("import sys\nfor _ in range(40): sys.stderr.write('noise\\n' * 10000)\nprint('done')"))
    assert await talk.next() == b"done"
    await talk.end()
    assert len(bridge.stderr) < 1000
    assert len(talk.child.stderr.tail()) <= 65536


async def test_close_is_idempotent_and_reports_the_end_once(bridge):
    talk = await bridge.talk("cat")
    await asyncio.gather(talk.child.close(), talk.child.close())
    await talk.child.close()
    assert isinstance(await talk.end(), ConnectionAbortedError)


async def test_a_deaf_child_gets_its_two_graces_and_is_killed(bridge, monkeypatch):
    monkeypatch.setattr("mcpbridge.transports.stdio.child.CLOSE_GRACE", 0.2)
    talk = await bridge.talk("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")
    assert await talk.next() == b"up"
    began = asyncio.get_running_loop().time()
    await talk.child.close()
    assert asyncio.get_running_loop().time() - began >= 0.4
    assert talk.child._ward.exited.result() == signal.SIGKILL


async def test_a_polite_child_ends_by_itself_when_its_stdin_is_closed(bridge, tmp_path):
    word = tmp_path / "word"
    talk = await bridge.talk("sh", "-c", f"cat >/dev/null; echo bye > {word}")
    await talk.child.close()
    assert word.read_text() == "bye\n"


async def test_a_cancelled_close_still_ends_the_child(bridge):
    talk = await bridge.talk("cat")
    closing = asyncio.ensure_future(talk.child.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    await bridge.until_alive(0)


async def test_a_cancelled_spawn_leaves_no_process(bridge):
    starting = asyncio.ensure_future(bridge.spawn("sleep", "60"))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    await bridge.until_alive(0)
