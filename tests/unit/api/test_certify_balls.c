/* Balls through the public interface, on a small trained network: no image of a ball may leave the certified outputs,
 * at radius 0 they are the difference itself, decisions hold, boxes of few inputs are cut up; and the same checks
 * notice a ball around another image and a radius in pixel steps that counts as one in network units. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <omp.h>

#include "api/ball_call.h"
#include "api/certify_claims.h"
#include "api/model.h"
#include "base/rng.h"
#include "bound/refine.h"
#include "data/digits.h"
#include "run/run.h"
#include "support/temp_folder.h"
#include "support/tiny_network.h"

enum { PIXELS = QB_DIGITS_PIXELS, CLASSES = QB_DIGITS_CLASSES, IMAGES = 3, POINTS = 40, SEED = 5 };

typedef struct fixture {
  temp_folder *folder;
  qb_model *model, *quantized;
  qb_run *run[2]; /* in double, with radii */
} fixture;

static fixture networks;

static void must(qb_status status, const qb_error *error) {
  if (status != QB_OK)
    fail_msg("%s", error->message);
}

static int make_networks(void **state) {
  qb_error error = {0};
  qb_run_settings settings;
  omp_set_num_threads(1); /* the network is tiny */
  temp_folder_create(state);
  networks.folder = *state;
  const char *path = temp_path(networks.folder, "net.onnx"), *other = temp_path(networks.folder, "net6.onnx");
  tiny_network_train(path);
  must(qb_model_load(path, &networks.model, &error), &error);
  tiny_network_quantize(networks.model, 6, other);
  must(qb_model_load(other, &networks.quantized, &error), &error);
  qb_run_settings_default(&settings);
  settings.engine = QB_ENGINE_REFERENCE;
  settings.radius = true;
  must(qb_run_create(&networks.model->graph, &settings, &networks.run[0], &error), &error);
  must(qb_run_create(&networks.quantized->graph, &settings, &networks.run[1], &error), &error);
  return 0;
}

static int free_networks(void **state) {
  for (int i = 0; i < 2; i++)
    qb_run_free(networks.run[i]);
  qb_model_free(networks.quantized);
  qb_model_free(networks.model);
  *state = networks.folder;
  return temp_folder_remove(state);
}

static void certify(const char *preprocess, const qb_radius *radii, int count, qb_certificate *certificate) {
  qb_error error = {0};
  qb_certify_settings settings;
  qb_data around;
  char path[64];
  snprintf(path, sizeof path, "digits:%d:%d", IMAGES, SEED);
  qb_certify_settings_default(&settings);
  qb_data_default(&around);
  around.path = path;
  around.preprocess = settings.preprocess = preprocess;
  settings.worst_case = false;
  settings.search = false; /* the checks below do not rest on the engine's own */
  settings.around = &around;
  settings.radii = radii;
  settings.radius_count = count;
  must(qb_certify(networks.model, networks.quantized, &settings, NULL, certificate, &error), &error);
}

/* ------------------------------------------------------------------------------------------------------ soundness */

static int64_t top_of(const double *y) {
  int64_t top = 0;
  for (int64_t k = 1; k < CLASSES; k++)
    top = y[k] > y[top] ? k : top;
  return top;
}

/* Whether the outputs at x lie in what the ball claims. */
static bool holds_at(const qb_certified_ball *ball, const float *x) {
  const double *y[2], *r[2];
  bool holds = true;
  for (int i = 0; i < 2; i++) {
    assert_int_equal(qb_run_forward(networks.run[i], x, 1, NULL), QB_OK);
    const qb_graph *graph = i == 0 ? &networks.model->graph : &networks.quantized->graph;
    y[i] = qb_run_value_double(networks.run[i], graph->outputs[0]);
    r[i] = qb_run_radius(networks.run[i], graph->outputs[0]);
  }
  for (int64_t k = 0; k < CLASSES; k++) {
    double d = y[1][k] - y[0][k], slack = r[0][k] + r[1][k] + 1e-15 * fabs(y[0][k]);
    holds = holds && d >= ball->outputs[k].lo - slack && d <= ball->outputs[k].hi + slack;
    holds = holds && fabs(d) <= ball->bound + slack;
  }
  return holds && !(ball->decision == QB_DECISION_PROVED && top_of(y[0]) != top_of(y[1]));
}

/* Image `index` with each stored pixel moved by up to `steps`, mostly all the way, as a network input. */
static void draw_image(int64_t index, int steps, double scale, qb_rng *rng, float *x) {
  uint8_t pixels[PIXELS];
  int32_t label;
  uint64_t kind = qb_rng_below(rng, 3);
  qb_digits_image(SEED, (uint64_t)index, pixels, &label);
  for (int i = 0; i < PIXELS; i++) {
    int move = kind == 0 ? steps : kind == 1 ? -steps : steps * (int)(2 * qb_rng_below(rng, 2)) - steps;
    int pixel = (int)pixels[i] + move;
    pixel = pixel < 0 ? 0 : pixel > 255 ? 255 : pixel;
    x[i] = (float)pixel / (float)scale;
  }
}

/* The number of images that leave a ball of their certificate; radii in whole pixel steps. */
static int count_violations(const qb_certificate *certificate, double scale) {
  float x[PIXELS];
  qb_rng rng;
  int violations = 0;
  qb_rng_seed(&rng, 11, 0);
  for (int64_t b = 0; b < certificate->balls.ball_count; b++) {
    const qb_certified_ball *ball = &certificate->balls.balls[b];
    assert_non_null(ball->method);
    for (int p = 0; p < POINTS; p++) {
      draw_image(ball->index, (int)ball->radius.value, scale, &rng, x);
      violations += !holds_at(ball, x);
    }
  }
  return violations;
}

static const qb_radius steps[] = {{0, true}, {1, true}, {4, true}, {30, true}};
enum { STEPS = sizeof steps / sizeof *steps };

static void no_image_leaves_its_ball(void **state) {
  (void)state;
  qb_certificate certificate;
  certify("unit", steps, STEPS, &certificate);
  assert_int_equal(certificate.balls.ball_count, IMAGES * STEPS);
  assert_int_equal(certificate.balls.point_count, STEPS);
  assert_int_equal(count_violations(&certificate, 255), 0);
  for (int r = 1; r < STEPS; r++)
    assert_true(certificate.balls.curve[r].median > certificate.balls.curve[r - 1].median);
  assert_int_equal(certificate.balls.curve[0].proved, IMAGES); /* single points without ties */
  qb_certificate_free(&certificate);
}

static void radius_zero_is_the_difference_itself(void **state) {
  (void)state;
  static const qb_radius zero = {0, false};
  qb_certificate certificate;
  certify("unit", &zero, 1, &certificate);
  for (int64_t b = 0; b < IMAGES; b++) { /* to the margin of 1e-6 and rounding */
    const qb_certified_ball *ball = &certificate.balls.balls[b];
    for (int64_t k = 0; k < CLASSES; k++)
      assert_true(ball->outputs[k].hi - ball->outputs[k].lo <= 2.001e-6 * fmax(ball->bound, 1e-3));
  }
  assert_int_equal(count_violations(&certificate, 255), 0);
  qb_certificate_free(&certificate);
}

static void planted_mistakes_are_noticed(void **state) {
  (void)state;
  static const qb_radius three = {3, true};
  qb_certificate certificate;
  qb_certify_fault_planted = QB_CERTIFY_FAULT_OTHER_CENTRE;
  certify("unit", steps, 2, &certificate);
  assert_true(count_violations(&certificate, 255) > 0);
  qb_certificate_free(&certificate);
  certify("scale=0.05", &three, 1, &certificate); /* a step of a pixel is twenty network units */
  qb_certify_fault_planted = QB_CERTIFY_FAULT_NONE;
  qb_certificate_free(&certificate);
  certify("scale=0.05", &three, 1, &certificate);
  assert_int_equal(count_violations(&certificate, 0.05), 0);
  qb_certificate_free(&certificate);
  qb_certify_fault_planted = QB_CERTIFY_FAULT_PIXELS_AS_UNITS;
  certify("scale=0.05", &three, 1, &certificate);
  qb_certify_fault_planted = QB_CERTIFY_FAULT_NONE;
  assert_true(count_violations(&certificate, 0.05) > 0);
  qb_certificate_free(&certificate);
}

/* ----------------------------------------------------------------------------------------------------- refinement */

/* A box of the first image in which five pixels vary: cutting it up is never worse, and the tree is a tree. */
static void cutting_up_a_box_is_sound_and_tighter(void **state) {
  (void)state;
  qb_error error = {0};
  float lo[PIXELS], hi[PIXELS], x[PIXELS];
  qb_rng rng;
  qb_pair pair = {0};
  qb_rng_seed(&rng, 12, 0);
  draw_image(0, 0, 255, &rng, lo);
  memcpy(hi, lo, sizeof lo);
  for (int i = 0; i < 5; i++)
    lo[300 + 20 * i] = 0, hi[300 + 20 * i] = 4;
  qb_domain domain = {PIXELS, lo, hi};
  assert_int_equal(qb_domain_free_inputs(&domain), 5);
  must(qb_pair_match(&networks.model->graph, &networks.quantized->graph, &pair, &error), &error);
  qb_refine_settings settings = qb_refine_settings_default();
  qb_refinement whole, parts;
  settings.ball.decide = true;
  settings.most_parts = 1;
  must(qb_bound_refined(&pair, &domain, &settings, &whole, &error), &error);
  settings.most_parts = 200;
  must(qb_bound_refined(&pair, &domain, &settings, &parts, &error), &error);
  assert_true(whole.applies && parts.applies);
  assert_int_equal(parts.node_count, parts.parts); /* every node was bounded once */
  int64_t leaves = 0;
  for (int64_t n = 0; n < parts.node_count; n++)
    leaves += parts.axis[n] < 0;
  assert_int_equal(2 * leaves - 1, parts.node_count);
  double before = 0, after = 0;
  qb_certified_ball ball = {.outputs = calloc(CLASSES, sizeof(qb_output_range)),
                            .bound = INFINITY,
                            .decision = parts.keeps_top ? QB_DECISION_PROVED : QB_DECISION_UNKNOWN};
  for (int64_t k = 0; k < CLASSES; k++) {
    before = fmax(before, qb_interval_magnitude(whole.difference[k]));
    after = fmax(after, qb_interval_magnitude(parts.difference[k]));
    ((qb_output_range *)(uintptr_t)ball.outputs)[k] = (qb_output_range){parts.difference[k].lo, parts.difference[k].hi};
  }
  assert_true(after < before);
  for (int p = 0; p < 500; p++) {
    for (int i = 0; i < PIXELS; i++)
      x[i] = qb_rng_below(&rng, 2) == 0 ? lo[i] : lo[i] + (float)qb_rng_double(&rng) * (hi[i] - lo[i]);
    assert_true(holds_at(&ball, x));
  }
  free((void *)(uintptr_t)ball.outputs);
  qb_refinement_free(&whole);
  qb_refinement_free(&parts);
  qb_pair_free(&pair);
}

static void intervals_that_take_too_long_prove_nothing(void **state) {
  (void)state;
  qb_error error = {0};
  float lo[PIXELS] = {0}, hi[PIXELS];
  qb_pair pair = {0};
  qb_arena arena;
  qb_arena_init(&arena);
  for (int i = 0; i < PIXELS; i++)
    hi[i] = 1;
  qb_domain domain = {PIXELS, lo, hi};
  must(qb_pair_match(&networks.model->graph, &networks.quantized->graph, &pair, &error), &error);
  for (int late = 0; late < 2; late++) {
    qb_ball_call call = {.pair = &pair, .output = -1, .interval_seconds = late ? 1e-9 : 0};
    qb_ball_proof proof;
    must(qb_ball_prove(&call, &domain, 0, &arena, &proof, &error), &error);
    assert_int_equal(proof.method == NULL, late);
    assert_int_equal(strstr(proof.why, "a longer --timeout helps") != NULL, late);
    assert_true(late || (proof.count == CLASSES && isfinite(proof.outputs[0].hi)));
  }
  qb_arena_free(&arena);
  qb_pair_free(&pair);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(no_image_leaves_its_ball),
      cmocka_unit_test(radius_zero_is_the_difference_itself),
      cmocka_unit_test(planted_mistakes_are_noticed),
      cmocka_unit_test(cutting_up_a_box_is_sound_and_tighter),
      cmocka_unit_test(intervals_that_take_too_long_prove_nothing),
  };
  return cmocka_run_group_tests(tests, make_networks, free_networks);
}
