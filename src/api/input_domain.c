/* The box of network inputs that a domain means; see input_domain.h. */
#include "api/input_domain.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "bound/rounding.h"
#include "data/box_file.h"
#include "data/dataset.h"

static qb_status make_pixel_domain(const qb_graph *graph, const char *how, qb_domain *domain, qb_error *error) {
  enum { MOST_CHANNELS = 4 };
  if (how == NULL)
    return qb_fail(error, QB_ERROR_ARGUMENT, "for which inputs? Name the preprocessing of pixels, or give a box");
  qb_preprocess preprocess;
  QB_TRY(qb_preprocess_parse(how, &preprocess, error));
  const qb_shape *shape = &graph->values[graph->inputs[0]].shape;
  if (shape->rank < 2 || shape->dims[1] < 1 || shape->dims[1] > MOST_CHANNELS) {
    /* a flat input: every pixel has the limits of the first channel, if all channels agree */
    float lo, hi;
    if (preprocess.normalize)
      return qb_fail(error, QB_ERROR_ARGUMENT, "the input has no channels of pixels for this mean and std; give a box");
    if (!qb_preprocess_pixel_box(&preprocess, 0, &lo, &hi))
      return qb_fail(error, QB_ERROR_ARGUMENT, "the preprocessing '%s' does not map pixels; give a box", how);
    return qb_domain_interval(graph, lo, hi, domain, error);
  }
  float lo[MOST_CHANNELS], hi[MOST_CHANNELS];
  for (int32_t c = 0; c < shape->dims[1]; c++)
    if (!qb_preprocess_pixel_box(&preprocess, c, &lo[c], &hi[c]))
      return qb_fail(error, QB_ERROR_ARGUMENT, "the preprocessing '%s' does not map pixels; give a box", how);
  return qb_domain_channels(graph, lo, hi, (int32_t)shape->dims[1], domain, error);
}

/* ----------------------------------------------------------------------------------------------------- from a file */

/* Which of the file's boxes is meant. */
static qb_status choose_box(const qb_inputs *inputs, int64_t count, int64_t *row, qb_error *error) {
  *row = inputs->box_row < 0 ? 0 : inputs->box_row;
  if (inputs->box_row < 0 && count > 1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: holds %lld boxes; say which: row 0 to %lld", inputs->box,
                   (long long)count, (long long)count - 1);
  if (*row >= count)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: there is no row %lld, only 0 to %lld", inputs->box, (long long)*row,
                   (long long)count - 1);
  return QB_OK;
}

static qb_status copy_box(const qb_graph *graph, const qb_inputs *inputs, const qb_input_boxes *boxes,
                          qb_domain *domain, qb_error *error) {
  int64_t row = 0;
  QB_TRY(choose_box(inputs, boxes->count, &row, error));
  const qb_input_box *box = &boxes->boxes[row];
  int64_t elements = (int64_t)qb_shape_elements(&graph->values[graph->inputs[0]].shape);
  if (box->count != elements)
    return qb_fail(error, QB_ERROR_SHAPE, "%s: bounds %lld inputs but %s has %lld", inputs->box, (long long)box->count,
                   graph->name, (long long)elements);
  QB_TRY(qb_domain_interval(graph, 0, 0, domain, error));
  memcpy(domain->lo, box->lo, (size_t)elements * sizeof *domain->lo);
  memcpy(domain->hi, box->hi, (size_t)elements * sizeof *domain->hi);
  return QB_OK;
}

static qb_status make_file_domain(const qb_graph *graph, const qb_inputs *inputs, qb_domain *domain, qb_error *error) {
  qb_input_boxes boxes;
  if (inputs->box == NULL)
    return qb_fail(error, QB_ERROR_ARGUMENT, "for which inputs? Name the file of the box");
  qb_status status = qb_input_boxes_read(inputs->box, &boxes, error);
  if (status == QB_OK)
    status = copy_box(graph, inputs, &boxes, domain, error);
  qb_input_boxes_free(&boxes);
  return status;
}

/* ------------------------------------------------------------------------------------------------------- the call */

qb_status qb_domain_make(const qb_graph *graph, const qb_inputs *inputs, qb_domain *domain, qb_error *error) {
  if (graph->input_count != 1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: has %d inputs; bounding needs a network with one", graph->name,
                   graph->input_count);
  if (inputs->kind == QB_DOMAIN_PIXELS)
    return make_pixel_domain(graph, inputs->preprocess, domain, error);
  if (inputs->kind == QB_DOMAIN_FILE)
    return make_file_domain(graph, inputs, domain, error);
  if (!isfinite(inputs->lo) || !isfinite(inputs->hi) || inputs->lo > inputs->hi)
    return qb_fail(error, QB_ERROR_ARGUMENT, "the box [%g, %g] needs finite limits in order", inputs->lo, inputs->hi);
  return qb_domain_interval(graph, qb_float_down(inputs->lo), qb_float_up(inputs->hi), domain, error);
}

const char *qb_domain_describe(qb_arena *arena, const qb_inputs *inputs) {
  if (inputs->kind == QB_DOMAIN_PIXELS)
    return qb_arena_format(arena, "pixels %s", inputs->preprocess);
  if (inputs->kind == QB_DOMAIN_FILE) {
    const char *slash = strrchr(inputs->box, '/'), *name = slash == NULL ? inputs->box : slash + 1;
    return inputs->box_row < 0 ? qb_arena_format(arena, "box %s", name)
                               : qb_arena_format(arena, "box %s row %lld", name, (long long)inputs->box_row);
  }
  return qb_arena_format(arena, "[%.9g, %.9g]", inputs->lo, inputs->hi);
}
