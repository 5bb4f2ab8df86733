/* Balls of tiny networks whose difference is known by hand, decisions, quantizers that replace the activation, and
 * equal bits for any number of threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <omp.h>

#include "base/rng.h"
#include "bound/bisect.h"
#include "graph/pass_drop_clip.h"
#include "support/network_builder.h"

/* x -> relu(w x + b) -> v -> y, one of each. */
static qb_graph scalar_network(float w, float b, float v) {
  network_builder net;
  network_builder_init(&net, QB_SHAPE(1, 1));
  qb_value_id h = network_unary(&net, QB_OP_RELU, network_gemm(&net, net.input, 1, &w, &b));
  return network_builder_finish(&net, network_gemm(&net, h, 1, &v, NULL));
}

static qb_ball bound_pair(const qb_pair *pair, float *lo, float *hi, int64_t count, bool decide) {
  qb_error error;
  qb_backward *backward;
  qb_ball ball;
  qb_domain domain = {count, lo, hi};
  qb_ball_settings settings = qb_ball_settings_default();
  settings.decide = decide;
  if (qb_backward_create(pair, &backward, &error) != QB_OK ||
      qb_bound_ball(backward, &domain, &settings, &ball, &error) != QB_OK)
    fail_msg("%s", error.message);
  qb_backward_free(backward);
  if (!ball.applies)
    fail_msg("%s", ball.why);
  return ball;
}

static qb_interval scalar_difference(float lo, float hi) {
  qb_graph original = scalar_network(1, 0, 2), quantized = scalar_network(1.25F, 0, 2);
  qb_pair pair = network_pair(&original, &quantized);
  qb_ball ball = bound_pair(&pair, &lo, &hi, 1, false);
  qb_interval difference = ball.difference[0];
  qb_ball_free(&ball);
  network_pair_free(&pair);
  qb_graph_free(&original);
  qb_graph_free(&quantized);
  return difference;
}

static void active_neurons_are_exact(void **state) {
  (void)state; /* y' - y = x / 2 */
  qb_interval d = scalar_difference(1, 2), point = scalar_difference(1.5F, 1.5F), dead = scalar_difference(-2, -1);
  assert_true(d.lo <= 0.5 && d.lo > 0.5 - 1e-12 && d.hi >= 1 && d.hi < 1 + 1e-12);
  assert_true(point.lo <= 0.75 && point.hi >= 0.75 && point.hi - point.lo < 1e-12);
  assert_true(dead.lo <= 0 && dead.hi >= 0 && dead.hi - dead.lo < 1e-12);
}

static void undecided_neurons_use_planes(void **state) {
  (void)state; /* y' - y = relu(x) / 2 lies in [0, 1/2]; the planes reach the upper end */
  qb_interval d = scalar_difference(-1, 1);
  assert_true(d.lo <= 0 && d.hi >= 0.5);
  assert_true(d.hi <= 0.5 + 1e-9 && d.lo >= -0.5 - 1e-9);
}

/* relu(x) - relu(x) of the same input through two layers: only a relaxation that keeps x' - x linear sees it. */
static void correlated_differences_cancel(void **state) {
  (void)state;
  const float w[2] = {1, 1}, w2[2] = {1.125F, 1.125F}, v[2] = {1, -1};
  qb_graph graphs[2];
  for (int i = 0; i < 2; i++) {
    network_builder net;
    network_builder_init(&net, QB_SHAPE(1, 1));
    qb_value_id h = network_unary(&net, QB_OP_RELU, network_gemm(&net, net.input, 2, i == 0 ? w : w2, NULL));
    graphs[i] = network_builder_finish(&net, network_gemm(&net, h, 1, v, NULL));
  }
  qb_pair pair = network_pair(&graphs[0], &graphs[1]);
  float lo = 1, hi = 3;
  qb_ball ball = bound_pair(&pair, &lo, &hi, 1, false);
  assert_true(ball.difference[0].lo <= 0 && ball.difference[0].hi >= 0);
  assert_true(ball.difference[0].hi - ball.difference[0].lo < 1e-12);
  qb_ball_free(&ball);
  network_pair_free(&pair);
  qb_graph_free(&graphs[0]);
  qb_graph_free(&graphs[1]);
}

static void decisions(void **state) {
  (void)state; /* y = (relu(x), 1 - x / 4): the first wins for x > 0.8 */
  const float w[2] = {1, -0.25F}, b[2] = {0, 1}, w2[2] = {1.0625F, -0.25F};
  network_builder net, other;
  network_builder_init(&net, QB_SHAPE(1, 1));
  network_builder_init(&other, QB_SHAPE(1, 1));
  qb_graph original =
      network_builder_finish(&net, network_unary(&net, QB_OP_RELU, network_gemm(&net, net.input, 2, w, b)));
  qb_graph quantized =
      network_builder_finish(&other, network_unary(&other, QB_OP_RELU, network_gemm(&other, other.input, 2, w2, b)));
  qb_pair pair = network_pair(&original, &quantized);
  float lo = 1, hi = 2;
  qb_ball ball = bound_pair(&pair, &lo, &hi, 1, true);
  assert_true(ball.keeps_top && ball.top == 0);
  qb_ball_free(&ball);
  lo = 0.7F;
  ball = bound_pair(&pair, &lo, &hi, 1, true);
  assert_false(ball.keeps_top);
  qb_ball_free(&ball);
  network_pair_free(&pair);
  qb_graph_free(&original);
  qb_graph_free(&quantized);
}

/* relu against Clip(0, 3.75), QuantizeLinear of step 1/4 in codes 0..255: x' = clamp(round(4 x) / 4, 0, 3.75). */
static void quantizers_replace_the_activation(void **state) {
  (void)state;
  const float one = 1, zero = 0, step = 0.25F;
  network_builder net, other;
  network_builder_init(&net, QB_SHAPE(1, 1));
  network_builder_init(&other, QB_SHAPE(1, 1));
  qb_graph original =
      network_builder_finish(&net, network_unary(&net, QB_OP_RELU, network_gemm(&net, net.input, 1, &one, NULL)));
  qb_value_id ids[3] = {network_clip(&other, network_gemm(&other, other.input, 1, &one, NULL), 0, 3.75F),
                        network_constant(&other, (qb_shape){0}, &step), network_constant(&other, (qb_shape){0}, &zero)};
  qb_attributes codes = {.quantize = {.lo = 0, .hi = 255}};
  ids[0] = network_node(&other, QB_OP_QUANTIZE_LINEAR, ids, 3, &codes, NULL);
  qb_graph quantized =
      network_builder_finish(&other, network_node(&other, QB_OP_DEQUANTIZE_LINEAR, ids, 3, &codes, NULL));
  assert_int_equal(qb_drop_clips(&quantized), 1);
  qb_pair pair;
  qb_error error;
  assert_int_equal(qb_pair_match_absorbed(&original, &quantized, &pair, &error), QB_OK);
  const float boxes[3][2] = {{1, 2}, {-2, -1}, {5, 6}};
  const double known[3][2] = {{-0.125, 0.125}, {0, 0}, {-2.25, -1.25}};
  for (int i = 0; i < 3; i++) {
    float lo = boxes[i][0], hi = boxes[i][1];
    qb_ball ball = bound_pair(&pair, &lo, &hi, 1, false);
    assert_true(ball.difference[0].lo <= known[i][0] && ball.difference[0].lo > known[i][0] - 1e-5);
    assert_true(ball.difference[0].hi >= known[i][1] && ball.difference[0].hi < known[i][1] + 1e-5);
    qb_ball_free(&ball);
  }
  qb_pair_free(&pair);
  qb_graph_free(&original);
  qb_graph_free(&quantized);
}

enum { INPUTS = 20 }; /* of the network below */

static qb_graph wide_network(uint64_t seed, double change) {
  enum { WIDTH = 80 };
  static float w[WIDTH * WIDTH];
  qb_rng rng, noise;
  qb_rng_seed(&rng, seed, 0);
  qb_rng_seed(&noise, seed, 1);
  network_builder net;
  network_builder_init(&net, QB_SHAPE(1, INPUTS));
  qb_value_id x = net.input;
  for (int layer = 0; layer < 3; layer++) {
    for (int i = 0; i < WIDTH * (layer == 0 ? INPUTS : WIDTH); i++)
      w[i] = (float)(0.1 * qb_rng_normal(&rng) + change * qb_rng_normal(&noise));
    x = network_unary(&net, QB_OP_RELU, network_gemm(&net, x, WIDTH, w, NULL));
  }
  return network_builder_finish(&net, network_gemm(&net, x, 3, w, NULL));
}

/* Such a network and one a little off, on a box that leaves many rectifiers undecided. */
typedef struct wide_pair {
  qb_graph original, quantized;
  qb_pair pair;
  qb_backward *backward;
  float lo[INPUTS], hi[INPUTS];
  qb_domain domain; /* borrows lo and hi */
} wide_pair;

static void begin_wide(wide_pair *w) {
  qb_error error;
  w->original = wide_network(5, 0);
  w->quantized = wide_network(5, 0.001);
  w->pair = network_pair(&w->original, &w->quantized);
  assert_int_equal(qb_backward_create(&w->pair, &w->backward, &error), QB_OK);
  for (int i = 0; i < INPUTS; i++) {
    w->lo[i] = -0.3F;
    w->hi[i] = 0.2F;
  }
  w->domain = (qb_domain){INPUTS, w->lo, w->hi};
}

static void end_wide(wide_pair *w) {
  qb_backward_free(w->backward);
  network_pair_free(&w->pair);
  qb_graph_free(&w->original);
  qb_graph_free(&w->quantized);
}

static void threads_do_not_matter(void **state) {
  (void)state;
  wide_pair wide;
  begin_wide(&wide);
  qb_ball ball[2];
  for (int i = 0; i < 2; i++) {
    omp_set_num_threads(i == 0 ? 1 : 4);
    ball[i] = bound_pair(&wide.pair, wide.lo, wide.hi, INPUTS, false);
  }
  for (int k = 0; k < 3; k++)
    assert_memory_equal(&ball[0].difference[k], &ball[1].difference[k], sizeof(qb_interval));
  assert_true(ball[0].from_interval == 0);
  qb_ball_free(&ball[0]);
  qb_ball_free(&ball[1]);
  end_wide(&wide);
}

/* More turns of the planes: nested ranges, narrower at first, and never more turns than were asked for. */
static void turns_only_narrow(void **state) {
  (void)state;
  wide_pair wide;
  qb_error error;
  begin_wide(&wide);
  qb_ball_settings settings = qb_ball_settings_default();
  double width[5] = {0};
  qb_ball ball, before = {0};
  for (settings.turns = 0; settings.turns < 5; settings.turns++, before = ball) {
    assert_int_equal(qb_bound_ball(wide.backward, &wide.domain, &settings, &ball, &error), QB_OK);
    assert_true(ball.turns <= settings.turns && (ball.turns > 0) == (settings.turns > 0));
    for (int k = 0; k < 3; k++) {
      assert_true(settings.turns == 0 || ball.difference[k].lo >= before.difference[k].lo);
      assert_true(settings.turns == 0 || ball.difference[k].hi <= before.difference[k].hi);
      width[settings.turns] += ball.difference[k].hi - ball.difference[k].lo;
    }
    qb_ball_free(&before);
  }
  assert_true(width[1] < 0.999 * width[0] && width[2] < width[1]);
  qb_ball_free(&before);
  end_wide(&wide);
}

/* With no time at all: plain intervals, nothing half done, and said so. */
static void without_time_intervals_remain(void **state) {
  (void)state;
  wide_pair wide;
  qb_error error;
  begin_wide(&wide);
  qb_ball_settings settings = qb_ball_settings_default();
  qb_ball hurried, full;
  qb_box_result box;
  settings.decide = true;
  assert_int_equal(qb_bound_ball(wide.backward, &wide.domain, &settings, &full, &error), QB_OK);
  settings.timeout_seconds = 1e-9;
  assert_int_equal(qb_bound_ball(wide.backward, &wide.domain, &settings, &hurried, &error), QB_OK);
  assert_int_equal(qb_bound_box(&wide.pair, &wide.domain, &box, &error), QB_OK);
  const qb_box_track *d = &box.states[wide.quantized.outputs[0]].track[QB_TRACK_DIFFERENCE];
  assert_true(hurried.applies && hurried.hidden_skipped > 0 && full.hidden_skipped == 0);
  for (qb_node_id n = 0; n < wide.quantized.node_count; n++)
    assert_false(hurried.relaxed[n]);
  for (int k = 0; k < 3; k++) {
    assert_true(hurried.difference[k].lo == d->lo[k] && hurried.difference[k].hi == d->hi[k]);
    assert_true(full.difference[k].lo > d->lo[k] && full.difference[k].hi < d->hi[k]);
  }
  qb_box_result_free(&box);
  qb_ball_free(&hurried);
  qb_ball_free(&full);
  end_wide(&wide);
}

/* y' - y = relu(x) / 2 on [-1, 1]: one box cannot prove |y' - y| <= 0.51 below, halves can; 0.49 is false. */
static void cutting_proves_what_one_box_cannot(void **state) {
  (void)state;
  qb_graph original = scalar_network(1, 0, 2), quantized = scalar_network(1.25F, 0, 2);
  qb_pair pair = network_pair(&original, &quantized);
  float lo = -1, hi = 1;
  qb_domain domain = {1, &lo, &hi};
  qb_error error;
  for (int threads = 1; threads <= 3; threads++) {
    qb_bisection_settings settings = qb_bisection_settings_default();
    qb_bisection yes, no;
    settings.threads = threads;
    settings.most_boxes = 200;
    assert_int_equal(qb_ball_bisect(&pair, &domain, &(qb_ball_claim){0, 0.5001}, &settings, &yes, &error), QB_OK);
    assert_int_equal(qb_ball_bisect(&pair, &domain, &(qb_ball_claim){0, 0.49}, &settings, &no, &error), QB_OK);
    assert_true(yes.proved && yes.open == 0 && yes.range.hi <= 0.5001 && yes.range.hi >= 0.5 && yes.range.lo <= 0);
    assert_true(!no.proved && no.open > 0 && no.range.hi >= 0.5);
    assert_true(!yes.refuted);
  }
  qb_bisection none;
  qb_bisection_settings settings = qb_bisection_settings_default();
  assert_int_equal(qb_ball_bisect(&pair, &domain, &(qb_ball_claim){1, 1}, &settings, &none, &error), QB_ERROR_ARGUMENT);
  network_pair_free(&pair);
  qb_graph_free(&original);
  qb_graph_free(&quantized);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(active_neurons_are_exact),
      cmocka_unit_test(undecided_neurons_use_planes),
      cmocka_unit_test(correlated_differences_cancel),
      cmocka_unit_test(decisions),
      cmocka_unit_test(quantizers_replace_the_activation),
      cmocka_unit_test(threads_do_not_matter),
      cmocka_unit_test(without_time_intervals_remain),
      cmocka_unit_test(cutting_proves_what_one_box_cannot),
      cmocka_unit_test(turns_only_narrow),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
