/* The names of choices, as the command line and JSON write them. */
#include <qbound/qbound.h>

const char *qb_scheme_name(qb_scheme scheme) {
  switch (scheme) {
  case QB_SCHEME_ROUND: return "round";
  case QB_SCHEME_UNIFORM: return "uniform";
  case QB_SCHEME_ADAROUND: return "adaround";
  case QB_SCHEME_GPTQ: return "gptq";
  case QB_SCHEME_STOCHASTIC: return "stochastic";
  }
  return "unknown";
}

const char *qb_granularity_name(qb_granularity granularity) {
  return granularity == QB_PER_TENSOR ? "tensor" : granularity == QB_PER_CHANNEL ? "channel" : "unknown";
}

const char *qb_grid_choice_name(qb_grid_choice grid) {
  return grid == QB_GRID_MINMAX   ? "minmax"
         : grid == QB_GRID_MSE    ? "mse"
         : grid == QB_GRID_OUTPUT ? "output"
                                  : "unknown";
}

const char *qb_range_rule_name(qb_range_rule rule) {
  return rule == QB_RANGE_MINMAX       ? "minmax"
         : rule == QB_RANGE_PERCENTILE ? "percentile"
         : rule == QB_RANGE_MSE        ? "mse"
                                       : "unknown";
}

const char *qb_solver_name(qb_solver solver) {
  return solver == QB_SOLVER_DESCENT ? "descent" : solver == QB_SOLVER_GRADIENT ? "gradient" : "unknown";
}

const char *qb_equalization_name(qb_equalization equalize) {
  return equalize == QB_EQUALIZATION_NONE    ? "none"
         : equalize == QB_EQUALIZATION_RANGE ? "range"
         : equalize == QB_EQUALIZATION_L1    ? "l1"
                                             : "unknown";
}

const char *qb_bias_correction_name(qb_bias_correction correction) {
  return correction == QB_BIAS_KEEP   ? "none"
         : correction == QB_BIAS_DATA ? "data"
         : correction == QB_BIAS_FREE ? "free"
                                      : "unknown";
}

const char *qb_layer_method_name(qb_layer_method method) {
  switch (method) {
  case QB_METHOD_FLOAT: return "float";
  case QB_METHOD_DIRECT: return "direct";
  case QB_METHOD_CALIBRATED: return "calibrated";
  case QB_METHOD_NEAREST: return "nearest";
  case QB_METHOD_UNSUPPORTED: return "unsupported";
  }
  return "unknown";
}

const char *qb_promise_name(qb_promise promise) {
  switch (promise) {
  case QB_PROMISE_AVERAGE_BITS: return "average bits";
  case QB_PROMISE_SIZE: return "size";
  case QB_PROMISE_FLIP_RATE: return "flip rate";
  case QB_PROMISE_MAX_ERROR: return "max error";
  case QB_PROMISE_CERTIFIED_ERROR: return "certified error";
  }
  return "unknown";
}

const char *qb_allocation_rule_name(qb_allocation_rule rule) {
  switch (rule) {
  case QB_RULE_UNIFORM: return "uniform";
  case QB_RULE_CERTIFIED: return "certified";
  case QB_RULE_ACTIVATIONS: return "activations";
  case QB_RULE_MEASURED: return "measured";
  }
  return "unknown";
}
