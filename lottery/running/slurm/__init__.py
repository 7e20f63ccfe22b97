"""Slurm: its queue, the submission of jobs, and jobs that survive preemption."""
