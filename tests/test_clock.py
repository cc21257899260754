"""Every second belongs to one phase."""

import pytest

from owpo import clock as clock_module
from owpo.clock import PhaseClock


@pytest.fixture
def time(monkeypatch):
    """Seconds that pass when the test says so: on the wall, of the processor."""
    now = [100.0, 10.0]
    monkeypatch.setattr(clock_module, "_now", lambda: tuple(now))

    def passes(wall, cpu=0.0):
        now[0] += wall
        now[1] += cpu

    return passes


def test_a_phase_inside_another_takes_its_seconds_from_it(time):
    clock = PhaseClock()
    time(1, 0.5)
    with clock("sampling"):
        time(2, 4)
        with clock("verifying"):
            time(8, 0.25)
        time(16, 1)
    time(32)
    with clock("sampling"):
        time(64)
    assert clock.seconds == {"sampling": 2 + 16 + 64, "verifying": 8}
    assert clock.cpu_seconds == {"sampling": 4 + 1, "verifying": 0.25}
    assert clock.total() == (1 + 2 + 8 + 16 + 32 + 64, 0.5 + 4 + 0.25 + 1)


def test_an_error_ends_the_phase(time):
    clock = PhaseClock()
    with pytest.raises(KeyError), clock("outer"), clock("inner"):
        time(1)
        raise KeyError
    time(2)
    with clock("outer"):
        time(4)
    assert clock.seconds == {"inner": 1, "outer": 4}
