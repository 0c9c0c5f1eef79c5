"""Every fuzz target accepts its seeds and a fixed number of mutations; the long runs are ``run.py``'s."""

import importlib.util
import random
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("fuzz_run", Path(__file__).with_name("run.py"))
assert _spec is not None and _spec.loader is not None
run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(run)
TARGETS = run.load()


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_hundred_mutated_inputs_meet_no_surprise(name):
    target, seeds = TARGETS[name]
    rng = random.Random(name)
    for data in [*seeds, *(run.mutate(rng, seeds) for _ in range(300))]:
        target(data)


def test_a_target_that_fails_is_reported_with_its_input(tmp_path, capsys):
    def picky(data: bytes) -> None:
        assert b"\x00" not in data

    count, failing = run.fuzz("picky", picky, [b"a" * 20], 1, seconds=5.0, save=tmp_path)
    assert failing is not None and b"\x00" in failing
    assert next(tmp_path.iterdir()).read_bytes() == failing
    assert run.fuzz("picky", picky, [b"a" * 20], 1, seconds=5.0, save=None) == (count, failing)
    assert "picky: fails on" in capsys.readouterr().err
