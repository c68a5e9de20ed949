"""What goes on beside the load of the serving suite."""

import time

import pytest

from fourshot.bench.suites.serving.traffic import every, memory_growth


def test_what_fails_beside_the_load_ends_the_measurement() -> None:
    """Adapters that no longer come and go, or memory that is no longer looked at, would be measured as if they were."""

    def fail() -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), every(0.01, fail):
        time.sleep(0.2)


def test_memory_grows_from_the_second_quarter_to_the_last() -> None:
    samples = [(float(second), size) for second, size in enumerate([1, 2, 100, 102, 300, 300, 110, 112])]
    assert memory_growth(samples) == pytest.approx(111 / 101 - 1)
