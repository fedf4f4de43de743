"""Measurements with peers beside us, in one run on one machine. docs/BENCHMARKS.md explains the tables.

throughput   one large file down and up, through several clients and servers
logins       logins a second, one after the other and many at once
server_copies   node to node beside our client's download
transfer_faults  managed transfers that something goes wrong under
measure      runs commands and reads what they cost
peers        starts servers on loopback, with free ports and a directory of their own
reaper       keeps the account of a server's processes complete
bare         the least a transfer can be: a sendfile loop and a receive loop
"""
