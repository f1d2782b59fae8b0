"""Benchmarks: commands that measure Carillon beside other ways of doing the same job."""
