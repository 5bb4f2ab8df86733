/* Forms whose planes are turned: from the planes at the centres a form becomes one over the input, largest at a corner
 * of the box. Its undecided elements then get planes that are lowest at what both networks compute half way between the
 * middle of the box and that corner. Any slopes are allowed: these only have to be the ones that a bound was made with.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "check/check_backward.h"

enum { AT_ONCE = 8 }; /* forms whose points are kept at once */

/* Each input goes towards the end where the form is larger, by sixteenths; it stays in the middle where it contributes
 * less than about a thousandth of what the largest one does. */
static void find_point(const cells *x, const double *form, range *point) {
  double largest = 0;
  for (int64_t i = 0; i < x->count; i++)
    largest = fmax(largest, fabs(form[i]) * (x->at[i].x.hi - x->at[i].x.lo));
  for (int64_t i = 0; i < x->count; i++) {
    double lo = x->at[i].x.lo, hi = x->at[i].x.hi, part = form[i] * (hi - lo), size = fabs(part) + 1e-3 * largest;
    double sixteenths = size > 0 ? rint(16 * part / size) / 16 : 0;
    double at = 0.5 * (lo + hi) + 0.25 * sixteenths * (hi - lo);
    float rounded = (float)fmin(fmax(at, lo), hi);
    point[i] = (range){(double)rounded, (double)rounded};
  }
}

/* Both networks at a point, as far as there are rules. */
static qb_status walk_point(const back_box *box, const double *form, walk *w, qb_error *error) {
  const qb_pair *pair = box->pair->pair;
  const cells *x = &box->ranges->values[pair->quantized->inputs[0]];
  range *point = qb_alloc((size_t)x->count, sizeof *point);
  bool known = true;
  if (point == NULL)
    return qb_fail_memory(error, "a point", (size_t)x->count * sizeof *point);
  find_point(x, form, point);
  qb_status status = walk_begin(w, pair, GRAIN_FINE, point, error);
  for (qb_node_id id = 0; status == QB_OK && known && id < pair->quantized->node_count; id++)
    status = walk_visit(w, id, &known);
  qb_free(point);
  return status;
}

static qb_status turn(back_box *box, const forms *f, double *top, qb_error *error) {
  int64_t inputs = box->ranges->values[box->pair->pair->quantized->inputs[0]].count;
  walk points[AT_ONCE] = {{0}};
  double turned[AT_ONCE];
  int64_t begun = 0;
  qb_status status = QB_OK;
  for (; status == QB_OK && begun < f->count; begun++)
    status = walk_point(box, f->at_input + begun * inputs, &points[begun], error);
  forms again = *f;
  again.points = points;
  again.at_input = NULL;
  if (status == QB_OK)
    status = forms_top(box, &again, turned, error);
  for (int64_t r = 0; status == QB_OK && r < f->count; r++)
    top[r] = fmin(top[r], turned[r]);
  for (int64_t r = 0; r < begun; r++)
    walk_free(&points[r]);
  return status;
}

qb_status forms_top_turned(back_box *box, const forms *f, double *top, qb_error *error) {
  int64_t inputs = box->ranges->values[box->pair->pair->quantized->inputs[0]].count;
  double *at_input = qb_alloc((size_t)(AT_ONCE * inputs), sizeof *at_input);
  qb_status status = QB_OK;
  if (at_input == NULL)
    return qb_fail_memory(error, "forms", (size_t)(AT_ONCE * inputs) * sizeof *at_input);
  for (int64_t first = 0; status == QB_OK && first < f->count; first += AT_ONCE) {
    forms some = *f;
    some.count = f->count - first < AT_ONCE ? f->count - first : AT_ONCE;
    some.element += first;
    some.sign += first;
    some.minus = f->minus == NULL ? NULL : f->minus + first;
    some.at_input = at_input;
    status = forms_top(box, &some, top + first, error);
    if (status == QB_OK)
      status = turn(box, &some, top + first, error);
  }
  qb_free(at_input);
  return status;
}
