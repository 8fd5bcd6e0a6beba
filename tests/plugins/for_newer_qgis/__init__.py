"""Is not to be loaded."""

raise AssertionError("this must not be imported")
