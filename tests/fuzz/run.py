"""Throws mutated bytes at every fuzz target: ``python tests/fuzz/run.py --seconds 10 [--seed 1] [--target NAME ...]``.

A target is a function ``bytes -> None`` that fails by raising; targets live in ``targets_*.py`` beside this file, in a dict
``TARGETS: name -> function``, the inputs to start from in ``SEEDS: name -> list of bytes``. Seconds are per target. A failing
input is written to ``--save`` (default ``.cache/fuzz``) and shown; the same seed gives the same inputs.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

Target = Callable[[bytes], None]
MAX_INPUT = 65_536
TOKENS = [
    *(b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"\n", b"\r\n", b"\r", b" ", b"\t", b"\x00", b"\xff", b"\xef\xbb\xbf"),
    *(b"\\u0061", b"\\ud800", b"\\udc00", b"\\ud83d\\ude00", b"\\\\", b'\\"', b"\xed\xa0\x80", "é\U0001f600".encode()),
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"1.0", b"9" * 70, b"0", b"-", b"{}", b"[]", b'""', b'"":0'),
    *(b'"jsonrpc":"2.0"', b'"id":', b'"method":', b'"params":', b'"result":', b'"error":', b'"_meta":', b"[" * 70, b"]" * 70),
    *(b"\r\n\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1", b"5\r\n", b"0\r\n\r\n", b"data: "),
    *(b"\x16\x03\x01", b"MCPB\x00\x01", b"ffffffffffffffff", b"+", b"=?base64?", b"?="),
]


def mutate(rng: random.Random, seeds: list[bytes]) -> bytes:
    """One input: a seed with a few cuts, copies, flips, insertions and splices."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 3, 5, 8, 16))):
        start = rng.randint(0, len(data))
        end = min(len(data), start + rng.choice((0, 1, 1, 2, 4, 8, 32)))
        kind = rng.randrange(7)
        if kind == 0:
            data[start:end] = rng.choice(TOKENS)
        elif kind == 1:
            data[start:start] = rng.choice(TOKENS)
        elif kind == 2:
            del data[start:end]
        elif kind == 3:
            data[start:start] = data[start:end] * rng.choice((1, 1, 2, 70))
        elif kind == 4 and start < len(data):
            data[start] ^= 1 << rng.randrange(8)
        elif kind == 5:
            other = rng.choice(seeds)
            cut = rng.randint(0, len(other))
            data[start:] = other[cut:]
        else:
            data[start:end] = rng.randbytes(end - start)
    return bytes(data[:MAX_INPUT])


def load() -> dict[str, tuple[Target, list[bytes]]]:
    """Every target with its seeds, by name."""
    found: dict[str, tuple[Target, list[bytes]]] = {}
    for path in sorted(HERE.glob("targets_*.py")):
        spec = importlib.util.spec_from_file_location(f"fuzz_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        seeds = getattr(module, "SEEDS", {})
        for name, target in module.TARGETS.items():
            assert name not in found, f"two targets are called {name}"
            found[name] = (target, [*seeds.get(name, ()), b""])
    return found


def fuzz(
    name: str, target: Target, seeds: list[bytes], seed: int, *, seconds: float, save: Path | None
) -> tuple[int, bytes | None]:
    """Runs one target for some seconds; the number of inputs and the first failing one."""
    rng = random.Random(f"{seed}/{name}")
    ends, count = time.monotonic() + seconds, 0
    inputs = iter(seeds)
    while time.monotonic() < ends:
        data = next(inputs, None)
        if data is None:
            data = mutate(rng, seeds)
        count += 1
        try:
            target(data)
        except Exception:
            traceback.print_exc()
            print(f"{name}: fails on {data[:500]!r}", file=sys.stderr)
            if save is not None:
                save.mkdir(parents=True, exist_ok=True)
                path = save / f"{name}-{seed}-{count}.bin"
                path.write_bytes(data)
                print(f"{name}: saved as {path}", file=sys.stderr)
            return count, data
    return count, None


def run(name: str, seed: int, seconds: float, save: Path | None) -> tuple[str, int, bool]:
    """Fuzz one target by name, in whichever process; its name, the number of inputs and whether one failed."""
    target, seeds = load()[name]
    count, failing = fuzz(name, target, seeds, seed, seconds=seconds, save=save)
    return name, count, failing is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds per target")
    parser.add_argument("--jobs", type=int, default=2, help="targets at the same time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", action="append", help="only these")
    parser.add_argument("--save", type=Path, default=HERE.parents[1] / ".cache" / "fuzz")
    options = parser.parse_args()
    targets = load()
    unknown = set(options.target or ()) - set(targets)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(targets)}")
    failed = 0
    with ProcessPoolExecutor(options.jobs) as pool:
        names = [name for name in targets if not options.target or name in options.target]
        for job in as_completed([pool.submit(run, name, options.seed, options.seconds, options.save) for name in names]):
            name, count, has_failed = job.result()
            failed += has_failed
            print(f"{name:24} {count:>9} inputs  {'FAILED' if has_failed else 'ok'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
