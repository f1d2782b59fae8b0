"""How hypothesis tries: a slow machine is no failure."""

from hypothesis import settings

settings.register_profile("carillon", deadline=None)
settings.load_profile("carillon")
