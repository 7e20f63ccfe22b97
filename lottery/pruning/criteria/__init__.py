"""Criteria: functions from evidence to a score for each weight; the highest scores are kept."""

from lottery.pruning.criteria.gradients import snip as snip
from lottery.pruning.criteria.weights import magnitude as magnitude
from lottery.pruning.criteria.weights import random as random
