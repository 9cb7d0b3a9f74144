"""What all captures of CUDA graphs in a process share."""

import threading

ONE_AT_A_TIME = threading.Lock()
"""A capture waits for the whole device first, which would break one that another thread is at."""

ERROR_MODE = "thread_local"
"""Other threads' networks go on during a capture, and take memory as they need it."""
