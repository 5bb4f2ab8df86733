/* Linear forms back through matrix layers. Between activations only the elements that some plane lets through count:
 * in a network of rectifiers often half of them on either side, so a quarter of the weights. */
#include <cblas.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/backward_internal.h"

/* ---------------------------------------------------------------------------------------------------- what is left */

/* Narrowed weights have at most so many numbers, and at most so much of the layer's. */
enum { MOST_NARROW = 1 << 22 };
static const double WORTH_NARROWING = 0.8;

/* Marks what of the layer's output reaches it through activations; false where that is not known yet. */
static bool mark_outputs(const qb_backward *backward, qb_value_id y, int64_t n, bool *alive) {
  if (!backward->read_by_kinks[y])
    return false;
  qb_value_id last = backward->ahead[y];
  for (int32_t k = 0; k < backward->reader_count[last]; k++) {
    const qb_backward_node *reader = &backward->nodes[backward->readers[last][k]];
    if (!reader->ready)
      return false;
    qb_backward_mark_alive(reader, n, false, alive);
  }
  return true;
}

static void mark_inputs(const qb_backward *backward, qb_value_id x, int64_t n, bool *alive) {
  qb_node_id producer = backward->pair->quantized->values[x].producer;
  if (producer >= 0 && backward->nodes[producer].is_kinked && backward->nodes[producer].ready)
    qb_backward_mark_alive(&backward->nodes[producer], n, true, alive);
  else
    for (int64_t i = 0; i < n; i++)
      alive[i] = true;
}

static int32_t *list_of(qb_arena *arena, const bool *alive, int64_t n, int32_t *count) {
  *count = 0;
  int32_t *list = qb_arena_alloc(arena, (size_t)n, sizeof *list);
  for (int64_t i = 0; list != NULL && i < n; i++)
    if (alive[i])
      list[(*count)++] = (int32_t)i;
  *count -= qb_backward_fault_planted == QB_BACKWARD_FAULT_NARROWED && *count > 0;
  return list;
}

static qb_status gather_weights(qb_backward *backward, qb_backward_node *data, int64_t inputs, qb_error *error) {
  qb_narrow_layer *narrow = &data->narrow;
  for (int k = 0; k < QB_WEIGHT_COUNT; k++) {
    size_t size = (size_t)narrow->out_count * (size_t)narrow->in_count;
    double *to = narrow->weight[k] = qb_arena_alloc(&backward->box_arena, size, sizeof *to);
    if (to == NULL)
      return qb_fail_memory(error, "weights between activations", size * sizeof *to);
    for (int32_t o = 0; o < narrow->out_count; o++, to += narrow->in_count) {
      const double *row = data->weight[k] + narrow->outs[o] * inputs;
      for (int32_t i = 0; i < narrow->in_count; i++)
        to[i] = row[narrow->ins[i]];
    }
  }
  narrow->ready = true;
  return QB_OK;
}

static qb_status narrow_layer(qb_backward *backward, qb_backward_node *data, const bool *alive[2],
                              const int64_t count[2], qb_error *error) {
  qb_narrow_layer *narrow = &data->narrow;
  narrow->ins = list_of(&backward->box_arena, alive[0], count[0], &narrow->in_count);
  narrow->outs = list_of(&backward->box_arena, alive[1], count[1], &narrow->out_count);
  if (narrow->ins == NULL || narrow->outs == NULL)
    return qb_fail_memory(error, "weights between activations", (size_t)count[0] * sizeof *narrow->ins);
  double left = (double)narrow->out_count * (double)narrow->in_count;
  if (left > MOST_NARROW || left > WORTH_NARROWING * (double)count[0] * (double)count[1])
    return QB_OK;
  return gather_weights(backward, data, count[0], error);
}

qb_status qb_backward_narrow(qb_backward *backward, qb_node_id id, qb_error *error) {
  const qb_node *node = &backward->pair->quantized->nodes[id];
  qb_backward_node *data = &backward->nodes[id];
  int64_t n[2] = {backward->box->states[node->inputs[0]].count, backward->box->states[node->output].count};
  const qb_shape *shape = &backward->pair->quantized->values[data->linear.weight].shape;
  if (data->narrow.tried || node->op == QB_OP_CONV || node->op == QB_OP_CONV_TRANSPOSE ||
      !backward->read_by_kinks[node->output] || (int64_t)qb_shape_elements(shape) != n[0] * n[1])
    return QB_OK;
  bool *alive = qb_alloc((size_t)(n[0] + n[1]), sizeof *alive);
  if (alive == NULL)
    return qb_fail_memory(error, node->name, (size_t)(n[0] + n[1]));
  qb_status status = QB_OK;
  if (mark_outputs(backward, node->output, n[1], alive + n[0])) {
    mark_inputs(backward, node->inputs[0], n[0], alive);
    data->narrow.tried = true;
    status = narrow_layer(backward, data, (const bool *[2]){alive, alive + n[0]}, n, error);
  }
  qb_free(alive);
  return status;
}

/* -------------------------------------------------------------------------------------------------------- the walk */

static void add_scaled(int64_t n, double factor, const double *w, double *c) {
  for (int64_t i = 0; i < n; i++)
    c[i] += factor * w[i];
}

static void unit_rows(const qb_walk *walk, const qb_backward_node *data, const qb_layer_shape *s,
                      const qb_walk_product parts[2], double *c) {
  for (int k = 0; k < 2; k++)
    for (int64_t r = 0; parts[k].rows != NULL && r < walk->rows; r++) {
      int64_t position = walk->element[r] / s->channels[1], o = walk->element[r] % s->channels[1];
      add_scaled(s->channels[0], walk->sign[r], data->weight[parts[k].weight] + o * s->channels[0],
                 c + r * s->inputs + position * s->channels[0]);
    }
}

/* C += Y W, all in row order without gaps. */
static void multiply(int64_t rows, int64_t outs, int64_t ins, const double *y, const double *w, double *c) {
  if (rows > 0 && outs > 0 && ins > 0)
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)ins, (int)outs, 1, y, (int)outs, w, (int)ins,
                1, c, (int)ins);
}

static qb_status narrow_rows(const qb_walk *walk, const qb_narrow_layer *narrow, const qb_layer_shape *s,
                             const qb_walk_product parts[2], double *c) {
  int64_t outs = narrow->out_count, ins = narrow->in_count;
  double *y = qb_alloc((size_t)(walk->rows * (outs + ins)), sizeof *y), *to = y + walk->rows * outs;
  if (y == NULL)
    return qb_fail_memory(walk->error, "rows of a relaxation", (size_t)(walk->rows * (outs + ins)) * sizeof *y);
  for (int k = 0; k < 2; k++) {
    if (parts[k].rows == NULL)
      continue;
    for (int64_t r = 0; r < walk->rows; r++)
      for (int64_t o = 0; o < outs; o++)
        y[r * outs + o] = parts[k].rows[r * s->outputs + narrow->outs[o]];
    multiply(walk->rows, outs, ins, y, narrow->weight[parts[k].weight], to);
  }
  for (int64_t r = 0; r < walk->rows; r++)
    for (int64_t i = 0; i < ins; i++)
      c[r * s->inputs + narrow->ins[i]] += to[r * ins + i];
  qb_free(y);
  return QB_OK;
}

qb_status qb_walk_matrix(const qb_walk *walk, qb_node_id id, const qb_layer_shape *s, const qb_walk_product parts[2],
                         double *c) {
  const qb_backward_node *data = &walk->backward->nodes[id];
  if (walk->element != NULL) {
    unit_rows(walk, data, s, parts, c);
    return QB_OK;
  }
  const qb_value_id *ahead = walk->backward->ahead;
  if (data->narrow.ready && ahead[walk->start] != ahead[walk->backward->pair->quantized->nodes[id].output])
    return narrow_rows(walk, &data->narrow, s, parts, c);
  for (int k = 0; k < 2; k++)
    if (parts[k].rows != NULL)
      multiply(walk->rows * s->positions, s->channels[1], s->channels[0], parts[k].rows, data->weight[parts[k].weight],
               c);
  return QB_OK;
}
