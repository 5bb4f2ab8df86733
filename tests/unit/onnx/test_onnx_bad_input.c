/* Files that are damaged, hostile or beyond what is supported: each ends with a message that names file, place and
 * remedy, and never with a crash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <math.h>
#include <zlib.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "support/onnx_model.h"

#define DIMS(...) \
  (int64_t[]) { __VA_ARGS__ }

static char folder[] = "/tmp/qbound_onnx_XXXXXX";

static const char *path_of(const char *name) {
  static char path[256];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static void write_file(const char *name, const void *bytes, size_t size) {
  FILE *file = fopen(path_of(name), "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(bytes, 1, size, file), size);
  fclose(file);
}

/* x (N, 3) -> Gemm -> Relu -> y */
static onnx_model *small(void) {
  onnx_model *m = onnx_new(13);
  onnx_input(m, "x", 2, DIMS(0, 3));
  onnx_floats(m, "w", 2, DIMS(3, 20), NULL);
  onnx_node(m, "Gemm", "x w", "a");
  onnx_node(m, "Relu", "a", "y");
  onnx_output(m, "y");
  return m;
}

static void expect_read_failure(const char *name, qb_status status, const char *words) {
  qb_error error = {0};
  qb_onnx *document;
  qb_status got = qb_onnx_read(path_of(name), &document, &error);
  if (got != status || strstr(error.message, words) == NULL || strstr(error.message, name) == NULL)
    fail_msg("expected %s with '%s', got %s: %s", qb_status_name(status), words, qb_status_name(got), error.message);
  assert_null(document);
}

static void files_that_cannot_be_read(void **state) {
  (void)state;
  expect_read_failure("missing.onnx", QB_ERROR_IO, "No such file");
  mkdir(path_of("folder.onnx"), 0700);
  expect_read_failure("folder.onnx", QB_ERROR_IO, "is a directory");
  write_file("empty.onnx", "", 0);
  expect_read_failure("empty.onnx", QB_ERROR_FORMAT, "is empty");
  write_file("text.onnx", "this is not a network", 21);
  expect_read_failure("text.onnx", QB_ERROR_FORMAT, "not an ONNX model");
  write_file("zeros.onnx", "\0\0\0\0\0\0\0\0", 8);
  expect_read_failure("zeros.onnx", QB_ERROR_FORMAT, "not an ONNX model");
  write_file("nothing.onnx", "\x08\x07", 2); /* ir_version alone */
  expect_read_failure("nothing.onnx", QB_ERROR_FORMAT, "no graph");
}

static void every_truncation_is_an_error(void **state) {
  (void)state;
  onnx_model *m = small();
  size_t size;
  unsigned char *bytes = onnx_pack(m, &size);
  for (size_t length = 1; length < size; length++) {
    qb_onnx *document;
    qb_error error = {0};
    qb_graph graph;
    unsigned char *part = qb_alloc(length, 1);
    memcpy(part, bytes, length);
    qb_status status = qb_onnx_from_bytes(part, length, "test.onnx", &document, &error);
    if (status == QB_OK) { /* cut between two fields of the model */
      if (qb_onnx_to_graph(document, &graph, &error) == QB_OK)
        qb_graph_free(&graph);
      qb_onnx_free(document);
    } else {
      assert_non_null(strstr(error.message, "test.onnx"));
    }
  }
  qb_free(bytes);
  onnx_free(m);
}

/* Random bytes, and random changes of a valid model: no crash, no leak. */
static void damage_is_survived(void **state) {
  (void)state;
  onnx_model *m = small();
  size_t size;
  unsigned char *bytes = onnx_pack(m, &size);
  qb_rng rng;
  qb_rng_seed(&rng, 1, 0);
  for (int round = 0; round < 3000; round++) {
    qb_onnx *document;
    qb_error error = {0};
    qb_graph graph;
    unsigned char *damaged = qb_alloc(size, 1);
    memcpy(damaged, bytes, size);
    uint64_t changes = round % 100 == 0 ? size : 1 + qb_rng_below(&rng, 4);
    for (uint64_t k = 0; k < changes; k++)
      damaged[qb_rng_below(&rng, size)] = (unsigned char)qb_rng_u64(&rng);
    if (qb_onnx_from_bytes(damaged, size, "test.onnx", &document, &error) != QB_OK) {
      assert_true(error.message[0] != '\0');
      continue;
    }
    if (qb_onnx_to_graph(document, &graph, &error) == QB_OK)
      qb_graph_free(&graph);
    qb_onnx_free(document);
  }
  qb_free(bytes);
  onnx_free(m);
}

static void gzip_files(void **state) {
  (void)state;
  onnx_model *m = small();
  size_t size;
  qb_onnx *document;
  qb_error error = {0};
  unsigned char *bytes = onnx_pack(m, &size);
  gzFile file = gzopen(path_of("good.onnx.gz"), "wb");
  assert_int_equal(gzwrite(file, bytes, (unsigned)size), size);
  gzclose(file);
  assert_int_equal(qb_onnx_read(path_of("good.onnx.gz"), &document, &error), QB_OK);
  qb_onnx_free(document);

  unsigned char packed[4096];
  FILE *raw = fopen(path_of("good.onnx.gz"), "rb");
  size_t packed_size = fread(packed, 1, sizeof packed, raw);
  fclose(raw);
  write_file("cut.onnx.gz", packed, packed_size / 2);
  expect_read_failure("cut.onnx.gz", QB_ERROR_FORMAT, "truncated");
  packed[packed_size / 2] ^= 0x55;
  write_file("bad.onnx.gz", packed, packed_size);
  expect_read_failure("bad.onnx.gz", QB_ERROR_FORMAT, "damaged gzip");
  qb_free(bytes);
  onnx_free(m);
}

static void set_external(onnx_model *m, const char *location, const char *offset, const char *length) {
  Onnx__TensorProto *w = m->graph.initializer[0];
  const char *pairs[3][2] = {{"location", location}, {"offset", offset}, {"length", length}};
  w->has_raw_data = false;
  w->has_data_location = true;
  w->data_location = QB_LOCATION_EXTERNAL;
  w->n_external_data = 0;
  w->external_data = qb_arena_alloc(&m->arena, 3, sizeof *w->external_data);
  for (int i = 0; i < 3; i++) {
    if (pairs[i][1] == NULL)
      continue;
    Onnx__StringStringEntryProto *entry = qb_arena_alloc(&m->arena, 1, sizeof *entry);
    onnx__string_string_entry_proto__init(entry);
    entry->key = (char *)(uintptr_t)pairs[i][0];
    entry->value = (char *)(uintptr_t)pairs[i][1];
    w->external_data[w->n_external_data++] = entry;
  }
}

static void expect_external_failure(const char *location, const char *offset, const char *length, qb_status status,
                                    const char *words) {
  onnx_model *m = small();
  size_t size;
  set_external(m, location, offset, length);
  unsigned char *bytes = onnx_pack(m, &size);
  write_file("external.onnx", bytes, size);
  expect_read_failure("external.onnx", status, words);
  qb_free(bytes);
  onnx_free(m);
}

static void external_data(void **state) {
  (void)state;
  float values[64];
  qb_onnx *document;
  qb_graph graph;
  qb_error error = {0};
  size_t size;
  for (int i = 0; i < 64; i++)
    values[i] = (float)i;
  write_file("weights.bin", values, sizeof values);
  onnx_model *m = small();
  set_external(m, "weights.bin", "4", "240");
  unsigned char *bytes = onnx_pack(m, &size);
  write_file("external.onnx", bytes, size);
  qb_free(bytes);
  if (qb_onnx_read(path_of("external.onnx"), &document, &error) != QB_OK ||
      qb_onnx_to_graph(document, &graph, &error) != QB_OK)
    fail_msg("%s", error.message);
  assert_true(qb_view_f32(&graph.values[qb_graph_find(&graph, "w")].constant)[1] == 21); /* (0, 1) -> 1 + 20 */
  FILE *file = tmpfile(); /* written with the data inside */
  assert_int_equal(qb_onnx_write(document, file, "inlined.onnx", &error), QB_OK);
  size_t inlined_size = (size_t)ftell(file);
  unsigned char *inlined = qb_alloc(inlined_size, 1);
  rewind(file);
  assert_int_equal(fread(inlined, 1, inlined_size, file), inlined_size);
  fclose(file);
  qb_graph_free(&graph);
  qb_onnx_free(document);
  assert_int_equal(qb_onnx_from_bytes(inlined, inlined_size, "/nowhere/inlined.onnx", &document, &error), QB_OK);
  qb_onnx_free(document);
  onnx_free(m);

  symlink("/etc/passwd", path_of("link.bin"));
  expect_external_failure("none.bin", NULL, NULL, QB_ERROR_IO, "'none.bin' beside the model");
  expect_external_failure("/etc/passwd", "0", "240", QB_ERROR_FORMAT, "relative to the model's folder");
  expect_external_failure("../../etc/passwd", "0", "240", QB_ERROR_FORMAT, "leaves the model's folder");
  expect_external_failure("link.bin", "0", "240", QB_ERROR_FORMAT, "leaves the model's folder");
  expect_external_failure("weights.bin", "20", "240", QB_ERROR_FORMAT, "truncated");
  expect_external_failure("weights.bin", "18446744073709551615", "240", QB_ERROR_FORMAT, "truncated");
  expect_external_failure("weights.bin", "x", "240", QB_ERROR_FORMAT, "not a number");
  expect_external_failure("weights.bin", "99999999999999999999", "240", QB_ERROR_FORMAT, "not a number");
  expect_external_failure("weights.bin", "0", "8", QB_ERROR_FORMAT, "does not fit its shape");
  expect_external_failure(NULL, "0", "8", QB_ERROR_FORMAT, "no location");
  expect_external_failure(".", "0", "240", QB_ERROR_FORMAT, "leaves the model's folder");
  expect_external_failure("folder.onnx", "0", "240", QB_ERROR_FORMAT, "not a regular file");
}

static void opsets_outside_the_range(void **state) {
  (void)state;
  for (int64_t opset = 0; opset <= 26; opset += 6) {
    onnx_model *m = small();
    m->opset.version = opset == 24 ? 26 : opset;
    if (opset == 0)
      onnx_expect_failure(m, QB_ERROR_FORMAT, "no version of the ONNX operator set");
    else if (opset == 6 || opset == 24)
      onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, "supported are 7 to 25");
    else
      onnx_graph(m);
    onnx_free(m);
  }
}

static void graphs_that_are_not_sound(void **state) {
  (void)state;
  onnx_model *m = small();
  m->graph.node[0]->input[0] = (char *)"y"; /* the Gemm reads what the Relu makes */
  onnx_expect_failure(m, QB_ERROR_FORMAT, "cyclic or its nodes are not in topological order");
  m->graph.node[0]->input[0] = (char *)"nobody";
  onnx_expect_failure(m, QB_ERROR_FORMAT, "'nobody' is not defined");
  m->graph.node[0]->input[0] = (char *)"x";
  m->graph.node[1]->output[0] = (char *)"a";
  onnx_expect_failure(m, QB_ERROR_FORMAT, "'a' is defined twice");
  m->graph.node[1]->output[0] = (char *)"y";
  m->graph.output[0]->name = (char *)"z";
  onnx_expect_failure(m, QB_ERROR_FORMAT, "no node makes the network output 'z'");
  m->graph.output[0]->name = (char *)"w";
  onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, "does not depend on the input");
  m->graph.output[0]->name = (char *)"y";
  m->graph.node[1]->n_input = 0;
  onnx_expect_failure(m, QB_ERROR_FORMAT, "input 0 is missing");
  onnx_free(m);
}

static void tensors_that_do_not_add_up(void **state) {
  (void)state;
  onnx_model *m = small();
  Onnx__TensorProto *w = m->graph.initializer[0];
  w->dims[0] = 4;
  onnx_expect_failure(m, QB_ERROR_FORMAT, "holds 240 bytes");
  w->dims[0] = -3;
  onnx_expect_failure(m, QB_ERROR_SHAPE, "impossible shape");
  w->dims[0] = (int64_t)1 << 40;
  onnx_expect_failure(m, QB_ERROR_FORMAT, "tensor 'w'");
  w->dims[0] = INT64_MAX;
  onnx_expect_failure(m, QB_ERROR_SHAPE, "tensor 'w'");
  w->dims[0] = 3;
  w->data_type = 8;
  onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, "ONNX type number 8");
  w->data_type = QB_DTYPE_I32;
  onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, "int32 where float32 is needed");
  w->data_type = QB_DTYPE_F32;
  ((float *)(void *)w->raw_data.data)[5] = NAN;
  onnx_expect_failure(m, QB_ERROR_NUMERIC, "NaN");
  onnx_free(m);
}

/* onnx_expect_failure wants the file's name in the message; this one names the tensor first. */
static void expect_input_failure(int rank, const int64_t *dims, qb_status status, const char *words) {
  onnx_model *m = onnx_new(13);
  onnx_input(m, "picture", rank, dims);
  onnx_node(m, "Relu", "picture", "y");
  onnx_output(m, "y");
  onnx_expect_failure(m, status, words);
  onnx_free(m);
}

static void network_inputs(void **state) {
  (void)state;
  expect_input_failure(4, DIMS(0, 3, 0, 8), QB_ERROR_UNSUPPORTED, "dimension 2 is symbolic ('side')");
  expect_input_failure(4, DIMS(10, 3, 8, 8), QB_ERROR_UNSUPPORTED, "fixed batch 10");
  expect_input_failure(2, DIMS(0, -5), QB_ERROR_FORMAT, "dimension 1 is -5");
  expect_input_failure(2, DIMS(-1, 5), QB_ERROR_FORMAT, "dimension 0 is -1");
  expect_input_failure(3, DIMS(0, (int64_t)1 << 30, 1 << 10), QB_ERROR_SHAPE, "picture");
  expect_input_failure(9, DIMS(0, 1, 1, 1, 1, 1, 1, 1, 1), QB_ERROR_UNSUPPORTED, "rank 9");
  expect_input_failure(0, NULL, QB_ERROR_UNSUPPORTED, "rank 0");
  expect_input_failure(-1, NULL, QB_ERROR_UNSUPPORTED, "no shape");
  onnx_model *m = small();
  m->graph.input[0]->type->tensor_type->elem_type = QB_DTYPE_F16;
  onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, "type float16");
  m->graph.input[0]->type->tensor_type = NULL; /* as a sequence would look */
  onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, "not a tensor");
  onnx_free(m);
}

static void nodes_without_a_rule(void **state) {
  (void)state;
  onnx_model *m = small();
  Onnx__NodeProto *relu = m->graph.node[1];
  relu->op_type = (char *)"Gelu";
  onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, "node 'node_y' (Gelu, opset 13): this operator is not supported");
  relu->op_type = (char *)"Relu";
  relu->domain = (char *)"com.microsoft";
  onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, "domain 'com.microsoft'");
  relu->domain = (char *)"ai.onnx";
  onnx_graph(m);
  onnx_int_attribute(m, relu, "surprise", 1);
  onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, "attribute 'surprise' is not known");
  relu->n_attribute = 0;
  relu->op_type = (char *)"If";
  onnx_string_attribute(m, relu, "then_branch", "");
  relu->attribute[0]->has_g = true;
  relu->attribute[0]->g = (ProtobufCBinaryData){.len = 1, .data = (uint8_t[]){0}};
  onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, "control flow");
  onnx_free(m);
}

static void products_of_the_wrong_kind(void **state) {
  (void)state;
  onnx_model *m = small();
  Onnx__NodeProto *gemm = m->graph.node[0];
  gemm->input[0] = (char *)"w";
  gemm->input[1] = (char *)"x";
  onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, "('w') is a constant");
  gemm->input[0] = (char *)"x";
  onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, "its weight must be a constant");
  gemm->input[1] = (char *)"w";
  onnx_int_attribute(m, gemm, "transA", 1);
  onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, "transA");
  gemm->n_attribute = 0;
  onnx_int_attribute(m, gemm, "transB", 1);
  onnx_expect_failure(m, QB_ERROR_SHAPE, "does not fit the weight");
  onnx_free(m);
}

static void convolutions_of_other_ranks(void **state) {
  (void)state;
  onnx_model *m = onnx_new(13);
  onnx_input(m, "x", 3, DIMS(0, 2, 8));
  onnx_floats(m, "w", 3, DIMS(2, 2, 3), NULL);
  onnx_node(m, "Conv", "x w", "y");
  onnx_output(m, "y");
  onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, "only two spatial axes");
  onnx_free(m);
}

static void hostile_attributes(void **state) {
  (void)state;
  static const int64_t numbers[] = {0, -1, INT64_MIN, INT64_MAX, (int64_t)1 << 32, 7};
  static const char *const names[] = {"kernel_shape", "strides", "dilations", "pads", "output_padding", "output_shape"};
  static const char *const ops[] = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "Pad"};
  for (size_t o = 0; o < sizeof ops / sizeof *ops; o++)
    for (size_t n = 0; n < sizeof names / sizeof *names; n++)
      for (size_t v = 0; v < sizeof numbers / sizeof *numbers; v++)
        for (size_t count = 0; count < 9; count += 2) {
          qb_error error = {0};
          qb_graph graph;
          int64_t list[8];
          onnx_model *m = onnx_new(10);
          onnx_input(m, "x", 4, DIMS(0, 2, 5, 5));
          onnx_floats(m, "w", 4, DIMS(2, 2, 3, 3), NULL);
          Onnx__NodeProto *node = onnx_node(m, ops[o], o < 2 ? "x w" : "x", "y");
          onnx_output(m, "y");
          for (int i = 0; i < 8; i++)
            list[i] = numbers[v];
          onnx_ints_attribute(m, node, names[n], count, list);
          if (n > 0 && o > 1 && o < 4)
            onnx_ints_attribute(m, node, "kernel_shape", 2, DIMS(2, 2));
          assert_int_equal(onnx_read(m, &error), QB_OK);
          if (qb_onnx_to_graph(m->document, &graph, &error) == QB_OK)
            qb_graph_free(&graph);
          onnx_free(m);
        }
}

/* Nodes that would blow a small file up to many gigabytes. */
static void bombs_are_defused(void **state) {
  (void)state;
  onnx_model *m = onnx_new(13);
  onnx_input(m, "x", 2, DIMS(0, 2));
  onnx_integers(m, "shape", 1, DIMS(2), DIMS(1 << 20, 1 << 20));
  onnx_node(m, "ConstantOfShape", "shape", "big");
  onnx_node(m, "Add", "x big", "y");
  onnx_output(m, "y");
  onnx_expect_failure(m, QB_ERROR_MEMORY, "more memory than a file of this size should");
  onnx_free(m);

  m = onnx_new(13);
  onnx_input(m, "x", 2, DIMS(0, 2));
  onnx_floats(m, "c0", 2, DIMS(1, 256), NULL);
  onnx_floats(m, "r0", 2, DIMS(256, 1), NULL);
  onnx_floats(m, "cube", 3, DIMS(128, 1, 1), NULL);
  onnx_node(m, "Add", "c0 r0", "square");
  onnx_node(m, "Mul", "square cube", "volume");
  onnx_node(m, "Add", "x volume", "y");
  onnx_output(m, "y");
  onnx_expect_failure(m, QB_ERROR_UNSUPPORTED, "spans the batch axis"); /* 32 MB: within the budget */
  onnx_free(m);
}

static int set_up(void **state) {
  (void)state;
  return mkdtemp(folder) == NULL ? -1 : 0;
}

static int clean_up(void **state) {
  (void)state;
  static const char *const names[] = {"empty.onnx",  "text.onnx",   "zeros.onnx",    "nothing.onnx", "good.onnx.gz",
                                      "cut.onnx.gz", "bad.onnx.gz", "external.onnx", "weights.bin",  "link.bin"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    unlink(path_of(names[i]));
  rmdir(path_of("folder.onnx"));
  return rmdir(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(files_that_cannot_be_read),
      cmocka_unit_test(every_truncation_is_an_error),
      cmocka_unit_test(damage_is_survived),
      cmocka_unit_test(gzip_files),
      cmocka_unit_test(external_data),
      cmocka_unit_test(opsets_outside_the_range),
      cmocka_unit_test(graphs_that_are_not_sound),
      cmocka_unit_test(tensors_that_do_not_add_up),
      cmocka_unit_test(network_inputs),
      cmocka_unit_test(nodes_without_a_rule),
      cmocka_unit_test(products_of_the_wrong_kind),
      cmocka_unit_test(convolutions_of_other_ranks),
      cmocka_unit_test(hostile_attributes),
      cmocka_unit_test(bombs_are_defused),
  };
  return cmocka_run_group_tests(tests, set_up, clean_up);
}
