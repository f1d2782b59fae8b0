"""The worker that is killed: `carillon run`, with a mutant if one is named."""

import os
import sys

from pipeline.cli import main
from tests.faults.mutants import MUTANTS

if mutant := os.environ.get("FAULTS_MUTANT"):
    MUTANTS[mutant].break_it()
main(["run", "--config", sys.argv[1]])
