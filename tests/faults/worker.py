"""The worker that is killed: `carillon run`, with a mutant and an aim of its failpoint if they are named."""

import os
import sys

from pipeline.cli import main
from tests.faults.aims import AIMS, aim_at
from tests.faults.mutants import MUTANTS, OF_DELIVERY

if mutant := os.environ.get("FAULTS_MUTANT"):
    (MUTANTS | OF_DELIVERY)[mutant].break_it()
if aim := os.environ.get("FAULTS_AIM"):
    aim_at(AIMS[aim])
role = sys.argv[2] if len(sys.argv) > 2 else ""
main(["run", "--config", sys.argv[1], *(["--role", role] if role else [])])
