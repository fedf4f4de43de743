"""The client's side of a session: credentials, REST calls, FTP sessions, operations on remote files.

Import from its modules: loading all of them here would make every start slow. What others may use is in `uftp`.
"""

__all__: list[str] = []
