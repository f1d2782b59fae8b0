"""Servers on loopback that speak as providers do, with faults to choose and a ledger of what they heard."""

from pipeline.simulator.simulator import Simulator

__all__ = ["Simulator"]
