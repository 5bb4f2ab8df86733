/* Forms whose planes are turned: from the planes at the centres a form becomes one over the input, largest at a corner
 * of the box. Its undecided elements then get planes that are lowest at what both networks compute half way between the
 * middle of the box and that corner; then at a third of the way from there to the next corner, and so on. Any slopes
 * are allowed: these only have to be the ones that a bound was made with. */
#include "base/alloc.h"
#include "base/error.h"
#include "check/check_backward.h"

/* Each input goes towards the end where the form is larger, by sixteenths; it stays in the middle where it contributes
 * less than about a thousandth of what the largest one does, or a millionth of the form's largest value. */
static void add_sixteenths(const cells *x, const double *form, double top, double *sum) {
  double largest = 0;
  for (int64_t i = 0; i < x->count; i++)
    largest = fmax(largest, fabs(form[i]) * (x->at[i].x.hi - x->at[i].x.lo));
  for (int64_t i = 0; i < x->count; i++) {
    double part = form[i] * (x->at[i].x.hi - x->at[i].x.lo), size = fabs(part) + 1e-3 * largest + 1e-6 * fabs(top);
    sum[i] += size > 0 ? rint(16 * part / size) : 0;
  }
}

/* The mean of the middle and of `count` such points. */
static void find_input(const cells *x, const double *sixteenths, int32_t count, double *input) {
  for (int64_t i = 0; i < x->count; i++) {
    double lo = x->at[i].x.lo, hi = x->at[i].x.hi;
    double at = 0.5 * (lo + hi) + 0.5 * (hi - lo) * (sixteenths[i] / (16.0 * (count + 1)));
    input[i] = fmin(fmax(at, lo), hi);
  }
}

/* `top`: what the last forms are at most, then what the next ones are. */
static qb_status turn_once(carried *c, const forms *f, int64_t first, int32_t count, double *sixteenths, double *inputs,
                           double *top) {
  qb_value_id input = c->box->pair->pair->quantized->inputs[0];
  const cells *x = &c->box->ranges->values[input];
  qb_arena arena;
  spots s;
  for (int64_t r = 0; r < c->rows; r++) {
    if (c->at[0][input] != NULL)
      add_sixteenths(x, c->at[0][input] + r * x->count, top[r], sixteenths + r * x->count);
    find_input(x, sixteenths + r * x->count, count, inputs + r * x->count);
  }
  qb_arena_init(&arena);
  qb_status status = spots_find(c, f->value, inputs, &s, &arena);
  carried_empty(c);
  c->spots = &s;
  if (status == QB_OK)
    status = carry_back(c, f, first);
  if (status == QB_OK)
    carried_top(c, top);
  c->spots = NULL;
  qb_arena_free(&arena);
  return status;
}

qb_status turn_forms(carried *c, const forms *f, int64_t first, double *top) {
  int64_t inputs = c->rows * c->box->ranges->values[c->box->pair->pair->quantized->inputs[0]].count;
  double *memory = qb_alloc((size_t)(2 * inputs + c->rows), sizeof *memory);
  qb_status status = QB_OK;
  if (memory == NULL)
    return qb_fail_memory(c->error, "forms", (size_t)(2 * inputs) * sizeof *memory);
  double *turned = memory + 2 * inputs;
  for (int64_t r = 0; r < c->rows; r++)
    turned[r] = top[r];
  for (int32_t k = 1; status == QB_OK && k <= f->turns; k++) {
    status = turn_once(c, f, first, k, memory, memory + inputs, turned);
    for (int64_t r = 0; status == QB_OK && r < c->rows; r++)
      top[r] = fmin(top[r], turned[r]);
  }
  qb_free(memory);
  return status;
}
