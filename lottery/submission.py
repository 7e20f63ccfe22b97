"""The place that jobs queued by earlier versions name; `lottery.running.slurm.submission` is where it lies now."""

from lottery.running.slurm.submission import start as start
