"""The solvers by their names."""

from __future__ import annotations

from collections.abc import Mapping

from easyanim_server.domain.profiles import Solver as SolverName
from easyanim_server.engine.solvers.base import Solver
from easyanim_server.engine.solvers.ddim import DDIM
from easyanim_server.engine.solvers.dpmpp_2m import DPMpp2M
from easyanim_server.engine.solvers.euler import Euler
from easyanim_server.engine.solvers.unipc import UniPC

_ALL: tuple[Solver, ...] = (Euler(), UniPC(), DPMpp2M(), DDIM())

SOLVERS: Mapping[SolverName, Solver] = {solver.name: solver for solver in _ALL}
