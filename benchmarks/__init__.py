"""Measurements that print ratios; tests never assert on time."""
