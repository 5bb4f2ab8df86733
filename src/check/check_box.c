/* One box of inputs: ranges of all tensors, tightened by forms in front of activations that the claim names, then the
 * outputs; for a box that was cut up, part by part. */
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "check/check_backward.h"
#include "check/check_ball.h"
#include "check/check_cut.h"

/* A node of the tree of cuts: the half of `parent`'s box above or below the middle of an input, or its part on one side
 * of a neuron's cut. */
typedef struct part {
  int64_t parent; /* -1: the whole box */
  int32_t axis;   /* across which it is cut itself, -1: a leaf, -2 - k: the claim's neurons[k] */
  bool upper;
  int32_t depth;
  struct fact *facts; /* what was found out about it, once for all leaves inside */
} part;

enum { DEEPEST = 4096 }; /* ten float32 numbers cannot be halved so often */

typedef struct job {
  back_pair pair;
  const box_claim *claim;
  const float *lo, *hi;    /* (inputs) of the whole box */
  int64_t inputs, outputs; /* elements */
  bool *relaxed;           /* (nodes) */
  part *parts;             /* (part_count) in preorder */
  int64_t *open;           /* (part_count) for reading them */
  int64_t part_count;
  walk whole;     /* where neurons are cut: ranges of the whole box, known of every part */
  bool has_whole; /* they are there */
  bool again;     /* hidden layers of some part had to be relaxed again */
  bool all_empty; /* no part so far holds an input */
  bool stopped;   /* a part was refuted or has no rule */
  recomputed *result;
  qb_arena arena;
} job;

/* What is proved on one part. */
typedef struct knowledge {
  range *d; /* (outputs) */
  bool keeps, known;
  bool empty;   /* no input lies in the part */
  bool nowhere; /* it is no part: nothing is known */
  char why[320];
} knowledge;

/* The same, relaxing nodes before `limit`. */
typedef struct fact {
  struct fact *next;
  int64_t limit;
  knowledge knows;
} fact;

/* ---------------------------------------------------------------------------------------------------- tightening */

static void meet(triple *t) {
  t->d = range_meet(t->d, range_sub(t->q, t->x));
  t->q = range_meet(t->q, range_add(t->x, t->d));
  t->x = range_meet(t->x, range_sub(t->q, t->d));
}

/* Forms 2 k and 2 k + 1 are element k and its negative. */
typedef struct form_list {
  int64_t *element, *minus;
  double *sign, *top;
} form_list;

static bool new_forms(int64_t count, form_list *l) {
  l->element = qb_alloc((size_t)count, sizeof *l->element);
  l->minus = qb_alloc((size_t)count, sizeof *l->minus);
  l->sign = qb_alloc((size_t)count, sizeof *l->sign);
  l->top = qb_alloc((size_t)(FORM_KINDS * count), sizeof *l->top);
  return l->element != NULL && l->minus != NULL && l->sign != NULL && l->top != NULL;
}

static void free_forms(form_list *l) {
  qb_free(l->element);
  qb_free(l->minus);
  qb_free(l->sign);
  qb_free(l->top);
}

/* Planes of single elements; planes above a form as a whole; from there on these, turned so often towards where the
 * form is largest. */
enum { PLANES_SINGLE = -1, PLANES_JOINT = 0 };

/* Intersects what is known of some elements with what forms of a kind say. */
static qb_status tighten(back_box *box, qb_value_id value, const int64_t *element, int64_t count, int kind,
                         int32_t turns, qb_error *error) {
  triple *at = box->ranges->values[value].at;
  form_list l;
  if (count == 0)
    return QB_OK;
  qb_status status =
      new_forms(2 * count, &l) ? QB_OK : qb_fail_memory(error, "forms", (size_t)count * 6 * sizeof *l.top);
  for (int64_t k = 0; status == QB_OK && k < 2 * count; k++) {
    l.element[k] = element[k / 2];
    l.sign[k] = k % 2 == 0 ? 1 : -1;
  }
  forms f = {.value = value, .kind = kind, .count = 2 * count, .element = l.element, .sign = l.sign};
  f.joint = turns != PLANES_SINGLE;
  f.turns = turns > 0 ? turns : 0;
  if (status == QB_OK)
    status = forms_top(box, &f, l.top, error);
  for (int64_t k = 0; status == QB_OK && k < count; k++) {
    triple *t = &at[element[k]];
    range *r = kind == FORM_X ? &t->x : kind == FORM_Q ? &t->q : &t->d;
    *r = range_meet(*r, (range){-l.top[2 * k + 1], l.top[2 * k]});
    meet(t);
  }
  free_forms(&l);
  return status;
}

/* Those whose q is not known well enough as x + d. */
static int64_t keep_wide(const triple *at, int64_t *element, int64_t count) {
  int64_t kept = 0;
  for (int64_t k = 0; k < count; k++) {
    const triple *t = &at[element[k]];
    if (t->d.hi - t->d.lo > 0.05 * (t->q.hi - t->q.lo))
      element[kept++] = element[k];
  }
  return kept;
}

/* x, then d, then q, of what is still undecided. */
static qb_status tighten_undecided(back_box *box, qb_value_id value, qb_error *error) {
  int64_t *element = qb_alloc((size_t)box->ranges->values[value].count, sizeof *element);
  if (element == NULL)
    return qb_fail_memory(error, "elements", (size_t)box->ranges->values[value].count * sizeof *element);
  int64_t count = undecided_of(box, value, element);
  qb_status status = tighten(box, value, element, count, FORM_X, PLANES_SINGLE, error);
  count = undecided_of(box, value, element);
  if (status == QB_OK)
    status = tighten(box, value, element, count, FORM_D, PLANES_SINGLE, error);
  count = undecided_of(box, value, element);
  count = keep_wide(box->ranges->values[value].at, element, count);
  if (status == QB_OK)
    status = tighten(box, value, element, count, FORM_Q, PLANES_SINGLE, error);
  qb_free(element);
  return status;
}

static bool number_fits(const job *j, int64_t i, range d) {
  const box_claim *c = j->claim;
  if ((c->only < 0 || c->only == i) && !(range_size(d) <= c->bound))
    return false;
  return c->output_count == 0 || (c->outputs[i].lo <= d.lo && c->outputs[i].hi >= d.hi);
}

static bool numbers_fit(const job *j, const range *d) {
  bool fit = true;
  for (int64_t i = 0; i < j->outputs; i++)
    fit = fit && number_fits(j, i, d[i]);
  return fit;
}

/* What is asked of one box: nodes are relaxed before `limit` and, in a part that was cut across neurons, behind
 * `first`, in front of which everything is as it is in the whole box. Outputs
 * that fit the claim by what is known `already` are left as they are. */
typedef struct question {
  int64_t first, limit;
  const float *lo, *hi;  /* (inputs) */
  const cut_side *sides; /* (side_count) */
  int64_t side_count;
  const knowledge *already; /* may be NULL */
} question;

/* The outputs to be bounded; the caller frees *element. */
static qb_status list_outputs(const job *j, const question *ask, int64_t **element, int64_t *count, qb_error *error) {
  int64_t only = j->claim->only;
  *count = 0;
  *element = qb_alloc((size_t)j->outputs, sizeof **element);
  if (*element == NULL)
    return qb_fail_memory(error, "elements", (size_t)j->outputs * sizeof **element);
  for (int64_t k = 0; k < j->outputs; k++)
    if ((only < 0 || only == k) && (ask->already == NULL || !number_fits(j, k, ask->already->d[k])))
      (*element)[(*count)++] = k;
  return QB_OK;
}

static qb_status tighten_outputs(const job *j, const question *ask, back_box *box, qb_value_id output,
                                 qb_error *error) {
  int64_t only = j->claim->only, count, *element;
  QB_TRY(list_outputs(j, ask, &element, &count, error));
  qb_status status = only >= 0 ? QB_OK : tighten(box, output, element, count, FORM_X, PLANES_JOINT, error);
  if (status == QB_OK)
    status = tighten(box, output, element, count, FORM_D, PLANES_JOINT, error);
  count = only >= 0 ? 0 : keep_wide(box->ranges->values[output].at, element, count);
  if (status == QB_OK)
    status = tighten(box, output, element, count, FORM_Q, PLANES_JOINT, error);
  qb_free(element);
  return status;
}

/* The differences once more, with turned planes. */
static qb_status turn_outputs(const job *j, const question *ask, back_box *box, qb_value_id output, qb_error *error) {
  int64_t count, *element;
  QB_TRY(list_outputs(j, ask, &element, &count, error));
  qb_status status = tighten(box, output, element, count, FORM_D, j->claim->turns, error);
  qb_free(element);
  return status;
}

/* ------------------------------------------------------------------------------------------------------- decisions */

/* One output above all others in both networks, by ranges alone. */
static bool keeps_by_ranges(const triple *y, int64_t count) {
  int64_t top = 0;
  for (int64_t k = 1; k < count; k++)
    top = y[k].x.lo > y[top].x.lo ? k : top;
  for (int64_t k = 0; k < count; k++)
    if (k != top && !(y[top].x.lo > y[k].x.hi && y[top].q.lo > y[k].q.hi))
      return false;
  return count > 1;
}

static bool all_negative(const double *top, int64_t count) {
  bool negative = count > 0;
  for (int64_t k = 0; k < count; k++)
    negative = negative && top[k] < 0;
  return negative;
}

static qb_status bound_margins(back_box *box, qb_value_id output, int kind, int64_t count, const form_list *l,
                               qb_error *error) {
  forms f = {.value = output, .kind = kind, .count = count, .element = l->element, .minus = l->minus, .sign = l->sign};
  f.joint = true;
  return forms_top(box, &f, l->top + kind * count, error);
}

/* Whether out_k - out_top is negative for all k in x, and in q: as the sum of the forms over x and over d, or by
 * itself. */
static qb_status prove_kept(back_box *box, qb_value_id output, int64_t n, const form_list *l, bool *keeps,
                            qb_error *error) {
  double *x = l->top + FORM_X * n, *q = l->top + FORM_Q * n, *d = l->top + FORM_D * n;
  *keeps = false;
  QB_TRY(bound_margins(box, output, FORM_X, n, l, error));
  if (!all_negative(x, n))
    return QB_OK;
  QB_TRY(bound_margins(box, output, FORM_D, n, l, error));
  for (int64_t k = 0; k < n; k++)
    d[k] = add_up(x[k], d[k]);
  *keeps = all_negative(d, n);
  if (*keeps)
    return QB_OK;
  QB_TRY(bound_margins(box, output, FORM_Q, n, l, error));
  for (int64_t k = 0; k < n; k++)
    d[k] = fmin(q[k], d[k]);
  *keeps = all_negative(d, n);
  return QB_OK;
}

static qb_status keeps_by_forms(const job *j, back_box *box, qb_value_id output, bool *keeps, qb_error *error) {
  const triple *y = box->ranges->values[output].at;
  int64_t n = j->outputs - 1, top = 0;
  form_list l;
  qb_status status = new_forms(n, &l) ? QB_OK : qb_fail_memory(error, "margins", (size_t)n * sizeof *l.top);
  for (int64_t k = 1; k <= n; k++)
    top = y[k].x.lo / 2 + y[k].x.hi / 2 > y[top].x.lo / 2 + y[top].x.hi / 2 ? k : top;
  for (int64_t k = 0; status == QB_OK && k < n; k++) {
    l.element[k] = k < top ? k : k + 1;
    l.minus[k] = top;
    l.sign[k] = 1;
  }
  if (status == QB_OK)
    status = prove_kept(box, output, n, &l, keeps, error);
  free_forms(&l);
  return status;
}

/* -------------------------------------------------------------------------------------------------------- one part */

static void meet_whole(const job *j, qb_value_id value, cells *c) {
  const triple *known = j->whole.values[value].at;
  for (int64_t i = 0; i < c->count; i++) {
    c->at[i].x = range_meet(c->at[i].x, known[i].x);
    c->at[i].q = range_meet(c->at[i].q, known[i].q);
    c->at[i].d = range_meet(c->at[i].d, known[i].d);
  }
}

/* A node of a part that was cut across neurons. */
static qb_status apply_sides(const job *j, const question *ask, qb_node_id n, back_box *box, knowledge *k,
                             qb_error *error) {
  qb_value_id value = j->pair.pair->quantized->nodes[n].output;
  cells *c = &box->ranges->values[value];
  if (ask->side_count == 0 || c->count == 0)
    return QB_OK;
  meet_whole(j, value, c);
  QB_TRY(sides_apply(box, n, ask->sides, ask->side_count, &k->empty, error));
  k->empty = k->empty || cells_contradict(c);
  return QB_OK;
}

static qb_status bound_in(const job *j, const question *ask, walk *w, back_box *box, knowledge *k, qb_error *error) {
  const qb_graph *graph = j->pair.pair->quantized;
  qb_value_id output = graph->outputs[0];
  bool by_forms = strcmp(j->claim->method, "interval") != 0;
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    QB_TRY(walk_visit(w, n, &k->known));
    if (!k->known) {
      snprintf(k->why, sizeof k->why, "%s", w->why);
      return QB_OK;
    }
    QB_TRY(apply_sides(j, ask, n, box, k, error));
    if (by_forms && !k->empty && n >= ask->first && n < ask->limit && j->relaxed[n] &&
        w->values[graph->nodes[n].output].count > 0)
      QB_TRY(tighten_undecided(box, graph->nodes[n].output, error));
    k->empty = k->empty || (ask->side_count > 0 && cells_contradict(&w->values[graph->nodes[n].output]));
    if (k->empty)
      return QB_OK;
  }
  if (by_forms)
    QB_TRY(tighten_outputs(j, ask, box, output, error));
  k->empty = ask->side_count > 0 && cells_contradict(&w->values[output]);
  if (k->empty)
    return QB_OK;
  for (int64_t i = 0; i < j->outputs; i++)
    k->d[i] = w->values[output].at[i].d;
  if (by_forms && j->claim->turns > 0 && !numbers_fit(j, k->d)) {
    QB_TRY(turn_outputs(j, ask, box, output, error));
    for (int64_t i = 0; i < j->outputs; i++)
      k->d[i] = w->values[output].at[i].d;
  }
  k->known = w->values[output].codes == NULL;
  snprintf(k->why, sizeof k->why, "the network's output holds integer codes");
  if (!j->claim->keeps || (ask->already != NULL && ask->already->keeps))
    return QB_OK;
  if (by_forms)
    return keeps_by_forms(j, box, output, &k->keeps, error);
  k->keeps = keeps_by_ranges(w->values[output].at, j->outputs);
  return QB_OK;
}

/* Bounds a box; k->d is the caller's, and so is the walk where one is given, to be freed with walk_free. */
static qb_status bound_box(const job *j, const question *ask, walk *keep, knowledge *k, qb_error *error) {
  walk own, *w = keep == NULL ? &own : keep;
  back_box box = {0};
  range *domain = qb_alloc((size_t)j->inputs, sizeof *domain);
  if (domain == NULL)
    return qb_fail_memory(error, "a box", (size_t)j->inputs * sizeof *domain);
  for (int64_t i = 0; i < j->inputs; i++)
    domain[i] = (range){(double)ask->lo[i], (double)ask->hi[i]};
  qb_status status = walk_begin(w, j->pair.pair, GRAIN_FINE, domain, error);
  if (status == QB_OK)
    status = back_box_begin(&j->pair, w, j->claim->slopes, j->claim->slope_count, &box, error);
  k->keeps = k->empty = false;
  if (status == QB_OK)
    status = bound_in(j, ask, w, &box, k, error);
  back_box_free(&box);
  if (keep == NULL)
    walk_free(w);
  qb_free(domain);
  return status;
}

/* ------------------------------------------------------------------------------------------------------- the parts */

/* The box of a part, from the whole one downwards. False where a cut leaves nothing on one side. */
static bool box_of(const job *j, int64_t at, float *lo, float *hi) {
  const part *p = &j->parts[at];
  if (p->parent < 0) {
    memcpy(lo, j->lo, (size_t)j->inputs * sizeof *lo);
    memcpy(hi, j->hi, (size_t)j->inputs * sizeof *hi);
    return true;
  }
  if (!box_of(j, p->parent, lo, hi))
    return false;
  int32_t axis = j->parts[p->parent].axis;
  if (axis < -1) /* across a neuron: the same inputs */
    return true;
  float middle = 0.5F * lo[axis] + 0.5F * hi[axis];
  bool inside = middle > lo[axis] && middle < hi[axis];
  (p->upper ? lo : hi)[axis] = middle;
  return inside;
}

/* Whether what a node is cut across is in the network. */
static bool neuron_exists(const job *j, int32_t axis) {
  const qb_pair *pair = j->pair.pair;
  int64_t k = -2 - (int64_t)axis;
  if (k < 0)
    return true;
  if (k >= j->claim->neuron_count || j->claim->neurons[k].node >= pair->quantized->node_count)
    return false;
  qb_value_id value = pair->quantized->nodes[j->claim->neurons[k].node].output;
  return pair->value[value] != QB_NONE && !pair->quantized->values[value].is_constant &&
         j->claim->neurons[k].element < (int64_t)qb_shape_elements(&pair->quantized->values[value].shape);
}

/* Preorder: behind a node that is cut come its lower half and all its parts, then the upper one. `open` are the nodes
 * whose upper half has not come yet. */
static bool read_tree(job *j, int64_t *open) {
  const box_claim *c = j->claim;
  int64_t waiting = 0;
  for (int64_t i = 0; i < c->cut_count; i++) {
    bool lower = i > 0 && j->parts[i - 1].axis != -1;
    if ((i > 0 && !lower && waiting == 0) || c->cuts[i] >= j->inputs || !neuron_exists(j, c->cuts[i]))
      return false;
    int64_t parent = i == 0 ? -1 : lower ? i - 1 : open[--waiting];
    j->parts[i] = (part){parent, c->cuts[i], i > 0 && !lower, parent < 0 ? 0 : j->parts[parent].depth + 1, NULL};
    if (j->parts[i].axis != -1)
      open[waiting++] = i;
    if (j->parts[i].depth > DEEPEST)
      return false;
  }
  return waiting == 0 && j->parts[c->cut_count - 1].axis == -1;
}

static bool fits(const job *j, const knowledge *k) {
  return k->empty || ((!j->claim->keeps || k->keeps) && numbers_fit(j, k->d));
}

/* Why it does not. */
static void explain(const job *j, const knowledge *k, char why[RECOMPUTED_WHY]) {
  const box_claim *c = j->claim;
  for (int64_t i = 0; i < j->outputs; i++) {
    bool outside = c->output_count > 0 && !(c->outputs[i].lo <= k->d[i].lo && c->outputs[i].hi >= k->d[i].hi);
    if (outside)
      snprintf(why, RECOMPUTED_WHY, "output %lld: only [%.9g, %.9g] follows, not [%.9g, %.9g]", (long long)i,
               k->d[i].lo, k->d[i].hi, c->outputs[i].lo, c->outputs[i].hi);
    else if ((c->only < 0 || c->only == i) && !(range_size(k->d[i]) <= c->bound))
      snprintf(why, RECOMPUTED_WHY, "output %lld: only the bound %.9g follows, not %.9g", (long long)i,
               range_size(k->d[i]), c->bound);
    else
      continue;
    return;
  }
  snprintf(why, RECOMPUTED_WHY, "it does not follow that the largest output stays the same");
}

/* The last node before `limit` that is relaxed, or -1, also where there is one part: its nodes are all in the list. */
static int64_t last_relaxed(const job *j, int64_t limit) {
  for (int64_t n = j->part_count > 1 ? limit - 1 : -1; n >= 0; n--)
    if (j->relaxed[n])
      return n;
  return -1;
}

static void add_knowledge(const job *j, const knowledge *more, knowledge *k) {
  k->known = more->known;
  memcpy(k->why, more->why, sizeof k->why);
  k->keeps = k->keeps || more->keeps;
  k->empty = k->empty || more->empty;
  k->nowhere = k->nowhere || more->nowhere;
  for (int64_t i = 0; i < j->outputs && more->known && !more->empty && !more->nowhere; i++)
    k->d[i] = range_meet(k->d[i], more->d[i]);
}

static void start(const job *j, knowledge *k) {
  k->known = true;
  k->keeps = k->empty = k->nowhere = false;
  for (int64_t i = 0; i < j->outputs; i++)
    k->d[i] = (range){-INFINITY, INFINITY};
}

/* The sides of cuts that a part lies on, the innermost first, and the first node that is cut across. */
static int64_t list_sides(const job *j, int64_t at, cut_side *sides, int64_t *first) {
  int64_t count = 0;
  *first = j->pair.pair->quantized->node_count;
  for (; j->parts[at].parent >= 0; at = j->parts[at].parent, count++) {
    int32_t axis = j->parts[j->parts[at].parent].axis;
    sides[count] = (cut_side){j->claim->neurons[-2 - axis], j->parts[at].upper};
    *first = sides[count].cut.node < *first ? sides[count].cut.node : *first;
  }
  return count;
}

static const fact *find_fact(const job *j, int64_t at, int64_t limit) {
  const fact *found = NULL;
#pragma omp critical(qb_check_facts)
  for (const fact *f = j->parts[at].facts; f != NULL; f = f->next)
    found = f->limit == limit ? f : found;
  return found;
}

static fact *new_fact(job *j, int64_t limit) {
  fact *f;
#pragma omp critical(qb_check_facts)
  {
    f = qb_arena_alloc(&j->arena, 1, sizeof *f);
    if (f != NULL && (f->knows.d = qb_arena_alloc(&j->arena, (size_t)j->outputs, sizeof(range))) == NULL)
      f = NULL;
  }
  if (f != NULL)
    f->limit = limit;
  return f;
}

/* Another thread may have found the same meanwhile: that does no harm. */
static void keep_fact(job *j, int64_t at, fact *f) {
#pragma omp critical(qb_check_facts)
  {
    f->next = j->parts[at].facts;
    j->parts[at].facts = f;
  }
}

/* A part of the inputs' box; nowhere where a cut leaves nothing on one side. */
static qb_status bound_piece(const job *j, int64_t at, fact *f, qb_error *error) {
  float *lo = qb_alloc((size_t)(2 * j->inputs), sizeof *lo), *hi = lo + j->inputs;
  question ask = {.limit = f->limit, .lo = lo, .hi = hi};
  if (lo == NULL)
    return qb_fail_memory(error, "a box", (size_t)(2 * j->inputs) * sizeof *lo);
  qb_status status = QB_OK;
  if (box_of(j, at, lo, hi))
    status = bound_box(j, &ask, NULL, &f->knows, error);
  else
    f->knows.known = f->knows.nowhere = true;
  qb_free(lo);
  return status;
}

/* A part of the box that was cut across neurons. */
static qb_status bound_side(const job *j, int64_t at, const knowledge *already, fact *f, qb_error *error) {
  cut_side *sides = qb_alloc((size_t)j->parts[at].depth, sizeof *sides);
  question ask = {.limit = f->limit, .lo = j->lo, .hi = j->hi, .sides = sides, .already = already};
  if (sides == NULL)
    return qb_fail_memory(error, "cuts", (size_t)j->parts[at].depth * sizeof *sides);
  ask.side_count = list_sides(j, at, sides, &ask.first);
  qb_status status = bound_box(j, &ask, NULL, &f->knows, error);
  qb_free(sides);
  return status;
}

/* Adds what is known of a part, which is found out where it was not yet: of a leaf, which is part of no other, only
 * what is missing. */
static qb_status learn_part(job *j, int64_t at, int64_t limit, knowledge *k, qb_error *error) {
  const fact *known = find_fact(j, at, limit);
  if (known == NULL) {
    fact *f = new_fact(j, limit);
    if (f == NULL)
      return qb_fail_memory(error, "parts of a box", (size_t)j->outputs * sizeof(range));
    const knowledge *already = j->parts[at].axis == -1 && (k->keeps || !j->claim->keeps) ? k : NULL;
    QB_TRY(j->has_whole ? bound_side(j, at, already, f, error) : bound_piece(j, at, f, error));
    keep_fact(j, at, f);
    known = f;
  }
  add_knowledge(j, &known->knows, k);
  return QB_OK;
}

static bool is_open(const job *j, const knowledge *k) { return k->known && !k->nowhere && !fits(j, k); }

/* What is known of a leaf: bounded itself and, as long as that is not enough, as a piece of the parts around it. Cut
 * across inputs, then the same without the last nodes, which some parts had no time for. */
static qb_status learn_piece(job *j, int64_t leaf, knowledge *k, qb_error *error) {
  start(j, k);
  for (int64_t limit = j->pair.pair->quantized->node_count; limit >= 0 && is_open(j, k); limit = last_relaxed(j, limit))
    for (int64_t p = leaf; p >= 0 && is_open(j, k); p = j->parts[p].parent)
      QB_TRY(learn_part(j, p, limit, k, error));
  return QB_OK;
}

/* The same, cut across neurons: by what is known of the whole box, then without relaxing any hidden layer again and
 * with that; the other way round once it was needed. */
static qb_status learn_side(job *j, int64_t leaf, knowledge *k, qb_error *error) {
  int64_t all = j->pair.pair->quantized->node_count;
  bool again;
#pragma omp atomic read
  again = j->again;
  start(j, k);
  QB_TRY(learn_part(j, 0, all, k, error));
  for (int turn = 0; turn < 2 && is_open(j, k); turn++) {
    bool relaxes = (turn == 1) != again;
    for (int64_t p = leaf; p > 0 && is_open(j, k); p = j->parts[p].parent)
      QB_TRY(learn_part(j, p, relaxes ? all : 0, k, error));
    if (relaxes && !again && k->known && fits(j, k)) {
#pragma omp atomic write
      j->again = true;
    }
  }
  return QB_OK;
}

/* Joins a leaf with the result; called by one thread at a time. */
static void join(job *j, const knowledge *k) {
  recomputed *r = j->result;
  if (j->stopped)
    return;
  if (!k->known) {
    r->known = false;
    snprintf(r->why, sizeof r->why, "%s", k->why);
  } else if (!fits(j, k)) {
    r->refuted = true;
    explain(j, k, r->why);
  }
  j->stopped = !r->known || r->refuted;
  j->all_empty = j->all_empty && k->empty;
  if (k->empty)
    return;
  for (int64_t i = 0; i < j->outputs && !j->stopped; i++)
    if (j->claim->only < 0 || j->claim->only == i)
      r->bound = fmax(r->bound, range_size(k->d[i]));
}

static qb_status bound_leaf(job *j, int64_t leaf, qb_error *error) {
  knowledge k = {.d = qb_alloc((size_t)j->outputs, sizeof(range))};
  if (k.d == NULL)
    return qb_fail_memory(error, "a box", (size_t)j->outputs * sizeof *k.d);
  qb_status status = j->has_whole ? learn_side(j, leaf, &k, error) : learn_piece(j, leaf, &k, error);
  if (status == QB_OK) {
#pragma omp critical(qb_check_parts)
    join(j, &k);
  }
  qb_free(k.d);
  return status;
}

static qb_status bound_parts(job *j, qb_error *error) {
  qb_status status = QB_OK;
  bool stop = false;
#pragma omp parallel for schedule(dynamic) if (j->part_count > 1)
  for (int64_t i = 0; i < j->part_count; i++) {
    qb_error own;
    bool skip;
#pragma omp atomic read
    skip = stop;
    if (skip || j->parts[i].axis != -1)
      continue;
    qb_status done = bound_leaf(j, i, &own);
#pragma omp critical(qb_check_parts)
    {
      if (done != QB_OK)
        status = qb_fail(error, done, "%s", own.message);
#pragma omp atomic write
      stop = j->stopped || done != QB_OK;
    }
  }
  return status;
}

static void refuse(recomputed *result, const char *why) {
  result->refuted = true;
  snprintf(result->why, sizeof result->why, "%s", why);
}

/* The whole box, where neurons are cut: ranges, which hold in every part, and what follows for outputs. */
static qb_status bound_whole(job *j, qb_error *error) {
  fact *f = new_fact(j, j->pair.pair->quantized->node_count);
  question ask = {.limit = j->pair.pair->quantized->node_count, .lo = j->lo, .hi = j->hi};
  if (f == NULL)
    return qb_fail_memory(error, "a box", (size_t)j->outputs * sizeof(range));
  f->knows.known = true;
  j->has_whole = true;
  QB_TRY(bound_box(j, &ask, &j->whole, &f->knows, error));
  keep_fact(j, 0, f);
  if (!f->knows.known) {
    j->result->known = false;
    snprintf(j->result->why, sizeof j->result->why, "%s", f->knows.why);
  }
  return QB_OK;
}

static qb_status bound_all(job *j, qb_error *error) {
  bool inputs = false;
  for (int64_t i = 0; i < j->part_count; i++)
    inputs = inputs || j->parts[i].axis >= 0;
  if (inputs && j->claim->neuron_count > 0) {
    refuse(j->result, "a tree is cut across inputs or across neurons, not both");
    return QB_OK;
  }
  if (j->claim->neuron_count > 0)
    QB_TRY(bound_whole(j, error));
  j->all_empty = true;
  if (j->result->known)
    QB_TRY(bound_parts(j, error));
  if (j->result->known && !j->result->refuted && j->all_empty)
    refuse(j->result, "every part is empty, which no tree over a box can be");
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------------- a box */

static qb_status prepare(job *j, const qb_pair *pair, qb_error *error) {
  size_t nodes = (size_t)pair->quantized->node_count;
  const box_claim *c = j->claim;
  j->part_count = c->cut_count > 0 ? c->cut_count : 1;
  j->relaxed = qb_arena_alloc(&j->arena, nodes, sizeof *j->relaxed);
  j->parts = qb_arena_alloc(&j->arena, (size_t)j->part_count, sizeof *j->parts);
  j->open = qb_arena_alloc(&j->arena, (size_t)j->part_count, sizeof *j->open);
  if (j->relaxed == NULL || j->parts == NULL || j->open == NULL)
    return qb_fail_memory(error, "a box", nodes + (size_t)j->part_count * sizeof *j->parts);
  j->parts[0] = (part){-1, -1, false, 0, NULL};
  for (int64_t i = 0; i < c->relaxed_count; i++) {
    if (c->relaxed[i] >= pair->quantized->node_count) {
      refuse(j->result, "it names a node that the network does not have");
      return QB_OK;
    }
    j->relaxed[c->relaxed[i]] = true;
  }
  return back_pair_make(pair, &j->pair, error);
}

qb_status recompute_box(const box_claim *c, const qb_pair *pair, const float *lo, const float *hi, recomputed *result,
                        qb_error *error) {
  const qb_graph *graph = pair->quantized;
  static const char *const methods[] = {"interval", "relaxation", "bisection"};
  job j = {.claim = c, .lo = lo, .hi = hi, .result = result};
  *result = (recomputed){0};
  for (int k = 0; k < 3; k++)
    result->known = result->known || strcmp(c->method, methods[k]) == 0;
  if (!result->known) {
    snprintf(result->why, sizeof result->why, "the method '%s' is not known here", c->method);
    return QB_OK;
  }
  j.inputs = (int64_t)qb_shape_elements(&graph->values[graph->inputs[0]].shape);
  j.outputs = (int64_t)qb_shape_elements(&graph->values[graph->outputs[0]].shape);
  if (c->only >= j.outputs || (c->output_count > 0 && c->output_count != j.outputs)) {
    refuse(result, "the network has other outputs than the certificate");
    return QB_OK;
  }
  qb_arena_init(&j.arena);
  qb_status status = prepare(&j, pair, error);
  if (status == QB_OK && c->cut_count > 0 && !read_tree(&j, j.open))
    refuse(result, "the cuts are no tree over inputs or neurons of the network");
  if (status == QB_OK && !result->refuted)
    status = bound_all(&j, error);
  if (j.has_whole)
    walk_free(&j.whole);
  back_pair_free(&j.pair);
  qb_arena_free(&j.arena);
  return status;
}
