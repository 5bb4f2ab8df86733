/* Certificates on a box of inputs: how far the quantized output can be from the original one, with sign, and whether
 * the decision can change (theory sections 3.3 and 3.4).
 *
 * Intervals first (box.h), tightened layer by layer at the elements whose activation is undecided by backward
 * relaxations of x, x' and x' - x (backward.h); then one relaxation per output. Every number is the best of all. */
#ifndef QB_BOUND_BALL_H
#define QB_BOUND_BALL_H

#include "base/progress.h"
#include "bound/ball_cut.h"
#include "bound/interval.h"

typedef struct qb_ball_settings {
  double hidden_work;     /* multiplications that hidden layers may cost, 0: intervals only there; default 4e11 */
  bool joint;             /* planes per output row: tighter; default true */
  int32_t turns;          /* so often planes are turned towards where each output's form is largest; default 2 */
  int64_t output;         /* when not negative: relax the difference of this output alone; default -1 */
  int64_t keep_slopes;    /* keep the slopes when there are not more of them; default 0 */
  bool decide;            /* also bound the margins of the largest output; default false */
  double timeout_seconds; /* 0, the default: none. Else hidden layers, and at the end outputs, are left to intervals so
                           * that the call takes about so long: the result then depends on the machine */
  const qb_progress *progress; /* of long balls; default NULL */
  const qb_box_result *known;  /* intervals of a box around this one, which hold here, too; default NULL */
  const qb_ball_cut *cuts;     /* (cut_count) the part of the box where all of these hold; default none. With `known`
                                * layers in front of the first of them are left as they are known */
  int64_t cut_count;
  bool find_cuts; /* also say which cut promises most; default false */
} qb_ball_settings;

qb_ball_settings qb_ball_settings_default(void);

typedef struct qb_ball {
  bool applies;
  char why[200];         /* the node without a rule when it does not apply */
  int64_t count;         /* elements of the first output */
  qb_interval *original; /* (count) ranges of the outputs over the box */
  qb_interval *quantized;
  qb_interval *difference; /* (count) of quantized - original */
  double largest;          /* magnitude of any tensor's element in the original network, where finite */
  int64_t top;             /* the output whose interval has the largest middle */
  bool keeps_top;          /* proved: `top` is the strictly largest output of both networks on the whole box */
  double hidden_skipped;   /* elements of hidden layers left to intervals for lack of work or time */
  bool late;               /* something was, for lack of time */
  double hidden_work;      /* multiplications that hidden layers cost, about */
  bool empty;              /* proved: no input of the box lies in the part; nothing else is said then */
  bool has_cut[2];         /* found: a cut for the largest difference; one for the decision, where that is open */
  qb_ball_cut cut[2];
  bool *relaxed;         /* (nodes of the quantized graph) undecided elements of its output were relaxed */
  int64_t slope_count;   /* 0 also when they were more than asked for */
  qb_slopes *slopes;     /* (slope_count) of the planes that forms were carried through */
  int32_t turns;         /* how often planes were turned, at most over the outputs */
  int64_t from_interval; /* outputs where plain intervals were the best on some side */
  double *influence;     /* (inputs) how much each input's width contributes to the relaxation of outputs */
  int64_t input_count;
  qb_arena arena;
} qb_ball;

/* Bounds the pair of `backward` on a domain. A node without a rule makes it not apply, which is no error.
 * QB_ERROR_SHAPE, QB_ERROR_MEMORY, QB_ERROR_NUMERIC (unsafe floating-point environment), QB_ERROR_INTERRUPTED (by
 * the progress). Release with qb_ball_free in
 * every case. */
QB_MUST_CHECK qb_status qb_bound_ball(qb_backward *backward, const qb_domain *domain, const qb_ball_settings *settings,
                                      qb_ball *ball, qb_error *error);

/* The same, and keeps the intervals of every tensor in `box`, to be released with qb_box_result_free. */
QB_MUST_CHECK qb_status qb_bound_ball_kept(qb_backward *backward, const qb_domain *domain,
                                           const qb_ball_settings *settings, qb_ball *ball, qb_box_result *box,
                                           qb_error *error);
void qb_ball_free(qb_ball *ball);

#endif
