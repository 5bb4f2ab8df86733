/* Planes that are chosen for one form: turned towards where it is largest.
 *
 * A bound is the maximum over the box of a form that the planes make; the best planes are those of a saddle point. From
 * the planes at the centres, the form's largest value lies at a corner x* of the box. The second form takes its planes
 * lowest at what both networks compute half way between the middle of the box and x*, one step of fictitious play. */
#include <omp.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/backward_internal.h"

enum { ROWS_AT_ONCE = 16 }; /* whose points are kept at once */

/* Inputs that a form hardly depends on stay in the middle: less than about this share of its largest part. Where a
 * coordinate goes is one of a few steps, so that another evaluation with its own rounding goes to the same point. */
static const double FAINT = 1e-3, STEPS = 16;

/* The point of one form with coefficients c. */
static void choose_point(const qb_box_track *x, int64_t n, const double *c, float *point) {
  double largest = 0;
  for (int64_t i = 0; i < n; i++)
    largest = qb_larger(largest, fabs(c[i]) * (x->hi[i] - x->lo[i]));
  for (int64_t i = 0; i < n; i++) {
    double part = c[i] * (x->hi[i] - x->lo[i]), size = fabs(part) + FAINT * largest;
    double to = size > 0 ? rint(STEPS * part / size) / STEPS : 0;
    double at = 0.5 * (x->lo[i] + x->hi[i]) + 0.25 * to * (x->hi[i] - x->lo[i]);
    point[i] = (float)qb_clamp(at, x->lo[i], x->hi[i]);
  }
}

/* What both networks compute at the points of `count` forms. */
static qb_status evaluate_points(qb_backward *backward, int64_t count, const double *c, qb_box_result *points,
                                 qb_error *error) {
  qb_value_id input = backward->pair->quantized->inputs[0];
  int64_t n = backward->box->states[input].count;
  float *at = qb_alloc((size_t)(count * n), sizeof *at);
  qb_status status = QB_OK;
  if (at == NULL)
    return qb_fail_memory(error, "points of a relaxation", (size_t)(count * n) * sizeof *at);
#pragma omp parallel for schedule(dynamic) if (!omp_in_parallel())
  for (int64_t r = 0; r < count; r++) {
    qb_error own;
    qb_domain domain = {n, at + r * n, at + r * n};
    choose_point(&backward->box->states[input].track[QB_TRACK_ORIGINAL], n, c + r * n, at + r * n);
    qb_status done = qb_bound_box(backward->pair, &domain, &points[r], &own);
    if (done != QB_OK) {
#pragma omp critical(qb_backward_turn)
      status = qb_fail(error, done, "%s", own.message);
    }
  }
  qb_free(at);
  return status;
}

/* rows->at_input holds their forms. */
static qb_status turn(qb_backward *backward, const qb_rows *rows, double *upper, qb_error *error) {
  qb_box_result points[ROWS_AT_ONCE] = {0};
  double turned[ROWS_AT_ONCE];
  qb_rows again = *rows;
  again.points = points;
  again.at_input = NULL;
  again.smear = false;
  qb_status status = evaluate_points(backward, rows->count, rows->at_input, points, error);
  if (status == QB_OK)
    status = qb_backward_upper(backward, &again, turned, NULL, error);
  for (int64_t r = 0; r < rows->count; r++) {
    if (status == QB_OK)
      upper[r] = qb_smaller(upper[r], turned[r]);
    qb_box_result_free(&points[r]);
  }
  return status;
}

qb_status qb_backward_upper_twice(qb_backward *backward, const qb_rows *rows, double *upper, double *influence,
                                  qb_error *error) {
  int64_t n = backward->box->states[backward->pair->quantized->inputs[0]].count, missed = 0;
  double *forms = qb_alloc((size_t)(ROWS_AT_ONCE * n), sizeof *forms);
  qb_status status = QB_OK;
  if (forms == NULL)
    return qb_fail_memory(error, "forms of a relaxation", (size_t)(ROWS_AT_ONCE * n) * sizeof *forms);
  for (int64_t first = 0; status == QB_OK && first < rows->count; first += ROWS_AT_ONCE) {
    qb_rows some = *rows;
    some.count = rows->count - first < ROWS_AT_ONCE ? rows->count - first : ROWS_AT_ONCE;
    some.element = rows->element == NULL ? NULL : rows->element + first;
    some.sign = rows->sign == NULL ? NULL : rows->sign + first;
    some.dense = rows->dense == NULL ? NULL : rows->dense + first * backward->box->states[rows->value].count;
    some.at_input = forms;
    status = qb_backward_upper(backward, &some, upper + first, influence, error);
    bool all = backward->missed == 0;
    missed += backward->missed;
    if (status == QB_OK && all)
      status = turn(backward, &some, upper + first, error);
  }
  backward->missed = missed;
  qb_free(forms);
  return status;
}
