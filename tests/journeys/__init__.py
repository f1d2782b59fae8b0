"""Whole ways of notifications, in memory."""
