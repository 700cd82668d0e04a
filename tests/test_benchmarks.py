"""The benchmarks' stopwatch: their figures come from it, and no test is among them."""

from pathlib import Path

import pytest

from tests.benchmarks import compare, header, in_its_process


def test_a_ratio_is_of_one_round_and_the_sides_take_turns(capsys):
    calls, own, theirs = [], iter([1.0, 2.0, 4.0]), iter([3.0, 4.0, 20.0])

    def ours():
        calls.append("ours")
        return next(own)

    def peer():
        calls.append("peer")
        return next(theirs)

    ratios = compare("how long", ours, {"peer": peer}, rounds=3, warm_up=False)
    assert tuple(ratios["peer"]) == (3.0, 2.0, 5.0)
    assert calls == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert "peer: 4 s, 3.00 [2.00, 5.00] times ours" in capsys.readouterr().out


def test_a_side_without_a_time_of_its_own_is_timed():
    ratios = compare("how long", lambda: 1e-9, {"peer": lambda: None}, rounds=1)
    assert ratios["peer"].median > 1


def test_the_header_names_the_machine_and_the_versions(capsys):
    header("numpy")
    out = capsys.readouterr().out
    assert "load average" in out and "numpy " in out


def test_no_benchmark_is_collected_as_a_test():
    assert not list((Path(__file__).parent / "benchmarks").glob("test_*"))
    with pytest.raises(ValueError, match="another name"):
        compare("how long", lambda: None, {"ours": lambda: None})


def a_number(seconds: float):
    return lambda: seconds


def test_a_side_can_have_a_process_of_its_own():
    side = in_its_process(a_number, 2.5)
    assert side() == side() == 2.5
    assert compare("how long", lambda: 1.0, {"peer": side}, rounds=1)["peer"].median == 2.5
