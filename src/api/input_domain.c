/* The box of network inputs that a domain means; see input_domain.h. */
#include "api/input_domain.h"

#include <math.h>

#include "base/error.h"
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

/* The float at or below, at or above x. */
static float float_down(double x) { return (double)(float)x <= x ? (float)x : nextafterf((float)x, -INFINITY); }
static float float_up(double x) { return (double)(float)x >= x ? (float)x : nextafterf((float)x, INFINITY); }

qb_status qb_domain_make(const qb_graph *graph, const qb_inputs *inputs, qb_domain *domain, qb_error *error) {
  if (graph->input_count != 1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "%s: has %d inputs; bounding needs a network with one", graph->name,
                   graph->input_count);
  if (inputs->kind == QB_DOMAIN_PIXELS)
    return make_pixel_domain(graph, inputs->preprocess, domain, error);
  if (!isfinite(inputs->lo) || !isfinite(inputs->hi) || inputs->lo > inputs->hi)
    return qb_fail(error, QB_ERROR_ARGUMENT, "the box [%g, %g] needs finite limits in order", inputs->lo, inputs->hi);
  return qb_domain_interval(graph, float_down(inputs->lo), float_up(inputs->hi), domain, error);
}

const char *qb_domain_describe(qb_arena *arena, const qb_inputs *inputs) {
  if (inputs->kind == QB_DOMAIN_PIXELS)
    return qb_arena_format(arena, "pixels %s", inputs->preprocess);
  return qb_arena_format(arena, "[%.9g, %.9g]", inputs->lo, inputs->hi);
}
