"""What all tests need of the process that they run in."""

import signal


def pytest_configure(config):
    """Hear Ctrl-C even where the tests were started in the background, which ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
