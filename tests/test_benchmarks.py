"""The benchmarks' stopwatch: their figures come from it, and no test is among them."""

from tests.benchmarks import compare, in_its_process


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


def a_number(seconds: float):
    return lambda: seconds


def test_a_side_can_have_a_process_of_its_own():
    side = in_its_process(a_number, 2.5)
    assert side() == side() == 2.5
    assert compare("how long", lambda: 1.0, {"peer": side}, rounds=1)["peer"].median == 2.5
