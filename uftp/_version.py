"""The version of both packages; the servers greet with it."""

from typing import Final

__version__: Final = "0.1.0"
