"""Measurements that need more than gnexec: run from a checkout, and in no wheel."""
