"""Helpers for tests of a service and its clients: untrained adapters, and a real service in a child process."""
