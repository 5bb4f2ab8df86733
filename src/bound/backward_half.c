/* Parts of a box in which an element of a tensor lies on one side of a number.
 *
 * A form that is above the element (or above its negative) over the input makes a half space h x + k >= 0 of the side,
 * which holds all inputs of the part. Any form F over the part is at most F + beta (h x + k) for any beta >= 0; beta is
 * the one with the lowest maximum over the box, one half space after the other. */
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/backward_internal.h"

/* Multipliers above this are of use to nobody. */
static const double MOST_MULTIPLIER = 1e100;

enum { SWEEPS = 2 };

static int64_t input_count(const qb_backward *backward) {
  return backward->box->states[backward->pair->quantized->inputs[0]].count;
}

/* ---------------------------------------------------------------------------------------------------- half spaces */

static qb_status add_half(qb_backward *backward, const qb_ball_cut *cut, const double *form, qb_error *error) {
  int64_t n = input_count(backward);
  double sign = cut->above ? 1 : -1, constant = qb_up_sum(form[n], -sign * cut->at);
  if (qb_cut_fault_planted == QB_CUT_FAULT_HALF_SPACE)
    constant -= 0.1 * (fabs(form[n]) + fabs(cut->at));
  if (!isfinite(constant) || backward->half_count == QB_MOST_HALVES || qb_dense_is_zero(n, form))
    return QB_OK;
  double *h = qb_arena_alloc(&backward->box_arena, (size_t)n, sizeof *h);
  if (h == NULL)
    return qb_fail_memory(error, "half spaces", (size_t)n * sizeof *h);
  memcpy(h, form, (size_t)n * sizeof *h);
  backward->halves[backward->half_count++] = (qb_half_space){h, constant};
  return QB_OK;
}

qb_status qb_backward_restrict(qb_backward *backward, const qb_ball_cut *cut, double *room, qb_error *error) {
  size_t count = (size_t)input_count(backward) + 1;
  double sign = cut->above ? 1 : -1, upper = INFINITY;
  int32_t before = backward->half_count;
  double *form = qb_alloc(count, sizeof *form);
  if (form == NULL)
    return qb_fail_memory(error, "half spaces", count * sizeof *form);
  qb_rows row =
      {.value = cut->value, .track = cut->track, .count = 1, .element = &cut->element, .sign = &sign, .at_input = form};
  backward->half_count = 0; /* this form is not to be pressed by other half spaces */
  qb_status status = qb_backward_upper(backward, &row, &upper, NULL, error);
  backward->half_count = before;
  if (status == QB_OK)
    status = add_half(backward, cut, form, error);
  *room = upper - sign * cut->at;
  qb_free(form);
  return status;
}

/* ---------------------------------------------------------------------------------------------------- multipliers */

/* Breaks of a convex function of one variable, with the change of its slope at each. */
typedef struct breaks {
  double *at, *weight;
} breaks;

static void swap(const breaks *b, int64_t i, int64_t k) {
  double at = b->at[i], weight = b->weight[i];
  b->at[i] = b->at[k];
  b->weight[i] = b->weight[k];
  b->at[k] = at;
  b->weight[k] = weight;
}

/* Splits [first, last) into what is below the pivot and the rest, of which the pivot is the first and smallest. */
static int64_t split(const breaks *b, int64_t first, int64_t last) {
  int64_t kept = first;
  swap(b, first + (last - first) / 2, last - 1);
  double pivot = b->at[last - 1];
  for (int64_t i = first; i < last - 1; i++)
    if (b->at[i] < pivot)
      swap(b, i, kept++);
  swap(b, kept, last - 1);
  return kept;
}

/* The smallest break up to which the weights sum to `need`, or the largest. */
static double find_break(const breaks *b, int64_t count, double need) {
  int64_t first = 0, last = count;
  double found = 0;
  while (first < last) {
    int64_t pivot = split(b, first, last);
    double sum = 0;
    for (int64_t i = first; i <= pivot; i++)
      sum += b->weight[i];
    found = b->at[pivot];
    if (sum < need) {
      need -= sum;
      first = pivot + 1;
    } else if (sum - b->weight[pivot] >= need) {
      last = pivot;
    } else {
      return found;
    }
  }
  return found;
}

/* The beta >= 0 for which c x + beta (h x + k) has its lowest maximum over the box: where the slope of that maximum,
 * which jumps by |h_i| times a width where an input's coefficient changes its sign, becomes positive. */
static double best_multiplier(int64_t n, const double *c, const qb_half_space *half, const qb_box_track *x,
                              const breaks *b) {
  double slope = half->constant + qb_dense_at_top(n, c, half->h, x->lo, x->hi);
  int64_t count = 0;
  for (int64_t i = 0; slope < 0 && i < n; i++) {
    double h = half->h[i];
    if (c[i] > 0 ? h < 0 : h > 0) {
      b->at[count] = -c[i] / h;
      b->weight[count++] = fabs(h) * (x->hi[i] - x->lo[i]);
    }
  }
  double beta = find_break(b, count, -slope);
  return beta < MOST_MULTIPLIER ? beta : 0;
}

/* One after the other, with what the others make of the form. */
static void choose_multipliers(const qb_backward *backward, const double *form, double *c, const breaks *b,
                               double beta[QB_MOST_HALVES]) {
  const qb_box_track *x = &backward->box->states[backward->pair->quantized->inputs[0]].track[QB_TRACK_ORIGINAL];
  int64_t n = input_count(backward);
  memcpy(c, form, (size_t)n * sizeof *c);
  memset(beta, 0, QB_MOST_HALVES * sizeof *beta);
  for (int sweep = 0; sweep < (backward->half_count > 1 ? SWEEPS : 1); sweep++)
    for (int32_t k = 0; k < backward->half_count; k++) {
      const qb_half_space *half = &backward->halves[k];
      if (beta[k] > 0)
        qb_dense_add(n, -beta[k], half->h, c);
      beta[k] = best_multiplier(n, c, half, x, b);
      if (beta[k] > 0)
        qb_dense_add(n, beta[k], half->h, c);
    }
}

/* Each coefficient becomes a sum of at most half_count products and itself, and so does the constant. */
static void press_row(qb_walk *walk, int64_t r, double *form, const double beta[QB_MOST_HALVES]) {
  const qb_backward *backward = walk->backward;
  const qb_box_track *x = &backward->box->states[backward->pair->quantized->inputs[0]].track[QB_TRACK_ORIGINAL];
  int64_t n = input_count(backward);
  double size = qb_dense_reach(n, form, x->lo, x->hi), gamma = qb_gamma(2 * backward->half_count + 8);
  for (int32_t k = 0; k < backward->half_count; k++)
    if (beta[k] > 0) {
      const qb_half_space *half = &backward->halves[k];
      size += beta[k] * (qb_dense_reach(n, half->h, x->lo, x->hi) + fabs(half->constant));
      qb_dense_add(n, beta[k], half->h, form);
      qb_walk_add_constant(walk, r, beta[k] * half->constant);
    }
  walk->lost[r] += 1.01 * gamma * size + DBL_MIN;
}

qb_status qb_walk_press(qb_walk *walk) {
  const qb_backward *backward = walk->backward;
  int64_t n = input_count(backward);
  double *rows = walk->coefficient[0][backward->pair->quantized->inputs[0]], beta[QB_MOST_HALVES];
  if (backward->half_count == 0 || rows == NULL)
    return QB_OK;
  double *memory = qb_alloc_uncleared((size_t)(3 * n), sizeof *memory);
  if (memory == NULL)
    return qb_fail_memory(walk->error, "half spaces", (size_t)(3 * n) * sizeof *memory);
  const breaks b = {memory + n, memory + 2 * n};
  for (int64_t r = 0; r < walk->rows; r++) {
    choose_multipliers(backward, rows + r * n, memory, &b, beta);
    press_row(walk, r, rows + r * n, beta);
  }
  qb_free(memory);
  return QB_OK;
}
