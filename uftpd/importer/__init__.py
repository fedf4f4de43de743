"""Reads the configuration of an upstream installation and writes ours (`uftpd import-config`).

Readers turn files into values with the line each came from; `auth_server` and `data_node` say what the values mean
here; `run` writes the files. Whatever is not carried over becomes a note that names its place and a remedy.
"""
