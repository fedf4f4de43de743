"""Loads what sessions need and could not load later: they may have no right to read a library's files any more.

The spawner imports this for its effect. NumPy, which delta sync needs, brings a linear algebra that nothing here uses
and that starts threads as it is loaded, and a process with threads must not fork: so it is told to start none.
"""

from __future__ import annotations

import os
from typing import Final

_THREADS: Final = "OPENBLAS_NUM_THREADS"
_before = os.environ.get(_THREADS)
os.environ[_THREADS] = "1"
try:
    import uftp.streams.delta
finally:
    if _before is None:
        del os.environ[_THREADS]
    else:
        os.environ[_THREADS] = _before

LOADED: Final = (uftp.streams.delta,)
