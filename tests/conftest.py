"""What holds for all tests."""

from hypothesis import settings

# A deadline for each example is a timed assertion: on a busy machine it fails for no fault of the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
