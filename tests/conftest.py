"""What every test shares: how hard hypothesis looks. Fixtures live beside the tests that use them.

Profiles: `dev` is quick; `ci` (chosen when `CI` is set) looks longer. Neither asserts a time: no deadline, and a slow
machine is not a failing test. `HYPOTHESIS_PROFILE` names one by hand.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("dev", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci", deadline=None, max_examples=300, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))
