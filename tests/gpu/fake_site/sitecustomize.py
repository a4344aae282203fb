"""Puts the fake driver in place of the real one in every Python process that has this folder in its path, and makes the
suite's facts small. Python imports a module of this name when it starts."""

from fake_driver import FakeDriver

import convc.runtime.driver as driver
from bench.gpu import device, facts

FAKE = FakeDriver()
driver.bindings = lambda: FAKE
device.FLUSH_BYTES = facts.COPY_BYTES = 1 << 12
facts.READ_STEPS, facts.GAP_LAUNCHES, facts.MATRIX_TYPES = (1,), 3, ()
