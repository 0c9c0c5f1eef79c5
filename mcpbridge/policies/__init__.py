"""Policies: what is checked, counted and limited around every exchange. One shape, a closure: ``policy(x, handler)``."""
