"""The bench's own processes, started once."""

import os

import pytest

from bench import targets
from bench.processes import Cores


@pytest.fixture(scope="session")
def cores():
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[-1])


@pytest.fixture(scope="session")
def upstream(cores):
    with targets.upstream(cores) as upstream:
        yield upstream


@pytest.fixture(scope="session")
def bare(cores, upstream):
    with targets.bare_pipeline(cores, upstream) as bare:
        yield bare
