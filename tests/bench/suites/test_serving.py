"""What goes on beside the load of the serving suite."""

import time

import pytest

from fourshot.bench.suites.serving.traffic import Background


class Failing(Background):
    def step(self) -> None:
        raise OSError("no space left")


def test_what_fails_beside_the_load_ends_the_measurement() -> None:
    """Adapters that no longer come and go, or memory that is no longer looked at, would be measured as if they were."""
    with pytest.raises(OSError, match="no space left"), Failing(every_s=0.01):
        time.sleep(0.2)
