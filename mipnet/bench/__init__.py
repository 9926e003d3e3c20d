"""Benchmarks: the fast path beside a plain reference of the same work, in turns, in one process."""
