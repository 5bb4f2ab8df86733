/* Linear forms over what float32 made of a node (docs/bounds.md 3h): y is f(x) + v and y' is f'(x') + v', |v| <= e and
 * |v'| <= e', so that A y + D (y' - y) is the form over f(x) and f'(x') plus (A - D) v + D v'. */
#include "bound/backward_internal.h"

/* |A - D| e + |D| e' of one form; NULL: zero. */
static double moved_by(int64_t n, const double *a, const double *d, const double *e, const double *e_q) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) {
    double over_x = a == NULL ? 0 : a[i], over_d = d == NULL ? 0 : d[i];
    if (over_x != 0 || over_d != 0)
      sum += fabs(over_x - over_d) * (e == NULL ? 0 : e[i]) + fabs(over_d) * e_q[i];
  }
  return sum;
}

void qb_walk_evaluation(qb_walk *walk, qb_value_id value) {
  const qb_box_state *y = &walk->backward->box->states[value];
  const double *a = walk->coefficient[0][value], *d = walk->coefficient[1][value];
  const double *e = qb_backward_fault_planted == QB_BACKWARD_FAULT_EVALUATION ? NULL : y->evaluation[0];
  int64_t n = y->count;
  if (y->evaluation[1] == NULL)
    return;
  for (int64_t r = 0; r < walk->rows; r++) {
    const double *row = a == NULL ? NULL : a + r * n, *row_d = d == NULL ? NULL : d + r * n;
    double sum = walk->track == QB_TRACK_QUANTIZED ? moved_by(n, NULL, row, NULL, y->evaluation[1])
                                                   : moved_by(n, row, row_d, e, y->evaluation[1]);
    if (sum > 0)
      qb_walk_add_constant(walk, r, sum * (1 + ((double)n + 8) * DBL_EPSILON) + DBL_MIN);
  }
}
