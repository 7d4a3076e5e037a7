"""What holds for all tests: one thread a process, as `make test` has it, and no time limits of hypothesis."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Before torch is imported: a process that is forked from one with more threads hangs in its first sum.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Other work may run beside the tests.
settings.register_profile("mlc", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mlc")
