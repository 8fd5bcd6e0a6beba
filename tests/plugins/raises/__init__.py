"""A server plugin that needs what is not there."""

import no_such_module  # noqa: F401


def serverClassFactory(interface):
    return object()
