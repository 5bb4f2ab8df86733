/* Nodes that are sums of input elements: copies, Add, averages, pads, BatchNormalization, products with constants, and
 * maxima that one element wins. Where a node is not, the form takes the range of its output. */
#include "base/alloc.h"
#include "base/error.h"
#include "check/check_backward.h"
#include "check/check_layout.h"

typedef struct node_call {
  const back_box *box;
  const qb_pair *pair;
  const qb_graph *graph;
  const qb_node *node, *partner;
  const qb_shape *shape;
  bool same;   /* a product with a constant that is the same in both networks */
  double near; /* a maximum: numbers so near to each other count as equal */
} node_call;

/* y_i = sum of factor input_at + constant, in the original and in the other network; `lost` bounds what was rounded in
 * the constant, 16 units the rounding of factors; y_i may be larger by up to `over` in either. */
typedef struct link {
  int32_t slot;
  int64_t at;
  double factor;
} link;

typedef struct links {
  int64_t count;
  link *link; /* (room) */
  double constant[2], lost, over[2];
} links;

static const qb_value *operand(const node_call *n, int32_t slot) { return &n->graph->values[n->node->inputs[slot]]; }

static bool copies(links *l, int32_t slot, int64_t at, double factor) {
  l->link[l->count++] = (link){slot, at, factor};
  return true;
}

/* ------------------------------------------------------------------------------------------------------- constants */

/* Entries for output element i in both networks. */
static bool constants_at(const node_call *n, int32_t slot, int64_t i, double c[2]) {
  const qb_value *ours = operand(n, slot),
                 *theirs = n->partner == NULL ? NULL : constant_of_partner(n->pair, n->partner, slot);
  if (theirs == NULL)
    return false;
  c[0] = (double)qb_view_f32(&theirs->constant)[qb_shape_broadcast_index(n->shape, &theirs->shape, i)];
  c[1] = (double)qb_view_f32(&ours->constant)[qb_shape_broadcast_index(n->shape, &ours->shape, i)];
  return true;
}

static bool link_add(const node_call *n, int64_t i, links *l) {
  for (int32_t slot = 0; slot < 2; slot++) {
    double sign = slot == 1 && n->node->op == QB_OP_SUB ? -1 : 1, c[2];
    if (!operand(n, slot)->is_constant) {
      copies(l, slot, qb_shape_broadcast_index(n->shape, &operand(n, slot)->shape, i), sign);
      continue;
    }
    if (!constants_at(n, slot, i, c))
      return false;
    for (int k = 0; k < 2; k++)
      l->constant[k] = sign * c[k];
  }
  return true;
}

/* Whether a Mul or Div has one constant, the same in both networks in every element. */
static bool has_same_constant(const node_call *n) {
  int32_t slot = n->node->input_count == 2 && operand(n, 1)->is_constant ? 1 : 0;
  bool divides = n->node->op == QB_OP_DIV;
  double c[2];
  if ((!divides && n->node->op != QB_OP_MUL) || !operand(n, slot)->is_constant || operand(n, 1 - slot)->is_constant ||
      (divides && slot == 0))
    return false;
  for (int64_t i = 0; i < (int64_t)qb_shape_elements(n->shape); i++)
    if (!constants_at(n, slot, i, c) || c[0] != c[1] || (divides && c[0] == 0))
      return false;
  return true;
}

static bool link_mul(const node_call *n, int64_t i, links *l) {
  int32_t slot = operand(n, 1)->is_constant ? 1 : 0;
  bool divides = n->node->op == QB_OP_DIV;
  double c[2];
  if (!n->same || !constants_at(n, slot, i, c))
    return false;
  return copies(l, 1 - slot, qb_shape_broadcast_index(n->shape, &operand(n, 1 - slot)->shape, i),
                divides ? 1 / c[0] : c[0]);
}

static bool link_batch_norm(const node_call *n, int64_t i, links *l) {
  double p[4];
  for (int32_t k = 0; k < 4; k++)
    p[k] = (double)qb_view_f32(&operand(n, 1 + k)->constant)[qb_shape_channel(n->shape, i)];
  double s = p[0] / sqrt(p[3] + (double)n->node->attributes.batch_norm.epsilon), shift = s * p[2];
  l->constant[0] = l->constant[1] = p[1] - shift;
  l->lost = 0x1p-48 * (fabs(p[1]) + fabs(shift));
  return copies(l, 0, i, s);
}

/* --------------------------------------------------------------------------------------------------------- copies */

static bool link_transpose(const node_call *n, int64_t i, links *l) {
  return copies(l, 0, transpose_source(n->node, &operand(n, 0)->shape, n->shape, i), 1);
}

static bool link_pad(const node_call *n, int64_t i, links *l) {
  int64_t source = pad_source(n->node, &operand(n, 0)->shape, n->shape, i);
  if (source >= 0)
    return copies(l, 0, source, 1);
  l->constant[0] = (double)n->partner->attributes.pad.value;
  l->constant[1] = (double)n->node->attributes.pad.value;
  return true;
}

static bool link_concat(const node_call *n, int64_t i, links *l) {
  int32_t axis = n->node->attributes.axes.axis;
  int64_t inner = 1, whole = n->shape->dims[axis];
  for (int32_t k = axis + 1; k < n->shape->rank; k++)
    inner *= n->shape->dims[k];
  int64_t position = i / inner % whole;
  for (int32_t slot = 0; slot < n->node->input_count; slot++) {
    int64_t part = operand(n, slot)->shape.dims[axis];
    if (position < part)
      return !operand(n, slot)->is_constant &&
             copies(l, slot, (i / (whole * inner) * part + position) * inner + i % inner, 1);
    position -= part;
  }
  return false;
}

/* ----------------------------------------------------------------------------------------------------------- pools */

static bool has_window(const qb_node *node) { return node->op == QB_OP_AVERAGE_POOL || node->op == QB_OP_MAX_POOL; }

/* Links every pixel that output element i sees; returns the number of taps inside the padded image. */
static int64_t see(const node_call *n, int64_t i, links *l) {
  const qb_shape *x = &operand(n, 0)->shape;
  int64_t area = x->dims[2] * x->dims[3], padded = 0;
  if (!has_window(n->node)) {
    for (int64_t k = 0; k < area; k++)
      copies(l, 0, i * area + k, 1);
    return area;
  }
  const qb_window *w = &n->node->attributes.pool.window;
  int64_t channel = i / (n->shape->dims[2] * n->shape->dims[3]);
  int64_t at[2] = {i / n->shape->dims[3] % n->shape->dims[2] * w->stride[0], i % n->shape->dims[3] * w->stride[1]};
  for (int64_t a = 0; a < w->kernel[0]; a++)
    for (int64_t b = 0; b < w->kernel[1]; b++) {
      int64_t y = at[0] + a * w->dilation[0] - w->pad_begin[0], z = at[1] + b * w->dilation[1] - w->pad_begin[1];
      padded += y < x->dims[2] + w->pad_end[0] && z < x->dims[3] + w->pad_end[1];
      if (y >= 0 && y < x->dims[2] && z >= 0 && z < x->dims[3])
        copies(l, 0, channel * area + y * x->dims[3] + z, 1);
    }
  return padded;
}

static bool link_average(const node_call *n, int64_t i, links *l) {
  if (operand(n, 0)->shape.rank != 4)
    return false;
  int64_t padded = see(n, i, l);
  bool counts_pads = n->node->op == QB_OP_AVERAGE_POOL && n->node->attributes.pool.count_include_pad;
  for (int64_t k = 0; k < l->count; k++)
    l->link[k].factor = 1 / (double)(counts_pads ? padded : l->count);
  return true;
}

/* By how much others of the window exceed `at`, at most, in both networks. */
static void exceed(const links *l, const triple *x, int64_t at, double over[2]) {
  over[0] = over[1] = 0;
  for (int64_t k = 0; k < l->count; k++)
    if (l->link[k].at != at) {
      const triple *other = &x[l->link[k].at];
      over[0] = other->x.hi > x[at].x.lo ? fmax(over[0], add_up(other->x.hi, -x[at].x.lo)) : over[0];
      over[1] = other->q.hi > x[at].q.lo ? fmax(over[1], add_up(other->q.hi, -x[at].q.lo)) : over[1];
    }
}

/* The first element that is the largest of the window in both networks on the whole box, or so nearly that it may be.
 */
static bool link_max_pool(const node_call *n, int64_t i, links *l) {
  const triple *x = n->box->ranges->values[n->node->inputs[0]].at;
  double highest = -INFINITY;
  see(n, i, l);
  for (int64_t k = 0; k < l->count; k++)
    highest = fmax(highest, x[l->link[k].at].x.lo);
  for (int64_t k = 0; k < l->count; k++) {
    if (x[l->link[k].at].x.lo < highest - n->near)
      continue;
    exceed(l, x, l->link[k].at, l->over);
    if (l->over[0] <= n->near && l->over[1] <= n->near) {
      l->link[0] = l->link[k];
      l->count = 1;
      return true;
    }
  }
  return false;
}

/* False: nothing linear is known. */
static bool links_of(const node_call *n, int64_t i, links *l) {
  *l = (links){.link = l->link};
  switch (n->node->op) {
  case QB_OP_ADD:
  case QB_OP_SUB: return link_add(n, i, l);
  case QB_OP_MUL:
  case QB_OP_DIV: return link_mul(n, i, l);
  case QB_OP_BATCH_NORM: return link_batch_norm(n, i, l);
  case QB_OP_TRANSPOSE: return link_transpose(n, i, l);
  case QB_OP_PAD: return link_pad(n, i, l);
  case QB_OP_CONCAT: return link_concat(n, i, l);
  case QB_OP_MAX_POOL: return link_max_pool(n, i, l);
  case QB_OP_AVERAGE_POOL:
  case QB_OP_GLOBAL_AVERAGE_POOL:
  case QB_OP_REDUCE_MEAN: return link_average(n, i, l);
  case QB_OP_FLATTEN:
  case QB_OP_RESHAPE:
  case QB_OP_SQUEEZE:
  case QB_OP_UNSQUEEZE:
  case QB_OP_IDENTITY:
  case QB_OP_DROPOUT:
  case QB_OP_DEQUANTIZE_LINEAR: return copies(l, 0, i, 1);
  default: return false;
  }
}

/* ------------------------------------------------------------------------------------------------------ substitution
 */

/* Coefficients of one part over every input. */
typedef struct target {
  double *to[QB_MAX_INPUTS];
  bool exact[QB_MAX_INPUTS];
} target;

static qb_status find_targets(carried *c, const qb_node *node, int64_t terms, target t[2]) {
  const qb_graph *graph = c->box->pair->pair->quantized;
  for (int part = 0; part < 2; part++)
    for (int32_t slot = 0; c->at[part][node->output] != NULL && slot < node->input_count; slot++) {
      qb_value_id x = node->inputs[slot];
      if (x == QB_NONE || graph->values[x].is_constant)
        continue;
      t[part].to[slot] = carry_to(c, x, part, terms, &t[part].exact[slot]);
      if (t[part].to[slot] == NULL)
        return qb_fail_memory(c->error, node->name, qb_shape_elements(&graph->values[x].shape) * sizeof(double));
    }
  return QB_OK;
}

/* Range of the output in the place of the element. */
static void take_range(const carried *c, const node_call *n, int part, int64_t i, double factor, tally *t) {
  const triple *y = &c->box->ranges->values[n->node->output].at[i];
  range r = part == 1 ? y->d : c->kind == FORM_Q ? y->q : y->x;
  double top = factor > 0 ? factor * r.hi : factor * r.lo;
  t->sum += top;
  t->size += fabs(top);
  t->terms++;
}

static void take_links(const carried *c, const node_call *n, target *to, int part, int64_t row, double factor,
                       const links *l, bool once, tally *t) {
  double shift = part == 1 ? l->constant[1] - l->constant[0] : l->constant[c->kind == FORM_Q];
  double over = part == 0 ? (factor > 0) * l->over[c->kind == FORM_Q] : l->over[factor > 0]; /* y' - y: less by y's */
  for (int64_t k = 0; k < l->count; k++) {
    const link *from = &l->link[k];
    qb_value_id x = n->node->inputs[from->slot];
    int64_t width = c->box->ranges->values[x].count;
    double term = factor * from->factor;
    to->to[from->slot][row * width + from->at] += term;
    if (!once || !to->exact[from->slot] || fabs(from->factor) != 1) {
      t->size += fabs(term) * carried_reach(c, x, part, from->at);
      t->terms++;
    }
  }
  t->sum += factor * shift + fabs(factor) * over;
  t->size += fabs(factor * shift) + fabs(factor) * over;
  t->terms += (shift != 0) + (over != 0);
  t->lost += part == 0 ? fabs(factor) * l->lost : 0;
}

/* Whether every input element goes into one output element at most. */
static bool is_once(const node_call *n) {
  int64_t outputs = (int64_t)qb_shape_elements(n->shape), most = 0;
  for (int32_t slot = 0; slot < n->node->input_count; slot++)
    if (n->node->inputs[slot] != QB_NONE && !operand(n, slot)->is_constant) {
      int64_t own = (int64_t)qb_shape_elements(&operand(n, slot)->shape);
      if (n->node->op != QB_OP_CONCAT && own < outputs && n->node->op != QB_OP_PAD)
        return false;
      most++;
    }
  return !has_window(n->node) && !(most == 2 && n->node->inputs[0] == n->node->inputs[1]) &&
         !(n->node->op == QB_OP_CONCAT && most > 1); /* a tensor may be there twice */
}

static qb_status substitute(carried *c, const node_call *n, links *l, tally *tallies) {
  target t[2] = {0};
  bool once = is_once(n);
  int64_t outputs = (int64_t)qb_shape_elements(n->shape);
  QB_TRY(find_targets(c, n->node, once ? 1 : outputs, t));
  for (int64_t i = 0; i < outputs; i++) {
    bool linear = links_of(n, i, l);
    for (int part = 0; part < 2; part++)
      for (int64_t r = 0; c->at[part][n->node->output] != NULL && r < c->rows; r++) {
        double factor = c->at[part][n->node->output][r * outputs + i];
        if (factor != 0 && linear)
          take_links(c, n, &t[part], part, r, factor, l, once, &tallies[r]);
        else if (factor != 0)
          take_range(c, n, part, i, factor, &tallies[r]);
      }
  }
  for (int64_t r = 0; r < c->rows; r++)
    settle(c, r, &tallies[r]);
  return QB_OK;
}

qb_status carry_links(carried *c, qb_node_id id) {
  const qb_pair *pair = c->box->pair->pair;
  const qb_node *node = &pair->quantized->nodes[id];
  node_call n = {c->box,
                 pair,
                 pair->quantized,
                 node,
                 pair->partner[id] == QB_NONE ? NULL : &pair->original->nodes[pair->partner[id]],
                 &pair->quantized->values[node->output].shape,
                 false,
                 node->op == QB_OP_MAX_POOL ? near_of(&c->box->ranges->values[node->inputs[0]]) : 0};
  n.same = has_same_constant(&n);
  size_t room = QB_MAX_INPUTS;
  if (has_window(node))
    room += (size_t)(node->attributes.pool.window.kernel[0] * node->attributes.pool.window.kernel[1]);
  else if (node->inputs[0] != QB_NONE)
    room += qb_shape_elements(&operand(&n, 0)->shape);
  links l = {.link = qb_alloc(room, sizeof *l.link)};
  tally *tallies = qb_alloc((size_t)c->rows, sizeof *tallies);
  qb_status status = l.link == NULL || tallies == NULL ? qb_fail_memory(c->error, node->name, room * sizeof *l.link)
                                                       : substitute(c, &n, &l, tallies);
  qb_free(l.link);
  qb_free(tallies);
  return status;
}
