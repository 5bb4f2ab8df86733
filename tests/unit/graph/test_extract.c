/* Parts of graphs compute what the whole computes, and cuts are where everything flows through one value. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <math.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "graph/extract.h"
#include "run/run.h"
#include "support/faults.h"
#include "support/sketch.h"

static void assert_near(double a, double b, double tolerance) { assert_true(fabs(a - b) <= tolerance); }

/* conv a -> relu -> [conv b + a path] -> relu -> pool -> gemm */
typedef struct residual {
  sketch_graph sketch;
  qb_value_id input, a, inside, sum, pooled, output;
} residual;

static residual make_residual(void) {
  residual r = {.sketch = sketch_start(3)};
  sketch_graph *s = &r.sketch;
  r.input = sketch_input(s, QB_SHAPE(1, 3, 8, 8));
  r.a = sketch_unary(s, QB_OP_RELU, sketch_conv(s, r.input, 4, 3, 1, 1, 1));
  r.inside = sketch_unary(s, QB_OP_RELU, sketch_conv(s, r.a, 4, 3, 1, 1, 1));
  r.sum = sketch_unary(s, QB_OP_RELU, sketch_binary(s, QB_OP_ADD, sketch_conv(s, r.inside, 4, 3, 1, 1, 1), r.a));
  r.pooled = sketch_unary(s, QB_OP_GLOBAL_AVERAGE_POOL, r.sum);
  r.output = sketch_gemm(s, sketch_flatten(s, r.pooled), 5, true);
  sketch_finish(s, r.output);
  return r;
}

static qb_run *compile(const qb_graph *graph, const qb_value_id *keep, int32_t count) {
  qb_run_settings settings;
  qb_run_settings_default(&settings);
  settings.engine = QB_ENGINE_REFERENCE;
  settings.keep = keep;
  settings.keep_count = count;
  qb_run *run;
  qb_error error;
  if (qb_run_create(graph, &settings, &run, &error) != QB_OK)
    fail_msg("%s", error.message);
  return run;
}

static void a_part_computes_what_the_whole_does(void **state) {
  (void)state;
  residual r = make_residual();
  const qb_graph *graph = &r.sketch.graph;
  const qb_value_id keep[3] = {r.a, r.inside, r.sum}, targets[2] = {r.inside, r.sum};
  qb_graph part;
  qb_error error;
  float input[3 * 64], middle[4 * 64];
  for (int i = 0; i < 3 * 64; i++)
    input[i] = (float)qb_rng_normal(&r.sketch.rng);
  qb_run *whole = compile(graph, keep, 3);
  assert_int_equal(qb_run_forward(whole, input, 1, &error), QB_OK);
  assert_int_equal(qb_graph_extract(graph, r.a, targets, 2, &part, &error), QB_OK);
  assert_int_equal(qb_graph_validate(&part, &error), QB_OK);
  assert_int_equal(part.node_count, 5);
  for (int i = 0; i < 4 * 64; i++)
    middle[i] = (float)qb_run_value_double(whole, r.a)[i];
  qb_run *piece = compile(&part, NULL, 0);
  assert_int_equal(qb_run_forward(piece, middle, 1, &error), QB_OK);
  for (int t = 0; t < 2; t++)
    for (int i = 0; i < 4 * 64; i++)
      assert_near(qb_run_value_double(piece, targets[t])[i], qb_run_value_double(whole, targets[t])[i], 1e-5);
  qb_run_free(piece);
  qb_run_free(whole);
  qb_graph_free(&part);
  qb_graph_free(&r.sketch.graph);
}

static void a_part_that_needs_more_is_refused(void **state) {
  (void)state;
  residual r = make_residual();
  qb_graph part;
  qb_error error;
  assert_int_equal(qb_graph_extract(&r.sketch.graph, r.inside, &r.sum, 1, &part, &error), QB_ERROR_ARGUMENT);
  qb_graph_free(&part);
  qb_graph_free(&r.sketch.graph);
}

static void cuts_lie_between_residual_blocks(void **state) {
  (void)state;
  residual r = make_residual();
  const qb_graph *graph = &r.sketch.graph;
  bool *cut = qb_alloc((size_t)graph->value_count, sizeof *cut);
  qb_error error;
  assert_non_null(cut);
  assert_int_equal(qb_graph_cuts(graph, cut, &error), QB_OK);
  assert_true(cut[r.input] && cut[r.a] && cut[r.sum] && cut[r.pooled] && cut[r.output]);
  assert_false(cut[r.inside]);
  int count = 0;
  for (int32_t v = 0; v < graph->value_count; v++)
    count += cut[v];
  assert_int_equal(count, 8); /* also the first convolution, the sum before its Relu, the flattened value */
  qb_free(cut);
  qb_graph_free(&r.sketch.graph);
}

static qb_status extract_work(void *context, qb_error *error) {
  const residual *r = context;
  qb_graph part = {0};
  bool cut[64];
  qb_status status = qb_graph_extract(&r->sketch.graph, r->a, &r->sum, 1, &part, error);
  qb_graph_free(&part);
  return status != QB_OK ? status : qb_graph_cuts(&r->sketch.graph, cut, error);
}

static void failed_allocations_leave_nothing(void **state) {
  (void)state;
  residual r = make_residual();
  assert_true(r.sketch.graph.value_count <= 64);
  fault_every_allocation(extract_work, &r, 100);
  qb_graph_free(&r.sketch.graph);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_part_computes_what_the_whole_does),
      cmocka_unit_test(a_part_that_needs_more_is_refused),
      cmocka_unit_test(cuts_lie_between_residual_blocks),
      cmocka_unit_test(failed_allocations_leave_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
