"""The tenant whose rows the service reads and writes: so far every installation has one."""

TENANT = "default"
