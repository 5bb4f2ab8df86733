/* See run_support.h. */
#include "support/run_support.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"

static void check(qb_status status, const qb_error *error) {
  if (status != QB_OK)
    fail_msg("%s", error->message);
}

qb_value_id run_test_begin(qb_graph *graph, const char *name, qb_shape input) {
  qb_error error;
  qb_value_id id;
  check(qb_graph_init(graph, name, &error), &error);
  check(qb_graph_add_input(graph, "x", &input, &id, &error), &error);
  return id;
}

qb_value_id run_test_constant(qb_graph *graph, qb_rng *rng, qb_shape shape, double scale, const float *data) {
  qb_error error;
  qb_value_id id;
  float *values;
  char name[32];
  snprintf(name, sizeof name, "c%d", graph->value_count);
  check(qb_graph_new_constant(graph, name, &shape, &id, &values, &error), &error);
  for (size_t i = 0; i < qb_shape_elements(&shape); i++)
    values[i] = data != NULL ? data[i] : (float)(scale * qb_rng_normal(rng));
  return id;
}

qb_value_id run_test_node(qb_graph *graph, qb_op op, const qb_value_id *inputs, int32_t input_count,
                          const qb_attributes *attributes, const qb_shape *given) {
  qb_error error;
  qb_node_id id;
  char name[32];
  snprintf(name, sizeof name, "v%d", graph->value_count);
  qb_attributes none;
  memset(&none, 0, sizeof none);
  check(qb_graph_add_node(graph, op, NULL, inputs, input_count, attributes != NULL ? attributes : &none, name, given,
                          &id, &error),
        &error);
  return graph->nodes[id].output;
}

qb_window run_test_window(int32_t kernel, int32_t stride, int32_t pad) {
  return (qb_window){.kernel = {kernel, kernel},
                     .stride = {stride, stride},
                     .dilation = {1, 1},
                     .pad_begin = {pad, pad},
                     .pad_end = {pad, pad}};
}

qb_value_id run_test_conv(qb_graph *graph, qb_rng *rng, qb_value_id x, int64_t out_channels, int32_t group,
                          qb_window window, bool bias) {
  int64_t channels = graph->values[x].shape.dims[1] / group;
  qb_shape shape = QB_SHAPE(out_channels, channels, window.kernel[0], window.kernel[1]);
  double scale = 1.0 / sqrt((double)(channels * window.kernel[0] * window.kernel[1]));
  qb_value_id inputs[3] = {x, run_test_constant(graph, rng, shape, scale, NULL), QB_NONE};
  if (bias)
    inputs[2] = run_test_constant(graph, rng, QB_SHAPE(out_channels), 1.0, NULL);
  qb_attributes attributes = {.conv = {window, group}};
  return run_test_node(graph, QB_OP_CONV, inputs, 3, &attributes, NULL);
}

float *run_test_random(qb_rng *rng, size_t count, double scale) {
  float *data = qb_alloc(count, sizeof *data);
  assert_non_null(data);
  for (size_t i = 0; i < count; i++)
    data[i] = (float)(scale * qb_rng_normal(rng));
  return data;
}

/* ---------------------------------------------------------------------------------------------------- golden file */

FILE *run_case_open(const char *path) {
  FILE *file = fopen(path, "r");
  assert_non_null(file);
  return file;
}

static double read_number(FILE *file) {
  double value;
  assert_int_equal(fscanf(file, "%lf", &value), 1);
  return value;
}

static int32_t read_integer(FILE *file) { return (int32_t)read_number(file); }

static float *read_tensor(FILE *file, qb_shape *shape) {
  shape->rank = read_integer(file);
  for (int32_t i = 0; i < shape->rank; i++)
    shape->dims[i] = read_integer(file);
  float *data = qb_alloc(qb_shape_elements(shape), sizeof *data);
  assert_non_null(data);
  for (size_t i = 0; i < qb_shape_elements(shape); i++)
    data[i] = (float)read_number(file);
  return data;
}

static void read_attribute(FILE *file, qb_op op, int32_t rank, qb_attributes *a) {
  char key[32];
  assert_int_equal(fscanf(file, "%31s", key), 1);
  if (strcmp(key, "window") == 0) {
    qb_window *w = op == QB_OP_CONV || op == QB_OP_CONV_TRANSPOSE ? &a->conv.window : &a->pool.window;
    int32_t *fields[] = {w->kernel, w->stride, w->dilation, w->pad_begin, w->pad_end};
    for (int i = 0; i < 5; i++)
      for (int axis = 0; axis < 2; axis++)
        fields[i][axis] = read_integer(file);
  } else if (strcmp(key, "group") == 0) {
    a->conv.group = read_integer(file);
  } else if (strcmp(key, "include") == 0) {
    a->pool.count_include_pad = read_integer(file) != 0;
  } else if (strcmp(key, "epsilon") == 0) {
    a->batch_norm.epsilon = (float)read_number(file);
  } else if (strcmp(key, "clip") == 0) {
    a->clip.lo = (float)read_number(file);
    a->clip.hi = (float)read_number(file);
  } else if (strcmp(key, "linear") == 0) {
    a->linear.alpha = (float)read_number(file);
    a->linear.beta = (float)read_number(file);
  } else if (strcmp(key, "axes") == 0) {
    a->axes.axis = read_integer(file);
    a->axes.end_axis = read_integer(file);
  } else if (strcmp(key, "quantize") == 0) {
    a->quantize.axis = read_integer(file);
    a->quantize.lo = (float)read_number(file);
    a->quantize.hi = (float)read_number(file);
  } else if (strcmp(key, "permutation") == 0) {
    for (int32_t i = 0; i < rank; i++)
      a->transpose.permutation[i] = read_integer(file);
  } else {
    assert_string_equal(key, "pad");
    for (int32_t i = 0; i < rank; i++)
      a->pad.begin[i] = read_integer(file);
    for (int32_t i = 0; i < rank; i++)
      a->pad.end[i] = read_integer(file);
    a->pad.value = (float)read_number(file);
  }
}

/* Attributes come before the input in the file, but some are as long as its rank, which all such cases give as 4. */
enum { GOLDEN_RANK = 4 };

static void finish_case(FILE *file, run_case *c, qb_op op, const qb_attributes *attributes, const qb_value_id *inputs,
                        int32_t input_count, bool given) {
  qb_error error;
  qb_shape shape;
  c->expected = read_tensor(file, &shape);
  c->output_elements = qb_shape_elements(&shape);
  shape.dims[0] /= c->count;
  qb_value_id y = run_test_node(&c->graph, op, inputs, input_count, attributes, given ? &shape : NULL);
  assert_true(qb_shape_equal(&c->graph.values[y].shape, &shape));
  check(qb_graph_add_output(&c->graph, y, &error), &error);
}

bool run_case_next(FILE *file, run_case *c) {
  char word[32], op_name[32];
  qb_op op = QB_OP_COUNT;
  qb_attributes attributes;
  qb_value_id inputs[8];
  int32_t input_count = 0;
  qb_shape shape;
  memset(c, 0, sizeof *c);
  memset(&attributes, 0, sizeof attributes);
  while (fscanf(file, "%31s", word) == 1 && strcmp(word, "end") != 0) {
    if (strcmp(word, "case") == 0) {
      assert_int_equal(fscanf(file, "%63s", c->name), 1);
    } else if (strcmp(word, "op") == 0) {
      assert_int_equal(fscanf(file, "%31s", op_name), 1);
      op = qb_op_find(op_name, strlen(op_name));
      assert_int_not_equal(op, QB_OP_COUNT);
    } else if (strcmp(word, "attribute") == 0) {
      read_attribute(file, op, GOLDEN_RANK, &attributes);
    } else if (strcmp(word, "input") == 0) {
      c->input = read_tensor(file, &shape);
      c->count = (int32_t)shape.dims[0];
      shape.dims[0] = 1;
      inputs[input_count++] = run_test_begin(&c->graph, c->name, shape);
    } else if (strcmp(word, "missing") == 0) {
      inputs[input_count++] = QB_NONE;
    } else if (strcmp(word, "constant") == 0) {
      float *data = read_tensor(file, &shape);
      inputs[input_count++] = run_test_constant(&c->graph, NULL, shape, 0.0, data);
      qb_free(data);
    } else {
      finish_case(file, c, op, &attributes, inputs, input_count, strcmp(word, "given") == 0);
      return true;
    }
  }
  return false;
}

void run_case_free(run_case *c) {
  qb_graph_free(&c->graph);
  qb_free(c->input);
  qb_free(c->expected);
}
