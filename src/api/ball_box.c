/* Boxes around samples; see ball_box.h. */
#include "api/ball_box.h"

#include <math.h>

#include "base/error.h"
#include "bound/rounding.h"

static int64_t channel_of(const qb_shape *sample, int64_t i) {
  return sample->rank == 3 ? i / (sample->dims[1] * sample->dims[2]) : 0;
}

/* A stored pixel p becomes (p / scale - mean) / std in float32: six roundings of numbers up to (255/scale + |mean|) /
 * std move the distance of two samples by less than 2^-20 of that. */
static void measure_pixels(const qb_preprocess *how, const qb_shape *sample, qb_ball_frame *frame) {
  for (int64_t i = 0; i < frame->elements; i++) {
    int64_t c = how->channels > 1 ? channel_of(sample, i) : 0;
    double scale = how->scale > 0 ? (double)how->scale : 1, std = (double)how->std[c],
           mean = fabs((double)how->mean[c]);
    frame->step[i] = qb_up(qb_up(1 / scale) / std);
    frame->slack[i] = 0x1p-20 * (255 / scale + mean) / std;
  }
}

static qb_status limit_pixels(const qb_preprocess *how, const char *text, const qb_shape *sample, qb_ball_frame *frame,
                              qb_error *error) {
  for (int64_t i = 0; i < frame->elements; i++)
    if (!qb_preprocess_pixel_box(how, (int32_t)channel_of(sample, i), &frame->lo[i], &frame->hi[i]))
      return qb_fail(error, QB_ERROR_ARGUMENT, "the preprocessing '%s' does not fit the channels of the data", text);
  return QB_OK;
}

qb_status qb_ball_frame_make(const char *preprocess, bool limited, const qb_shape *sample, qb_arena *arena,
                             qb_ball_frame *frame, qb_error *error) {
  qb_preprocess how;
  size_t count = qb_shape_elements(sample);
  *frame = (qb_ball_frame){.elements = (int64_t)count};
  QB_TRY(qb_preprocess_parse(preprocess, &how, error));
  if (how.channels > 1 && (sample->rank != 3 || sample->dims[0] > how.channels))
    return qb_fail(error, QB_ERROR_ARGUMENT, "the preprocessing '%s' does not fit the channels of the data",
                   preprocess);
  frame->step = qb_arena_alloc(arena, count, sizeof *frame->step);
  frame->slack = qb_arena_alloc(arena, count, sizeof *frame->slack);
  if (limited && how.scale > 0) {
    frame->lo = qb_arena_alloc(arena, count, sizeof *frame->lo);
    frame->hi = qb_arena_alloc(arena, count, sizeof *frame->hi);
  }
  if (frame->step == NULL || frame->slack == NULL ||
      (limited && how.scale > 0 && (frame->lo == NULL || frame->hi == NULL)))
    return qb_fail_memory(error, "balls", 4 * count * sizeof *frame->step);
  measure_pixels(&how, sample, frame);
  return frame->lo == NULL ? QB_OK : limit_pixels(&how, preprocess, sample, frame, error);
}

double qb_ball_reach(const qb_ball_frame *frame, const qb_radius *radius, int64_t i) {
  if (radius->value == 0 || !radius->pixels)
    return radius->value;
  return qb_up(qb_up(radius->value * frame->step[i]) + frame->slack[i]);
}

qb_status qb_ball_box(const qb_ball_frame *frame, const float *centre, const qb_radius *radius, const char *name,
                      qb_domain *domain, qb_error *error) {
  for (int64_t i = 0; i < frame->elements; i++) {
    double reach = qb_ball_reach(frame, radius, i), c = (double)centre[i];
    domain->lo[i] = reach == 0 ? centre[i] : qb_float_down(qb_down(c - reach));
    domain->hi[i] = reach == 0 ? centre[i] : qb_float_up(qb_up(c + reach));
    if (frame->lo == NULL)
      continue;
    if (centre[i] < frame->lo[i] || centre[i] > frame->hi[i])
      return qb_fail(error, QB_ERROR_ARGUMENT,
                     "%s: element %lld is %g, but pixels give %g to %g after this preprocessing; is it the right one?",
                     name, (long long)i, c, (double)frame->lo[i], (double)frame->hi[i]);
    domain->lo[i] = fmaxf(domain->lo[i], frame->lo[i]);
    domain->hi[i] = fminf(domain->hi[i], frame->hi[i]);
  }
  return QB_OK;
}
