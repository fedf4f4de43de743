"""What holds for all tests: Hypothesis tries the same examples each time, and no test depends on a fast machine."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
# For a search of its own: pytest --hypothesis-profile=explore
settings.register_profile("explore", deadline=None, max_examples=5_000)
settings.load_profile("repeatable")
