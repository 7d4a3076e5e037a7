"""What holds for all tests: hypothesis sets no time limits, since other work may run beside them."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("mlc", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mlc")
