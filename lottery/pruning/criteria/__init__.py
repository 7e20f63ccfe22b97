"""Criteria: functions from evidence to a score for each weight; the highest scores are kept."""

from lottery.pruning.criteria.ablations import corrupted as corrupted
from lottery.pruning.criteria.ablations import inverted as inverted
from lottery.pruning.criteria.activations import wanda as wanda
from lottery.pruning.criteria.curvature import obd as obd
from lottery.pruning.criteria.curvature import obs as obs
from lottery.pruning.criteria.features import activation_statistics as activation_statistics
from lottery.pruning.criteria.features import apoz as apoz
from lottery.pruning.criteria.features import taylor_features as taylor_features
from lottery.pruning.criteria.features import variance as variance
from lottery.pruning.criteria.filters import batch_norm_scale as batch_norm_scale
from lottery.pruning.criteria.filters import fpgm as fpgm
from lottery.pruning.criteria.flow import grasp as grasp
from lottery.pruning.criteria.flow import synflow as synflow
from lottery.pruning.criteria.gradients import fisher as fisher
from lottery.pruning.criteria.gradients import snip as snip
from lottery.pruning.criteria.gradients import taylor as taylor
from lottery.pruning.criteria.gradients import taylor_magnitude as taylor_magnitude
from lottery.pruning.criteria.start import large_initial as large_initial
from lottery.pruning.criteria.start import magnitude_increase as magnitude_increase
from lottery.pruning.criteria.start import movement as movement
from lottery.pruning.criteria.start import opposite_sign as opposite_sign
from lottery.pruning.criteria.start import same_sign as same_sign
from lottery.pruning.criteria.weights import magnitude as magnitude
from lottery.pruning.criteria.weights import random as random
from lottery.pruning.criteria.weights import small_final as small_final
