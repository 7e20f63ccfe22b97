"""The place that batch scripts of earlier versions name; `lottery.running.slurm.preemption` is where it lies now."""

import runpy

if __name__ == "__main__":
    runpy.run_module("lottery.running.slurm.preemption", run_name="__main__")
