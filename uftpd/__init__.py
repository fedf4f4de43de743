"""The servers of UFTP: data node (`uftpd.data`, `uftpd.session`), auth server (`uftpd.auth`), and both in one tree."""
