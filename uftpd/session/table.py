"""The command table: what each verb does, the right it needs, and where it runs.

The right is checked in one place, before the handler runs (`uftpd.session.control`), so that no command can lack it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from uftp.protocol.command_port import Access
from uftp.protocol.replies import Reply
from uftp.streams import Meter
from uftpd.session import archive_command, copy_commands, record_commands, sync_command, transfers
from uftpd.session import control_commands as control
from uftpd.session import file_commands as files
from uftpd.session import record_transfers as records
from uftpd.session.record_transfers import Exchange
from uftpd.session.state import Session
from uftpd.session.transfers import Client

OnLoop = Callable[[Session, bytes], Reply]
OnFiles = Callable[[Session, bytes], Reply]
Hashing = Callable[[Session, bytes, Meter], Reply]
Moving = Callable[[Session, bytes, Client], Awaitable[None]]
Asking = Callable[[Session, bytes], Awaitable[Reply]]
Recorded = Callable[[Exchange, bytes], None]


@dataclass(frozen=True, slots=True)
class Command:
    """One row.

    Attributes:
        right: the access level it needs.
        quick: touches only state; runs on the loop.
        files: touches files, blocks, runs in a thread.
        hashing: as `files`, for long; shows progress and can be stopped.
        moving: uses data connections; sends its own replies.
        asking: asks the front; runs on the loop and waits there.
        records: how it moves its data in MODE U, in a pipeline's thread.
        argument: whether it makes no sense without one.
    """

    right: Access
    quick: OnLoop | None = None
    files: OnFiles | None = None
    hashing: Hashing | None = None
    moving: Moving | None = None
    asking: Asking | None = None
    records: Recorded | None = None
    argument: bool = False


_NONE, _INFO, _READ, _WRITE, _FULL = Access.NONE, Access.INFO, Access.READ, Access.WRITE, Access.FULL

COMMANDS: Final[dict[str, Command]] = {
    "ABOR": Command(_NONE, quick=control.abort_idle),
    "ALLO": Command(_WRITE, quick=control.allocate, argument=True),
    "APPE": Command(_WRITE, moving=transfers.append, records=records.append, argument=True),
    "BYE": Command(_NONE, quick=control.quit_session),
    "CDUP": Command(_NONE, files=files.change_directory_up),
    "CLNT": Command(_NONE, quick=control.client_name),
    "CWD": Command(_INFO, files=files.change_directory, argument=True),
    "DELE": Command(_FULL, files=files.delete, argument=True),
    "EPRT": Command(_NONE, quick=control.no_active_mode),
    "EPSV": Command(_NONE, moving=transfers.extended_passive_mode),
    "FEAT": Command(_NONE, quick=control.feat),
    "HASH": Command(_READ, hashing=files.hash_of, argument=True),
    "HELP": Command(_NONE, quick=control.help_text),
    "KEEP-ALIVE": Command(_NONE, quick=control.keep_alive, argument=True),
    "LIST": Command(_INFO, moving=transfers.list_directory, records=records.list_directory),
    "MDTM": Command(_INFO, files=files.modification_time, argument=True),
    "MFF": Command(_WRITE, files=files.set_facts, argument=True),
    "MFMT": Command(_WRITE, files=files.set_time, argument=True),
    "MKD": Command(_WRITE, files=files.make_directory, argument=True),
    "MLSD": Command(_INFO, moving=transfers.list_machine, records=records.list_machine),
    "MLST": Command(_INFO, files=files.machine_status),
    "MODE": Command(_NONE, quick=record_commands.transfer_mode, argument=True),
    "NLST": Command(_INFO, moving=transfers.list_names, records=records.list_names),
    "NOOP": Command(_NONE, quick=control.noop),
    "OPTS": Command(_NONE, quick=control.options),
    "PASV": Command(_NONE, moving=transfers.passive_mode),
    "PORT": Command(_NONE, quick=control.no_active_mode),
    "PWD": Command(_INFO, quick=control.print_directory),
    "QUIT": Command(_NONE, quick=control.quit_session),
    "RANG": Command(_NONE, quick=control.set_range, argument=True),
    "RCP-ABORT": Command(_INFO, asking=copy_commands.abort, argument=True),
    "RCP-ERRORS": Command(_INFO, asking=copy_commands.errors, argument=True),
    "RCP-FETCH": Command(_WRITE, asking=copy_commands.fetch, argument=True),
    "RCP-STATUS": Command(_INFO, asking=copy_commands.status, argument=True),
    "RECEIVE-FILE": Command(_WRITE, asking=copy_commands.receive_file, argument=True),
    "REST": Command(_NONE, quick=control.restart, argument=True),
    "RETR": Command(_READ, moving=transfers.retrieve, records=records.retrieve, argument=True),
    "RMD": Command(_FULL, files=files.remove_directory, argument=True),
    "RNFR": Command(_WRITE, quick=control.rename_from, argument=True),
    "RNTO": Command(_WRITE, files=files.rename_to, argument=True),
    "SEND-FILE": Command(_READ, asking=copy_commands.send_file, argument=True),
    "SITE": Command(_WRITE, files=files.site, argument=True),
    "SIZE": Command(_INFO, files=files.size, argument=True),
    "STAT": Command(_INFO, files=files.file_status),
    "STOR": Command(
        _WRITE,
        moving=archive_command.store_or_unpack,
        records=archive_command.store_or_unpack_records,
        argument=True,
    ),
    "STRU": Command(_NONE, quick=control.file_structure, argument=True),
    "SYNC-TO-CLIENT": Command(_READ, moving=sync_command.sync_to_client, argument=True),
    "SYNC-TO-SERVER": Command(_WRITE, moving=sync_command.sync_to_server, argument=True),
    "SYST": Command(_NONE, quick=control.syst),
    "TYPE": Command(_NONE, quick=control.transfer_type, argument=True),
}
# RFC 775's names, which some clients still send.
COMMANDS.update({"X" + verb: COMMANDS[verb] for verb in ("PWD", "CWD", "MKD", "RMD")}, XCUP=COMMANDS["CDUP"])
