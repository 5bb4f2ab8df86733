/* Plans: reading, writing, overrides, and messages that find the misspelt layer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "quant/layer_plan.h"
#include "support/faults.h"
#include "support/sketch.h"

/* Four layers: Conv1.., named below. */
static sketch_graph build(void) {
  static const char *const names[] = {"conv1", "layer1.0.conv1", "layer1.0.conv2", "the last layer"};
  sketch_graph s = sketch_start(1);
  qb_value_id x = sketch_input(&s, QB_SHAPE(1, 4));
  for (int i = 0; i < 4; i++)
    x = sketch_unary(&s, QB_OP_RELU, sketch_gemm(&s, x, 4, true));
  sketch_finish(&s, x);
  for (qb_node_id n = 0, layer = 0; n < s.graph.node_count; n++)
    if (s.graph.nodes[n].op == QB_OP_GEMM)
      s.graph.nodes[n].name = names[layer++];
  return s;
}

static qb_status parse(qb_layer_plan *plan, const char *text, qb_error *error) {
  return qb_layer_plan_parse(plan, text, strlen(text), "plan.txt", error);
}

static void check_bits(const qb_layer_plan *plan, int a, int b, int c, int d) {
  assert_int_equal(plan->count, 4);
  assert_int_equal(plan->layers[0].bits, a);
  assert_int_equal(plan->layers[1].bits, b);
  assert_int_equal(plan->layers[2].bits, c);
  assert_int_equal(plan->layers[3].bits, d);
}

/* Parses onto a fresh plan of 8 bits and expects these bits. */
static void accept(const char *text, int a, int b, int c, int d) {
  sketch_graph s = build();
  qb_layer_plan plan;
  qb_error error;
  assert_int_equal(qb_layer_plan_create(&s.graph, 8, &plan, &error), QB_OK);
  if (parse(&plan, text, &error) != QB_OK)
    fail_msg("%s", error.message);
  check_bits(&plan, a, b, c, d);
  qb_layer_plan_free(&plan);
  qb_graph_free(&s.graph);
}

static void refuse(const char *text, const char *first, const char *second) {
  sketch_graph s = build();
  qb_layer_plan plan;
  qb_error error;
  assert_int_equal(qb_layer_plan_create(&s.graph, 8, &plan, &error), QB_OK);
  assert_int_equal(parse(&plan, text, &error), QB_ERROR_FORMAT);
  if (strstr(error.message, first) == NULL || strstr(error.message, second) == NULL)
    fail_msg("'%s' does not say '%s' and '%s'", error.message, first, second);
  qb_layer_plan_free(&plan);
  qb_graph_free(&s.graph);
}

static void lines_set_bits(void **state) {
  (void)state;
  accept("", 8, 8, 8, 8);
  accept("conv1 4\nlayer1.0.conv2 16", 4, 8, 16, 8);
  accept("\r\n  conv1\t2 \r\nthe last layer 3\r\n", 2, 8, 8, 3);
}

static void layers_are_kept_float(void **state) {
  (void)state;
  accept("# conv1 4\n#layer1.0.conv1\nlayer1.0.conv2 float\nthe last layer #\n", 0, 0, 0, 0);
  accept("# the last layer\nconv1 0\n", 0, 8, 8, 0);
}

static void comments_are_ignored(void **state) {
  (void)state;
  accept("# made by hand\n#\n##########\n# conv1 is sensitive\n# tuned for layer1.0.conv1 4\n", 8, 8, 8, 8);
}

static void mistakes_are_located(void **state) {
  (void)state;
  refuse("conv1 4\nconv2 4\n", "plan.txt: line 2", "the nearest layer is 'conv1'");
  refuse("layer1.0.con2 4\n", "line 1", "'layer1.0.conv2'");
  refuse("# layer1.0.cnv1 4\n", "line 1", "'layer1.0.conv1'");
  refuse("\n\nconv1 17\n", "line 3", "2 to 16");
  refuse("conv1 1\n", "line 1", "2 to 16");
  refuse("conv1 four\n", "line 1", "conv1 four");
  refuse("conv1\n", "line 1", "expected");
  refuse("8\n", "line 1", "expected");
  refuse("conv1 08\n", "line 1", "expected");
  refuse("conv1 -4\n", "line 1", "expected");
  refuse("conv1 4\n# conv1\n", "line 2", "on line 1 already");
}

static void bytes_that_are_no_text_are_refused(void **state) {
  (void)state;
  sketch_graph s = build();
  qb_layer_plan plan;
  qb_error error;
  assert_int_equal(qb_layer_plan_create(&s.graph, 8, &plan, &error), QB_OK);
  assert_int_equal(qb_layer_plan_parse(&plan, "conv1\0x 4\n", 10, "plan.txt", &error), QB_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "not a text file"));
  assert_int_equal(qb_layer_plan_read(&plan, "/nonexistent/plan", &error), QB_ERROR_IO);
  assert_non_null(strstr(error.message, "/nonexistent/plan"));
  assert_int_equal(qb_layer_plan_read(&plan, QB_SOURCE_DIR, &error), QB_ERROR_IO);
  qb_layer_plan_free(&plan);
  qb_graph_free(&s.graph);
}

static void what_is_written_reads_back(void **state) {
  (void)state;
  sketch_graph s = build();
  qb_layer_plan plan, again;
  qb_error error;
  char text[1000];
  assert_int_equal(qb_layer_plan_create(&s.graph, 8, &plan, &error), QB_OK);
  plan.layers[1].bits = 0;
  plan.layers[2].bits = 16;
  plan.layers[3].bits = 0;
  FILE *file = tmpfile();
  assert_non_null(file);
  assert_int_equal(qb_layer_plan_write(&plan, file, "plan.txt", &error), QB_OK);
  rewind(file);
  size_t length = fread(text, 1, sizeof text, file);
  fclose(file);
  assert_int_equal(qb_layer_plan_create(&s.graph, 5, &again, &error), QB_OK);
  if (qb_layer_plan_parse(&again, text, length, "plan.txt", &error) != QB_OK)
    fail_msg("%s", error.message);
  check_bits(&again, 8, 0, 16, 0);

  FILE *full = fault_full_disk();
  if (full != NULL) {
    assert_int_equal(qb_layer_plan_write(&plan, full, "plan.txt", &error), QB_ERROR_IO);
    fclose(full);
  }
  qb_layer_plan_free(&again);
  qb_layer_plan_free(&plan);
  qb_graph_free(&s.graph);
}

static void overrides_match_expressions(void **state) {
  (void)state;
  sketch_graph s = build();
  qb_layer_plan plan;
  qb_error error;
  assert_int_equal(qb_layer_plan_create(&s.graph, 8, &plan, &error), QB_OK);
  assert_int_equal(qb_layer_plan_override(&plan, "conv1$=4", &error), QB_OK);
  check_bits(&plan, 4, 4, 8, 8);
  assert_int_equal(qb_layer_plan_override(&plan, "^(conv1|layer1\\..*2)$=float", &error), QB_OK);
  check_bits(&plan, 0, 4, 0, 8);
  assert_int_equal(qb_layer_plan_override(&plan, ".=16", &error), QB_OK);
  check_bits(&plan, 16, 16, 16, 16);
  static const char *const bad[] = {"conv1", "=8", "conv1=", "conv1=99", "conv1=x", "con(=8", "nothing=8"};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    assert_int_equal(qb_layer_plan_override(&plan, bad[i], &error), QB_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, bad[i]));
  }
  check_bits(&plan, 16, 16, 16, 16);
  qb_layer_plan_free(&plan);
  qb_graph_free(&s.graph);
}

static qb_status plan_work(void *context, qb_error *error) {
  qb_layer_plan plan;
  qb_status status = qb_layer_plan_create(context, 8, &plan, error);
  if (status == QB_OK)
    status = parse(&plan, "conv1 4\n# layer1.0.conv1\n", error);
  if (status == QB_OK)
    status = qb_layer_plan_override(&plan, "conv=5", error);
  qb_layer_plan_free(&plan);
  return status;
}

static void every_allocation_may_fail(void **state) {
  (void)state;
  sketch_graph s = build();
  assert_int_equal(fault_every_allocation(plan_work, &s.graph, 10), 3);
  qb_graph_free(&s.graph);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(lines_set_bits),
      cmocka_unit_test(layers_are_kept_float),
      cmocka_unit_test(comments_are_ignored),
      cmocka_unit_test(mistakes_are_located),
      cmocka_unit_test(bytes_that_are_no_text_are_refused),
      cmocka_unit_test(what_is_written_reads_back),
      cmocka_unit_test(overrides_match_expressions),
      cmocka_unit_test(every_allocation_may_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
