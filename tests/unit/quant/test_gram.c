/* Second moments of a layer's inputs against plain loops in double over every tap. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <math.h>
#include <omp.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "quant/gram.h"
#include "support/faults.h"
#include "support/sketch.h"

static void assert_near(double a, double b, double tolerance) { assert_true(fabs(a - b) <= tolerance); }

/* A network of one layer and its inputs, float and changed. */
typedef struct one_layer {
  qb_graph graph;
  qb_linear linear;
  const float *weights;
  float *x, *xh;
  int32_t samples;
  size_t elements; /* of a sample */
} one_layer;

static one_layer make(sketch_graph *s, qb_value_id input, qb_value_id output, int32_t samples) {
  sketch_finish(s, output);
  one_layer layer = {.graph = s->graph, .samples = samples};
  assert_true(qb_graph_linear(&layer.graph, 0, &layer.linear));
  layer.weights = qb_view_f32(&layer.graph.values[layer.linear.weight].constant);
  layer.elements = qb_shape_elements(&layer.graph.values[input].shape);
  layer.x = qb_alloc((size_t)samples * layer.elements, sizeof *layer.x);
  layer.xh = qb_alloc((size_t)samples * layer.elements, sizeof *layer.xh);
  assert_true(layer.x != NULL && layer.xh != NULL);
  for (size_t i = 0; i < (size_t)samples * layer.elements; i++) {
    layer.x[i] = (float)qb_rng_range(&s->rng, -1, 2);
    layer.xh[i] = layer.x[i] + (float)qb_rng_range(&s->rng, -0.1, 0.2);
  }
  return layer;
}

static void drop(one_layer *layer) {
  qb_free(layer->x);
  qb_free(layer->xh);
  qb_graph_free(&layer->graph);
}

static one_layer make_conv(uint64_t seed, int64_t channels, int64_t outputs, qb_window window, int32_t group) {
  sketch_graph s = sketch_start(seed);
  qb_value_id input = sketch_input(&s, QB_SHAPE(1, channels, 7, 6));
  qb_value_id weight =
      sketch_random(&s, QB_SHAPE(outputs, channels / group, window.kernel[0], window.kernel[1]), -1, 1);
  qb_value_id inputs[2] = {input, weight};
  qb_attributes attributes = {.conv = {.window = window, .group = group}};
  return make(&s, input, sketch_node(&s, QB_OP_CONV, inputs, 2, &attributes, NULL), 3);
}

/* Element (channel, tap row, tap column) of the column at output (oh, ow) of a sample; 0 in the padding. */
static double tap(const one_layer *layer, const float *data, int sample, int64_t channel, int64_t oh, int64_t ow,
                  int32_t i, int32_t j) {
  const qb_node *node = &layer->graph.nodes[0];
  const qb_shape *shape = &layer->graph.values[node->inputs[0]].shape;
  const qb_window *w = &node->attributes.conv.window;
  int64_t y = oh * w->stride[0] - w->pad_begin[0] + i * w->dilation[0];
  int64_t x = ow * w->stride[1] - w->pad_begin[1] + j * w->dilation[1];
  if (y < 0 || y >= shape->dims[2] || x < 0 || x >= shape->dims[3])
    return 0;
  return (double)data[(((int64_t)sample * shape->dims[1] + channel) * shape->dims[2] + y) * shape->dims[3] + x];
}

/* Every column of group `g` as (columns, K); returns their number. */
static int64_t naive_columns(const one_layer *layer, const float *data, int64_t g, double *columns) {
  const qb_node *node = &layer->graph.nodes[0];
  int64_t count = 0, length = layer->linear.row_length;
  if (node->op != QB_OP_CONV) {
    count = layer->samples * (int64_t)layer->elements / length;
    for (int64_t i = 0; i < count * length; i++)
      columns[i] = (double)data[i];
    return count;
  }
  const qb_shape *y = &layer->graph.values[node->output].shape;
  const qb_window *w = &node->attributes.conv.window;
  int64_t channels = layer->linear.in_channels / layer->linear.group;
  for (int sample = 0; sample < layer->samples; sample++)
    for (int64_t oh = 0; oh < y->dims[2]; oh++)
      for (int64_t ow = 0; ow < y->dims[3]; ow++, count++)
        for (int64_t c = 0, k = 0; c < channels; c++)
          for (int32_t i = 0; i < w->kernel[0]; i++)
            for (int32_t j = 0; j < w->kernel[1]; j++)
              columns[count * length + k++] = tap(layer, data, sample, g * channels + c, oh, ow, i, j);
  return count;
}

/* Compares one group; values are of order 1. */
static void check_group(const one_layer *layer, const qb_gram *gram, size_t g, bool centred) {
  size_t length = gram->length, rows = gram->rows, room = (size_t)layer->samples * 2048 * length;
  double *xh = qb_alloc(room, sizeof *xh), *x = qb_alloc(room, sizeof *x), *error = qb_alloc(room, sizeof *error);
  assert_true(x != NULL && xh != NULL && error != NULL);
  int64_t columns = naive_columns(layer, layer->xh, (int64_t)g, xh);
  assert_int_equal(naive_columns(layer, layer->x, (int64_t)g, x), columns);
  assert_int_equal(gram->columns, columns);
  double n = (double)columns;
  for (size_t k = 0; k < length; k++) {
    double mean = 0;
    for (int64_t c = 0; c < columns; c++)
      mean += xh[(size_t)c * length + k] / n;
    assert_near(gram->mean[g * length + k], mean, 1e-6);
  }
  const double *mean = gram->mean + g * length;
  for (size_t o = 0; o < rows; o++) {
    double shift = 0, square = 0;
    for (int64_t c = 0; c < columns; c++) {
      double sum = 0;
      for (size_t k = 0; k < length; k++)
        sum += (double)gram->weights[(g * rows + o) * length + k] *
               (xh[(size_t)c * length + k] - x[(size_t)c * length + k]);
      error[c] = sum;
      shift += sum / n;
      square += sum * sum / n;
    }
    assert_near(gram->shift[g * rows + o], shift, 1e-5);
    assert_near(gram->c[g * rows + o], square - (centred ? shift * shift : 0), 1e-4);
    for (size_t k = 0; k < length; k++) {
      double sum = 0;
      for (int64_t c = 0; c < columns; c++)
        sum += error[c] * xh[(size_t)c * length + k] / n;
      assert_near(gram->r[(g * rows + o) * length + k], sum - (centred ? shift * mean[k] : 0), 1e-4);
    }
  }
  for (size_t i = 0; i < length; i++)
    for (size_t j = 0; j < length; j++) {
      double sum = 0;
      for (int64_t c = 0; c < columns; c++)
        sum += xh[(size_t)c * length + i] * xh[(size_t)c * length + j] / n;
      assert_near(gram->h[(g * length + i) * length + j], sum - (centred ? mean[i] * mean[j] : 0), 1e-5);
    }
  qb_free(x);
  qb_free(xh);
  qb_free(error);
}

static void check_layer(one_layer *layer, bool centred) {
  qb_gram_settings settings = {.matrix = true};
  qb_gram gram;
  qb_error error;
  assert_int_equal(qb_gram_create(&layer->graph, &layer->linear, layer->weights, &settings, &gram, &error), QB_OK);
  qb_gram_add(&gram, layer->x, layer->xh, 0, 1);
  qb_gram_add(&gram, layer->x + layer->elements, layer->xh + layer->elements, 1, layer->samples - 1);
  qb_gram_finish(&gram, centred);
  for (size_t g = 0; g < gram.groups; g++)
    check_group(layer, &gram, g, centred);
  qb_gram_free(&gram);
  drop(layer);
}

static void convolutions(void **state) {
  (void)state;
  const qb_window windows[] = {
      {.kernel = {3, 3}, .stride = {1, 1}, .dilation = {1, 1}, .pad_begin = {1, 1}, .pad_end = {1, 1}},
      {.kernel = {3, 2}, .stride = {2, 1}, .dilation = {1, 2}, .pad_begin = {2, 0}, .pad_end = {0, 1}},
      {.kernel = {1, 1}, .stride = {2, 2}, .dilation = {1, 1}, .pad_begin = {0, 0}, .pad_end = {0, 0}},
  };
  for (size_t i = 0; i < sizeof windows / sizeof *windows; i++)
    for (int32_t group = 1; group <= 4; group *= 2) {
      one_layer layer = make_conv(i, 4, 8, windows[i], group);
      check_layer(&layer, group != 2);
    }
}

static void matrices(void **state) {
  (void)state;
  for (int rank = 2; rank <= 3; rank++) {
    sketch_graph s = sketch_start(5);
    qb_value_id input = sketch_input(&s, rank == 2 ? QB_SHAPE(1, 9) : QB_SHAPE(1, 4, 9));
    one_layer layer = make(&s, input, sketch_matmul(&s, input, 5), 6);
    check_layer(&layer, rank == 2);
  }
}

/* Rows longer than a tile of the matrix products. */
static void several_tiles(void **state) {
  (void)state;
  one_layer layer = make_conv(7, 60, 3,
                              (qb_window){.kernel = {3, 3},
                                          .stride = {3, 3},
                                          .dilation = {1, 1},
                                          .pad_begin = {1, 1},
                                          .pad_end = {1, 1}},
                              1);
  check_layer(&layer, true);
}

static void drawn_positions_do_not_depend_on_batches_or_threads(void **state) {
  (void)state;
  one_layer layer = make_conv(9, 4, 4,
                              (qb_window){.kernel = {3, 3},
                                          .stride = {1, 1},
                                          .dilation = {1, 1},
                                          .pad_begin = {1, 1},
                                          .pad_end = {1, 1}},
                              1);
  qb_gram_settings settings = {.matrix = true, .positions = 10, .seed = 4};
  qb_gram grams[2];
  qb_error error;
  int threads = omp_get_max_threads();
  for (int i = 0; i < 2; i++) {
    omp_set_num_threads(i + 1);
    assert_int_equal(qb_gram_create(&layer.graph, &layer.linear, layer.weights, &settings, &grams[i], &error), QB_OK);
    for (int32_t at = 0, batch = i == 0 ? layer.samples : 1; at < layer.samples; at += batch)
      qb_gram_add(&grams[i], layer.x + (size_t)at * layer.elements, layer.xh + (size_t)at * layer.elements, at, batch);
    qb_gram_finish(&grams[i], false);
    assert_int_equal(grams[i].columns, 10 * layer.samples);
  }
  omp_set_num_threads(threads);
  size_t length = grams[0].length;
  assert_memory_equal(grams[0].h, grams[1].h, length * length * sizeof *grams[0].h);
  assert_memory_equal(grams[0].r, grams[1].r, 4 * length * sizeof *grams[0].r);

  qb_gram whole;
  settings.positions = 1000; /* more than there are: all */
  assert_int_equal(qb_gram_create(&layer.graph, &layer.linear, layer.weights, &settings, &whole, &error), QB_OK);
  qb_gram_add(&whole, layer.x, layer.xh, 0, layer.samples);
  assert_int_equal(whole.columns, 42 * layer.samples);
  qb_gram_free(&whole);
  qb_gram_free(&grams[0]);
  qb_gram_free(&grams[1]);
  drop(&layer);
}

static qb_status create_work(void *context, qb_error *error) {
  const one_layer *layer = context;
  qb_gram_settings settings = {.matrix = true};
  qb_gram gram;
  qb_status status = qb_gram_create(&layer->graph, &layer->linear, layer->weights, &settings, &gram, error);
  qb_gram_free(&gram);
  return status;
}

static void failed_allocations_leave_nothing(void **state) {
  (void)state;
  one_layer layer = make_conv(1, 4, 4, (qb_window){.kernel = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}}, 1);
  fault_every_allocation(create_work, &layer, 20);
  drop(&layer);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(convolutions),
      cmocka_unit_test(matrices),
      cmocka_unit_test(several_tiles),
      cmocka_unit_test(drawn_positions_do_not_depend_on_batches_or_threads),
      cmocka_unit_test(failed_allocations_leave_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
