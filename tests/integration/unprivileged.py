"""Run a module without a right that is needed to run containers as other users: `python -m … MODULE [ARGUMENT ...]`.

The user stays, because another one may not be able to read the interpreter of the tests.
"""

import ctypes
import os
import sys

_PR_CAPBSET_DROP = 24
_CAP_SYS_PTRACE = 19

if __name__ == "__main__":
    if os.geteuid() == 0:
        assert ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_SYS_PTRACE, 0, 0, 0) == 0
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])
