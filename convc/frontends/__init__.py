"""Readers of networks: each turns something that users have into a `Graph`."""
