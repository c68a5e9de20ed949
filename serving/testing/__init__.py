"""Doubles for tests of a service and of what uses one: adapters that learnt nothing, and a real service in a child."""
