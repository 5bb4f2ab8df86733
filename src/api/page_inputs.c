/* The inputs of a report page that change most, as pictures where they are any, and the names of classes. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/page_parts.h"
#include "base/error.h"

enum { THUMBNAIL = 96 }; /* pixels of the longer side at most */

/* -------------------------------------------------------------------------------------------------------- pictures */

/* The pixel of channel `c` that preprocessing turned into `value`, 0..255. */
static uint8_t pixel_of(const qb_preprocess *how, int32_t c, double value) {
  double scale = how->scale > 0 ? (double)how->scale : 1;
  if (how->normalize)
    value = value * (double)how->std[c] + (double)how->mean[c];
  value = value * scale;
  return (uint8_t)(value <= 0 ? 0 : value >= 255 ? 255 : value + 0.5);
}

/* Means over the squares of a grid, so that a large picture becomes a small one. */
static void shrink(const qb_preprocess *how, const float *sample, const qb_shape *shape, qb_page_input *input) {
  int64_t channels = shape->dims[0], height = shape->dims[1], width = shape->dims[2];
  for (int64_t y = 0; y < input->height; y++)
    for (int64_t x = 0; x < input->width; x++)
      for (int32_t c = 0; c < 3; c++) {
        int64_t from = c < channels ? c : 0, y1 = (y + 1) * height / input->height, x1 = (x + 1) * width / input->width;
        double sum = 0;
        int64_t count = 0;
        for (int64_t i = y * height / input->height; i < y1; i++)
          for (int64_t j = x * width / input->width; j < x1; j++, count++)
            sum += (double)sample[(from * height + i) * width + j];
        input->pixels[(y * input->width + x) * 3 + c] = pixel_of(how, (int32_t)from, sum / (double)count);
      }
}

static int32_t thumbnail_side(int64_t side, int64_t longer) {
  int64_t small = longer <= THUMBNAIL ? side : side * THUMBNAIL / longer;
  return (int32_t)(small > 0 ? small : 1);
}

/* Pictures have one or three channels and are more than a line. */
static qb_status draw_input(qb_page_work *work, qb_page_input *input, float *sample) {
  qb_shape shape = qb_dataset_shape(work->dataset);
  if (shape.rank != 3 || (shape.dims[0] != 1 && shape.dims[0] != 3) || shape.dims[1] < 2 || shape.dims[2] < 2)
    return QB_OK;
  int64_t longer = shape.dims[1] > shape.dims[2] ? shape.dims[1] : shape.dims[2];
  input->height = thumbnail_side(shape.dims[1], longer);
  input->width = thumbnail_side(shape.dims[2], longer);
  input->pixels = qb_arena_alloc(&work->arena, (size_t)input->height * (size_t)input->width, 3);
  if (input->pixels == NULL)
    return qb_fail_memory(work->error, "a picture", (size_t)input->height * (size_t)input->width * 3);
  QB_TRY(qb_dataset_read(work->dataset, input->index, sample, work->error));
  shrink(&work->preprocess, sample, &shape, input);
  return QB_OK;
}

/* Position `rank` of the samples by falling error, equal ones by position: one pass each, for few of them. */
static int64_t next_largest(const qb_run_measure_info *measured, int64_t after) {
  int64_t best = -1;
  for (int64_t i = 0; i < measured->count; i++) {
    double error = measured->samples[i].error;
    bool later =
        after < 0 || error < measured->samples[after].error || (error == measured->samples[after].error && i > after);
    if (later && (best < 0 || error > measured->samples[best].error))
      best = i;
  }
  return best;
}

static qb_status list_inputs(qb_page_work *work, float *sample) {
  int64_t index = -1;
  for (int i = 0; i < work->settings->inputs && i < work->measured.count; i++) {
    qb_page_input *input = &work->page.inputs[i];
    index = next_largest(&work->measured, index);
    const qb_run_sample *record = &work->measured.samples[index];
    *input = (qb_page_input){.name = qb_dataset_name(work->dataset, index),
                             .index = index,
                             .label = record->label,
                             .top = record->top,
                             .other_top = record->other_top,
                             .error = record->error};
    QB_TRY(draw_input(work, input, sample));
    work->page.input_count++;
  }
  return QB_OK;
}

/* ------------------------------------------------------------------------------------------------------ class names */

/* "7 n01514859 hen" and "hen" both name the class of their line "hen": a leading number and a WordNet id go. */
static char *name_in(char *line) {
  line[strcspn(line, "\r\n")] = '\0';
  for (int word = 0; word < 2; word++) {
    size_t length = strcspn(line, " \t,"), digits = strspn(line + (word == 1 && line[0] == 'n'), "0123456789");
    bool id = length > 0 && digits + (word == 1 && line[0] == 'n') == length && line[length] != '\0';
    if (id)
      line += length + strspn(line + length, " \t,");
  }
  return line;
}

static qb_status read_names(qb_page_work *work, FILE *file) {
  enum { CLASSES = 65536 };
  char line[1024];
  const char **names = qb_arena_alloc(&work->arena, CLASSES, sizeof *names);
  if (names == NULL)
    return qb_fail_memory(work->error, "names of classes", CLASSES * sizeof *names);
  work->page.class_names = names;
  while (work->page.class_count < CLASSES && fgets(line, sizeof line, file) != NULL) {
    char *name = name_in(line);
    names[work->page.class_count] = qb_arena_string(&work->arena, name, strlen(name));
    if (names[work->page.class_count++] == NULL)
      return qb_fail_memory(work->error, "names of classes", strlen(name));
  }
  return QB_OK;
}

static qb_status list_names(qb_page_work *work) {
  const char *path = work->settings->class_names;
  if (path == NULL)
    return QB_OK;
  FILE *file = fopen(path, "r");
  if (file == NULL)
    return qb_fail(work->error, QB_ERROR_IO, "%s: %s", path, strerror(errno));
  qb_status status = read_names(work, file);
  if (status == QB_OK && ferror(file))
    status = qb_fail(work->error, QB_ERROR_IO, "%s: reading failed", path);
  fclose(file);
  return status;
}

qb_status qb_page_list_inputs(qb_page_work *work) {
  qb_shape shape = qb_dataset_shape(work->dataset);
  size_t elements = qb_shape_elements(&shape);
  float *sample = qb_arena_alloc(&work->arena, elements, sizeof *sample);
  work->page.inputs = qb_arena_alloc(&work->arena, (size_t)work->settings->inputs + 1, sizeof *work->page.inputs);
  if (sample == NULL || work->page.inputs == NULL)
    return qb_fail_memory(work->error, "an input", elements * sizeof *sample);
  QB_TRY(list_names(work));
  return list_inputs(work, sample);
}
