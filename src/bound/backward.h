/* Backward linear relaxation of one network or of the difference of two (CROWN style), sound in floating point.
 *
 * A row is a linear form over one tensor: of x, of x', or of x' - x. It is carried back to the input through the
 * nodes of the quantized graph. For x' - x it becomes sum A a + D d + k with a of the original network and d = a' - a:
 *   linear layer   A <- A W + D (W' - W), D <- D W', k <- k + A b + D (b' - b);
 *   activation     the planes of kink.h above A y + D (y' - y);
 *   other nodes    exact where linear, else the intervals of the box.
 * Coefficients are doubles taken as they are; what a substitution loses to rounding is bounded by gamma |A| |W| max|a|
 * and added to the constant (docs/bounds.md). */
#ifndef QB_BOUND_BACKWARD_H
#define QB_BOUND_BACKWARD_H

#include "bound/box.h"

typedef struct qb_backward qb_backward;

/* Prepares the weights of a pair, which is borrowed; three doubles per parameter. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_backward_create(const qb_pair *pair, qb_backward **backward, qb_error *error);
void qb_backward_free(qb_backward *backward);

/* Starts with another box: forgets all planes. `box` is borrowed; the states of a node's inputs must not change any
 * more once a form was carried through it. */
void qb_backward_begin(qb_backward *backward, const qb_box_result *box);

/* The pair it was made for. */
const qb_pair *qb_backward_pair(const qb_backward *backward);

typedef struct qb_rows {
  qb_value_id value; /* of the quantized graph */
  int track;         /* QB_TRACK_*: which of x, x', x' - x the forms are over */
  int64_t count;
  const int64_t *element; /* (count) unit rows: sign[i] times this element; NULL for dense rows */
  const double *sign;     /* (count) */
  const double *dense;    /* (count, elements of value) when element is NULL */
  bool joint;             /* planes for A y + D (y' - y) as a whole, per row: tighter and slower */
  bool smear;             /* of unit rows: remember how much of each element's width is each input's */
  int32_t turns;          /* with `joint`, of differences: so often, as long as it pays, form each row once more with
                             planes that are lowest nearer to where it was largest. Each row gets its smallest bound */
  double deadline;        /* of qb_clock_seconds, 0: none. Rows that were not begun by then get infinity */
  double *at_input;       /* (count, input elements + 1) receives the forms over the input that are above the rows, and
                             their constants; NULL: not asked for */
  double **score; /* of a single row: by value, NULL or (elements), to which is added what the planes of undecided
                     elements are away from the functions, times their coefficients; NULL: not asked for */
} qb_rows;

/* upper[i] >= row i over the box, at least as large as any value it takes. When `influence` (input elements) is not
 * NULL it receives how much each input's width contributes, summed over the rows: its share of the linear form at the
 * input, and of what the planes of undecided elements are away from these, as far as `smear` was asked for them. The
 * result does not depend on the number of threads. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_backward_upper(qb_backward *backward, const qb_rows *rows, double *upper, double *influence,
                                          qb_error *error);

/* One side of a cut across an element of a tensor, in one of the networks: x >= at (above) or x <= at, both closed, so
 * that the two sides cover everything. */
typedef struct qb_ball_cut {
  qb_value_id value; /* of the quantized graph */
  int64_t element;
  int track; /* QB_TRACK_ORIGINAL or QB_TRACK_QUANTIZED */
  double at;
  bool above;
} qb_ball_cut;

enum { QB_MOST_HALVES = 64 };

/* Rows that come hold on the part of the box where this is so; of more than QB_MOST_HALVES of a box the first ones are
 * used. *room: the part is empty when it is negative. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_backward_restrict(qb_backward *backward, const qb_ball_cut *cut, double *room,
                                             qb_error *error);

/* How many rows the last call left out because its deadline had passed. */
int64_t qb_backward_missed(const qb_backward *backward);

/* How often the last call turned planes, at most over its rows. */
int32_t qb_backward_turns(const qb_backward *backward);

/* Whether a form over the value crosses an activation on its way to the input; if not, intervals are as good. */
bool qb_backward_crosses(const qb_backward *backward, qb_value_id value);

/* Whether an activation with kinks reads the value directly. */
bool qb_backward_precedes_kink(const qb_backward *backward, qb_value_id value);

/* The elements of `value` for which an activation that reads it directly has a kink within the intervals, written to
 * `element` (elements of value); returns their number. */
int64_t qb_backward_unstable(const qb_backward *backward, qb_value_id value, int64_t *element);

/* The slopes of an undecided element of a kinked node: of the lines above y, -y, y', -y' (over x or x'), and of the
 * planes above y' - y and y - y' (over x, then over x' - x). */
typedef struct qb_slopes {
  qb_node_id node;
  int64_t element;
  double slope[8];
} qb_slopes;

/* The planes of the current box that forms were carried through; returns their number and writes them to `list` unless
 * it is NULL. */
int64_t qb_backward_slopes(const qb_backward *backward, qb_slopes *list);

/* About how many multiplications one row over the value costs on its way back. */
double qb_backward_row_cost(const qb_backward *backward, qb_value_id value);

#endif
