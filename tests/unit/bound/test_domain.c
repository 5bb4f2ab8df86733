/* Input boxes: intervals, channels, the radius, and refusals. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bound/bound.h"

static qb_graph graph_with_input(qb_shape shape) {
  qb_graph graph;
  qb_value_id id;
  assert_int_equal(qb_graph_init(&graph, "test", NULL), QB_OK);
  assert_int_equal(qb_graph_add_input(&graph, "x", &shape, &id, NULL), QB_OK);
  return graph;
}

static void an_interval_fills_every_element(void **state) {
  (void)state;
  qb_graph graph = graph_with_input(QB_SHAPE(1, 3, 2, 2));
  qb_domain domain;
  assert_int_equal(qb_domain_interval(&graph, -3, 2, &domain, NULL), QB_OK);
  assert_int_equal(domain.count, 12);
  assert_true(domain.lo[11] == -3 && domain.hi[0] == 2);
  assert_true(qb_domain_radius(&domain) == 3);
  qb_domain_free(&domain);
  qb_graph_free(&graph);
}

static void channels_have_their_own_limits(void **state) {
  (void)state;
  qb_graph graph = graph_with_input(QB_SHAPE(1, 2, 2, 2));
  const float lo[] = {-1, 0}, hi[] = {0, 5};
  qb_domain domain;
  assert_int_equal(qb_domain_channels(&graph, lo, hi, 2, &domain, NULL), QB_OK);
  assert_true(domain.lo[3] == -1 && domain.lo[4] == 0 && domain.hi[3] == 0 && domain.hi[7] == 5);
  assert_true(qb_domain_radius(&domain) == 5);
  qb_domain_free(&domain);

  qb_error error;
  assert_int_equal(qb_domain_channels(&graph, lo, hi, 3, &domain, &error), QB_ERROR_SHAPE);
  qb_domain_free(&domain);
  qb_graph_free(&graph);
}

static void bad_limits_are_refused(void **state) {
  (void)state;
  qb_graph graph = graph_with_input(QB_SHAPE(1, 4));
  qb_domain domain;
  assert_int_equal(qb_domain_interval(&graph, 1, 0, &domain, NULL), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_domain_interval(&graph, 0, INFINITY, &domain, NULL), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_domain_interval(&graph, NAN, 1, &domain, NULL), QB_ERROR_ARGUMENT);
  qb_domain_free(&domain);
  qb_graph_free(&graph);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_interval_fills_every_element),
      cmocka_unit_test(channels_have_their_own_limits),
      cmocka_unit_test(bad_limits_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
