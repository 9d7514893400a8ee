"""Drives Proxmox VE: its API through proxmoxer, its disks through the node's shell."""
