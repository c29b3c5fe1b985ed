"""Tables of cases as a test's parameter ``case``."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest


def each_of(*tables: Sequence[Any]) -> pytest.MarkDecorator:
    """The cases of all these tables, by their names, of which none occurs twice; none of the tables is empty."""
    cases = [case for table in tables for case in table]
    twice = [name for name, times in Counter(case.name for case in cases).items() if times > 1]
    assert all(tables) and not twice, twice
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])
