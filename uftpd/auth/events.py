"""The auth server's part of the log."""

from __future__ import annotations

import logging

from uftpd.events import EventLog

event = EventLog("auth")
logger = logging.getLogger("uftpd.auth")  # for tracebacks: logger.exception
