"""The worker that is killed: `carillon run`, with a mutant and an aim of its failpoint if they are named."""

import os
import sys

from pipeline.cli import main
from tests.faults.aims import AIMS, aim_at
from tests.faults.mutants import MUTANTS

if mutant := os.environ.get("FAULTS_MUTANT"):
    MUTANTS[mutant].break_it()
if aim := os.environ.get("FAULTS_AIM"):
    aim_at(AIMS[aim])
main(["run", "--config", sys.argv[1]])
