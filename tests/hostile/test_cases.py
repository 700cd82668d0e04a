"""The tests of hostile input themselves: there are enough cases, and what goes wrong in one is noticed."""

import time

import pytest
from hypothesis import find

from ham_hf.system.errors import InputError
from tests.hostile import test_cards, test_images, test_models, test_recipes, test_tables, test_zips
from tests.hostile.cases import broken, declared, ends_well, tally, within

MODULES = (test_cards, test_images, test_models, test_recipes, test_tables, test_zips)


def test_there_are_at_least_two_thousand_generated_cases():
    assert all(module.__doc__ for module in MODULES)  # imported, and so their cases are declared
    assert sum(declared) >= 2000


def test_another_exception_than_input_error_fails_and_so_does_a_hang():
    with pytest.raises(ZeroDivisionError):
        ends_well("tests of the tests", lambda: 1 / 0)
    with pytest.raises(AssertionError, match="took longer"), within(0.05):
        time.sleep(5)
    before = tally.copy()

    def refuse():
        raise InputError("no")

    assert ends_well("tests of the tests", refuse) is None and ends_well("tests of the tests", lambda: 5) == 5
    assert (tally - before).total() == 2
    for outcome in ("read", "refused"):
        del tally["tests of the tests", outcome]


@pytest.mark.parametrize("part", [range(0, 100), range(400, 600), range(900, 1024)])
def test_files_are_broken_at_their_beginning_middle_and_end(part):
    original = bytes(range(256)) * 4

    def only_there(data: bytes) -> bool:
        changed_at = {at for at, byte in enumerate(data) if at < 1024 and byte != original[at]}
        return len(data) == 1024 and changed_at and changed_at <= set(part)

    find(broken(original), only_there)
    find(broken(original), lambda data: len(data) in part and original.startswith(data))
