"""The copy engine: what goes where, in which pieces, carried by which sessions, and what came of it.

Import from its modules: loading all of them here would make every start slow. What others may use is in `uftp`.
"""

__all__: list[str] = []
