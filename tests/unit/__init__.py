"""Stages and tables by themselves."""
