/* One ball: what is proved on a box of inputs within a budget, and what a search finds there. */
#ifndef QB_API_BALL_CALL_H
#define QB_API_BALL_CALL_H

#include "base/arena.h"
#include "base/progress.h"
#include "bound/refine.h"
#include "report/certificate_balls.h"

/* Multiplications that a second is taken for when a budget in seconds is turned into work: slower than any processor
 * of this kind, the same everywhere, so that certificates do not depend on the machine. */
#define QB_BALL_RATE 2e9

typedef struct qb_ball_budget {
  double seconds;
  bool relaxes;       /* the relaxation of all outputs is affordable */
  bool decides;       /* so are the margins; else intervals decide */
  double hidden_work; /* left for hidden layers */
} qb_ball_budget;

/* Plans for a pair; `seconds` as the settings say, `output` as below. */
qb_ball_budget qb_ball_plan(const qb_pair *pair, double seconds, int64_t output);

/* What one ball is bounded with. */
typedef struct qb_ball_call {
  const qb_pair *pair;
  qb_backward *backward; /* NULL when the budget does not allow the relaxation */
  qb_ball_budget budget;
  double interval_seconds; /* intervals, where nothing else is affordable, may take so long; 0: for ever */
  double point_seconds;    /* exact evaluation at a point may take so long, else another method follows; 0: for ever */
  int64_t output;          /* -1: all */
  bool cut_neurons;        /* cut balls of many inputs up, too, until the budget's seconds are over */
  int64_t keep_slopes;     /* keep the slopes of a ball that has no more of them than these */
  int threads;
  const qb_progress *progress; /* may be NULL */
} qb_ball_call;

/* Bounds a box. `enough`: a bisection may stop at this bound. Results live in `arena`. QB_ERROR_MEMORY,
 * QB_ERROR_NUMERIC. */
QB_MUST_CHECK qb_status qb_ball_prove(const qb_ball_call *call, const qb_domain *domain, double enough, qb_arena *arena,
                                      qb_ball_proof *proof, qb_error *error);

#endif
