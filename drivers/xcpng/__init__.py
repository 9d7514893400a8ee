"""Drives XCP-ng: XAPI over XML-RPC, disks over its HTTP and NBD."""
