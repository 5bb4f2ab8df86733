/* Sides of cuts, see check_cut.h.
 *
 * sign x_e <= form over the input, on the part, and sign x_e >= sign at there: so g = form - sign at is at least 0 at
 * every input of the part, and a form F may have beta g added for any beta >= 0. */
#include "check/check_cut.h"

#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

static int64_t inputs_of(const back_box *box) {
  return box->ranges->values[box->pair->pair->quantized->inputs[0]].count;
}

bool cells_contradict(const cells *c) {
  for (int64_t i = 0; i < c->count; i++) {
    const triple *t = &c->at[i];
    if (t->x.lo > t->x.hi || t->q.lo > t->q.hi || t->d.lo > t->d.hi)
      return true;
  }
  return false;
}

static void meet_side(const cut_side *s, triple *t) {
  range *r = s->cut.kind == FORM_Q ? &t->q : &t->x;
  *r = range_meet(*r, s->above ? (range){s->cut.at, INFINITY} : (range){-INFINITY, s->cut.at});
  cells_tighten(GRAIN_FINE, t);
}

static qb_status add_half(back_box *box, const double *form, double sign, double at, qb_error *error) {
  int64_t n = inputs_of(box);
  double constant = add_up(form[n], -sign * at);
  if (!isfinite(constant) || box->half_count == MOST_HALVES)
    return QB_OK;
  double *h = qb_arena_alloc(&box->arena, (size_t)n, sizeof *h);
  if (h == NULL)
    return qb_fail_memory(error, "half spaces", (size_t)n * sizeof *h);
  memcpy(h, form, (size_t)n * sizeof *h);
  box->halves[box->half_count++] = (half_space){h, constant};
  return QB_OK;
}

static qb_status take_half(back_box *box, qb_value_id value, const cut_side *s, bool *empty, qb_error *error) {
  int64_t n = inputs_of(box);
  double sign = s->above ? 1 : -1, top = INFINITY, *form = qb_alloc((size_t)n + 1, sizeof *form);
  if (form == NULL)
    return qb_fail_memory(error, "half spaces", (size_t)n * sizeof *form);
  forms f =
      {.value = value, .kind = s->cut.kind, .count = 1, .element = &s->cut.element, .sign = &sign, .at_input = form};
  int32_t count = box->half_count;
  box->half_count = 0; /* the form is kept as it is */
  qb_status status = forms_top(box, &f, &top, error);
  box->half_count = count;
  if (status == QB_OK)
    status = add_half(box, form, sign, s->cut.at, error);
  *empty = status == QB_OK && top < sign * s->cut.at;
  qb_free(form);
  return status;
}

qb_status sides_apply(back_box *box, qb_node_id node, const cut_side *sides, int64_t count, bool *empty,
                      qb_error *error) {
  qb_value_id value = box->pair->pair->quantized->nodes[node].output;
  bool any = false;
  for (int64_t k = 0; k < count; k++)
    if (sides[k].cut.node == node) {
      meet_side(&sides[k], &box->ranges->values[value].at[sides[k].cut.element]);
      any = true;
    }
  *empty = any && cells_contradict(&box->ranges->values[value]);
  for (int64_t k = 0; any && k < count && !*empty; k++)
    if (sides[k].cut.node == node)
      QB_TRY(take_half(box, value, &sides[k], empty, error));
  return QB_OK;
}

/* ---------------------------------------------------------------------------------------------------- multipliers */

/* The slope of the largest value of c + beta g over the box, at beta and above. */
static double slope_at(const cells *x, const double *c, const half_space *g, double beta) {
  double slope = g->constant;
  for (int64_t i = 0; i < x->count; i++) {
    double a = c[i] + beta * g->h[i];
    slope += g->h[i] * (a > 0 || (a == 0 && g->h[i] > 0) ? x->at[i].x.hi : x->at[i].x.lo);
  }
  return slope;
}

/* Where that slope becomes positive, by halving, which loses a share of 2^-32 at most; 0 where it is, or where it never
 * does so. */
static double find_multiplier(const cells *x, const double *c, const half_space *g) {
  double low = 0, high = 0, of_c = 0, of_h = 0;
  if (slope_at(x, c, g, 0) >= 0)
    return 0;
  for (int64_t i = 0; i < x->count; i++) {
    of_c += fabs(c[i]);
    of_h += fabs(g->h[i]);
  }
  if (of_c == 0 || of_h == 0)
    return 0;
  for (high = of_c / of_h; slope_at(x, c, g, high) < 0; high *= 4)
    if (high > 1e12 * of_c / of_h)
      return 0;
  for (int step = 0; step < 32; step++) {
    double middle = 0.5 * low + 0.5 * high;
    if (slope_at(x, c, g, middle) < 0)
      low = middle;
    else
      high = middle;
  }
  return high;
}

static void add_multiple(const cells *x, double factor, const half_space *g, double *c) {
  for (int64_t i = 0; i < x->count; i++)
    c[i] += factor * g->h[i];
}

/* Twice through all of them, each with what the others have made of the form. */
static void find_multipliers(const back_box *box, const cells *x, double *c, double beta[MOST_HALVES]) {
  memset(beta, 0, MOST_HALVES * sizeof *beta);
  for (int sweep = 0; sweep < (box->half_count > 1 ? 2 : 1); sweep++)
    for (int32_t k = 0; k < box->half_count; k++) {
      if (beta[k] > 0)
        add_multiple(x, -beta[k], &box->halves[k], c);
      beta[k] = find_multiplier(x, c, &box->halves[k]);
      if (beta[k] > 0)
        add_multiple(x, beta[k], &box->halves[k], c);
    }
}

/* Every coefficient is a sum of its own and at most half_count products then, the constant too. */
static void press(carried *c, int64_t r, const cells *x, double *form, const double beta[MOST_HALVES]) {
  double size = fabs(c->constant[r]);
  for (int64_t i = 0; i < x->count; i++)
    size += fabs(form[i]) * range_size(x->at[i].x);
  for (int32_t k = 0; k < c->box->half_count; k++) {
    const half_space *g = &c->box->halves[k];
    if (beta[k] == 0)
      continue;
    for (int64_t i = 0; i < x->count; i++)
      size += beta[k] * fabs(g->h[i]) * range_size(x->at[i].x);
    size += beta[k] * fabs(g->constant);
    add_multiple(x, beta[k], g, form);
    c->constant[r] += beta[k] * g->constant;
  }
  c->lost[r] += 1.01 * rounding_of(2.0 * c->box->half_count + 8) * size + DBL_MIN;
}

qb_status press_forms(carried *c) {
  qb_value_id input = c->box->pair->pair->quantized->inputs[0];
  const cells *x = &c->box->ranges->values[input];
  double *rows = c->at[0][input], beta[MOST_HALVES];
  if (c->box->half_count == 0 || rows == NULL)
    return QB_OK;
  double *copy = qb_alloc((size_t)x->count, sizeof *copy);
  if (copy == NULL)
    return qb_fail_memory(c->error, "forms", (size_t)x->count * sizeof *copy);
  for (int64_t r = 0; r < c->rows; r++) {
    memcpy(copy, rows + r * x->count, (size_t)x->count * sizeof *copy);
    find_multipliers(c->box, x, copy, beta);
    press(c, r, x, rows + r * x->count, beta);
  }
  qb_free(copy);
  return QB_OK;
}
