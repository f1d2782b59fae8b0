"""How hypothesis tries: a slow machine is no failure; HYPOTHESIS_PROFILE=thorough looks much longer."""

import os

from hypothesis import settings

settings.register_profile("carillon", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=3_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "carillon"))
