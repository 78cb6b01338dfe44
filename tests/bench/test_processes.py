"""Clocks and cores: what the validity of every figure rests on."""

import os
import time

from bench.processes import Meter, cpu_ns, pinned, running

SPIN = "print('ready', flush=True)\nwhile True: pass"


def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_the_kernels_clock_of_a_process_is_the_one_it_reads_itself():
    before = time.process_time_ns()
    seen = cpu_ns(os.getpid())
    assert before <= seen <= time.process_time_ns()


def test_a_process_begins_on_its_core_and_the_starter_goes_on_where_it_was(cores):
    mine = os.sched_getaffinity(0)
    with running(("-c", SPIN), cores.tested) as process:
        assert os.sched_getaffinity(process.pid) == {cores.tested}
        assert os.sched_getaffinity(0) == mine


def test_the_meter_knows_the_tested_process_our_own_work_and_strangers(cores):
    with running(("-c", SPIN), cores.tested) as tested, running(("-c", SPIN), cores.tested) as stranger:
        assert tested.stdout.readline() == stranger.stdout.readline() == "ready\n"
        with pinned(cores.load):
            meter = Meter(cores, tested=tested.pid, upstream=stranger.pid)
            burn(0.05)  # before the start: does not count
            meter.start()
            burn(0.3)
            meter.stop()
            alone = Meter(cores, tested=tested.pid, upstream=tested.pid)
            alone.start()
            burn(0.3)
            alone.stop()
        usage, foreign = meter.usage(), alone.usage().foreign
    assert 0 < usage.tested_cpu <= usage.seconds
    assert usage.seconds >= 0.3
    assert usage.idle <= 1 - 0.3 / usage.seconds
    assert foreign > 0.1  # the stranger shares the tested process' core
