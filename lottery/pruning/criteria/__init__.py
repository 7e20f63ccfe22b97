"""Criteria: how much each weight matters. A criterion is a function of the evidence; higher scores are kept."""

from lottery.pruning.criteria.gradients import snip as snip
from lottery.pruning.criteria.weights import magnitude as magnitude
from lottery.pruning.criteria.weights import random as random
