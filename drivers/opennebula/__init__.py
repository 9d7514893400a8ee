"""Drives OpenNebula: oned over XML-RPC, disks through oneadmin's shell at the datastores."""
