"""`uftpd standalone`: auth server and data nodes in one process tree, without any configuration by hand.

options      what was asked for, checked
state        the state directory: authority, certificates, accounts, configuration files
supervisor   the processes: started, watched, ended together
announce     what is printed when everything serves
"""
