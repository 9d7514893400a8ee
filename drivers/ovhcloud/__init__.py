"""Drives OVHcloud dedicated servers: a pool that is claimed and released, disks through rescue."""
