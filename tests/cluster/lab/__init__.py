"""A Docker fleet on one Linux machine, to test what is deployed to a fleet.

A node is a process tree with its own network, mounts, process ids, host name and cgroup, on an overlay over one
shared Debian 12 tree. sshd and dockerd run inside: Ansible over SSH takes it for a bare machine, and what it installs
or writes stays in that node. `python -m tests.cluster.lab --help` lists the commands; README.md beside this says more.
"""
