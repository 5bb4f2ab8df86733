/* Certificates of balls, of points, of boxes that were cut up and of inputs that a search found, as files: what was
 * certified is verified, and a file in which one number was changed so that a claim no longer follows is refuted. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>
#include <omp.h>

#include "api/model.h"
#include "base/hash.h"
#include "data/digits.h"
#include "support/temp_folder.h"
#include "support/tiny_network.h"

enum { IMAGES = 2 };

typedef struct fixture {
  temp_folder *folder;
  char net[128], other[2][128]; /* paths; quantized to 6 and to 5 bits */
  json_t *balls, *cuts, *found; /* certificates: of balls; of a box that was cut up; of points, with a search */
  json_t *neurons;              /* of balls that were cut up across neurons */
} fixture;

static fixture files;

static void must(qb_status status, const qb_error *error) {
  if (status != QB_OK)
    fail_msg("%s", error->message);
}

static const char *keep(const char *name) { return temp_path(files.folder, name); }

static void make_networks(void) {
  qb_error error = {0};
  qb_model *model;
  snprintf(files.net, sizeof files.net, "%s", keep("net.onnx"));
  tiny_network_train(files.net);
  must(qb_model_load(files.net, &model, &error), &error);
  for (int k = 0; k < 2; k++) {
    snprintf(files.other[k], sizeof files.other[k], "%s", keep(k == 0 ? "net6.onnx" : "net5.onnx"));
    tiny_network_quantize(model, 6 - k, files.other[k]);
  }
  qb_model_free(model);
}

static json_t *certify(qb_certify_settings *settings, const char *name) {
  qb_error error = {0};
  qb_model *model, *quantized;
  qb_certificate certificate;
  must(qb_model_load(files.net, &model, &error), &error);
  must(qb_model_load(files.other[0], &quantized, &error), &error);
  must(qb_certify(model, quantized, settings, NULL, &certificate, &error), &error);
  must(qb_certificate_save(&certificate, keep(name), &error), &error);
  qb_certificate_free(&certificate);
  qb_model_free(quantized);
  qb_model_free(model);
  json_t *root = json_load_file(keep(name), 0, NULL);
  assert_non_null(root);
  return root;
}

static bool varies(int i) { return i % 150 == 75; }

/* A few inputs vary around the middle of their range; the others stay. */
static void write_box(const char *path) {
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  for (int i = 0; i < 2 * QB_DIGITS_PIXELS; i++)
    fprintf(file, "%s%s%d", i == 0 ? "" : ",", i < QB_DIGITS_PIXELS ? "lo" : "hi", i % QB_DIGITS_PIXELS);
  fprintf(file, "\n");
  for (int i = 0; i < 2 * QB_DIGITS_PIXELS; i++)
    fprintf(file, "%s%g", i == 0 ? "" : ",", !varies(i % QB_DIGITS_PIXELS) ? 0.25 : i < QB_DIGITS_PIXELS ? 0.1 : 0.9);
  fprintf(file, "\n");
  assert_int_equal(fclose(file), 0);
}

/* Points and small balls, all images, and what a search found among them. */
static void certify_found(const qb_data *around) {
  static const qb_radius radii[2] = {{0, false}, {2, true}};
  qb_certify_settings settings;
  qb_certify_settings_default(&settings);
  settings.preprocess = "unit";
  settings.around = around;
  settings.radii = radii;
  settings.radius_count = 2;
  files.found = certify(&settings, "found.json");
}

static int make_files(void **state) {
  static const qb_radius radii[2] = {{0.5, true}, {6, true}};
  qb_certify_settings settings;
  qb_data around;
  omp_set_num_threads(2);
  temp_folder_create(state);
  files.folder = *state;
  make_networks();
  qb_certify_settings_default(&settings);
  qb_data_default(&around);
  around.path = "digits:2:5";
  around.preprocess = settings.preprocess = "unit";
  settings.worst_case = settings.search = false;
  settings.around = &around;
  settings.radii = radii;
  settings.radius_count = 2;
  files.balls = certify(&settings, "balls.json");
  settings.cut_neurons = true;
  settings.timeout_seconds = 0.2;
  around.samples = 1;
  files.neurons = certify(&settings, "neurons.json");
  around.samples = 0;
  certify_found(&around);
  qb_certify_settings_default(&settings);
  char box[128];
  snprintf(box, sizeof box, "%s", keep("box.csv"));
  write_box(box);
  settings.domain = QB_DOMAIN_FILE;
  settings.box = box;
  settings.search = false;
  settings.timeout_seconds = 0.3;
  settings.methods = "bisection";
  files.cuts = certify(&settings, "cuts.json");
  return 0;
}

static int drop_files(void **state) {
  json_decref(files.balls);
  json_decref(files.cuts);
  json_decref(files.neurons);
  json_decref(files.found);
  *state = files.folder;
  return temp_folder_remove(state);
}

/* The verdict on a certificate; takes over `root`. */
static qb_status judge_with(json_t *root, const char *data, qb_check_report *report, qb_error *error) {
  qb_check_settings settings;
  qb_check_settings_default(&settings);
  settings.data = data;
  assert_int_equal(json_dump_file(root, keep("planted.json"), 0), 0);
  json_decref(root);
  return qb_check(keep("planted.json"), files.net, files.other[0], &settings, report, error);
}

static qb_check_report judge(json_t *root) {
  qb_error error = {0};
  qb_check_report report;
  must(judge_with(root, NULL, &report, &error), &error);
  return report;
}

static void expect(json_t *root, qb_check_verdict verdict, const char *what) {
  qb_check_report report = judge(root);
  if (report.verdict != verdict)
    fail_msg("%s: %s, %s", what, qb_check_verdict_name(report.verdict), report.why);
}

static json_t *ball(json_t *root, size_t k) { return json_array_get(json_object_get(root, "balls"), k); }

static void scale(json_t *object, const char *key, double factor) {
  json_object_set_new(object, key, json_real(factor * json_number_value(json_object_get(object, key))));
}

/* ------------------------------------------------------------------------------------------------------------ balls */

static void honest_balls_are_verified(void **state) {
  (void)state;
  int relaxed = 0, proved = 0;
  for (size_t k = 0; k < 2 * IMAGES; k++) {
    json_t *b = ball(files.balls, k);
    relaxed += json_array_size(json_object_get(b, "slopes")) > 0;
    proved += strcmp(json_string_value(json_object_get(b, "decision")), "PROVED") == 0;
  }
  assert_true(relaxed > 0 && proved > 0); /* else the other tests say little */
  qb_check_report report = judge(json_deep_copy(files.balls));
  assert_string_equal(report.why, "the bounds and decisions of all balls follow (4)");
  assert_int_equal(report.verdict, QB_CHECK_VERIFIED);
}

static void smaller_claims_are_refuted(void **state) {
  (void)state;
  for (size_t k = 0; k < 2 * IMAGES; k++) {
    json_t *root = json_deep_copy(files.balls);
    scale(ball(root, k), "bound", 1 - 3e-6);
    expect(root, QB_CHECK_REFUTED, "a smaller bound");
    root = json_deep_copy(files.balls);
    json_t *output = json_array_get(json_object_get(ball(root, k), "outputs"), k);
    double lo = json_number_value(json_array_get(output, 0)), hi = json_number_value(json_array_get(output, 1));
    json_array_set_new(output, 1, json_real(hi - 1e-4 * (hi - lo) - 3e-6 * fmax(fabs(lo), fabs(hi))));
    expect(root, QB_CHECK_REFUTED, "a smaller range");
  }
  json_t *root = json_deep_copy(files.balls);
  scale(json_array_get(json_object_get(json_object_get(root, "around"), "curve"), 1), "largest_bound", 0.999);
  expect(root, QB_CHECK_REFUTED, "a smaller curve");
  root = json_deep_copy(files.balls);
  scale(ball(root, 0), "bound", 2);
  json_object_set_new(ball(root, 0), "method", json_null());
  expect(root, QB_CHECK_REFUTED, "a bound without a proof");
}

/* One slope of one element; those of elements that matter little cost less than the margin. */
static void other_slopes_are_refuted(void **state) {
  (void)state;
  int refuted = 0, planted = 0;
  for (size_t k = 0; k < 2 * IMAGES; k++) {
    size_t count = json_array_size(json_object_get(ball(files.balls, k), "slopes"));
    for (size_t i = 0; i < count && i < 40; i += 2) {
      json_t *root = json_deep_copy(files.balls);
      json_t *entry = json_array_get(json_object_get(ball(root, k), "slopes"), i);
      json_array_set_new(entry, 2 + 5, json_real(json_number_value(json_array_get(entry, 2 + 5)) + 20));
      refuted += judge(root).verdict == QB_CHECK_REFUTED;
      planted++;
    }
  }
  print_message("%d of %d changed slopes refuted\n", refuted, planted);
  assert_true(planted > 10 && refuted > planted / 4);
}

/* A bound that needs planes that were turned, without a word of it. */
static void untold_turns_are_refuted(void **state) {
  (void)state;
  int turned = 0, refuted = 0;
  for (size_t k = 0; k < 2 * IMAGES; k++) {
    json_t *root = json_deep_copy(files.balls);
    turned += json_integer_value(json_object_get(ball(root, k), "turns")) > 0;
    json_object_set_new(ball(root, k), "turns", json_integer(0));
    refuted += judge(root).verdict == QB_CHECK_REFUTED;
  }
  print_message("%d of %d untold turns refuted\n", refuted, turned);
  assert_true(turned > 0 && refuted >= turned / 2);
}

static void other_layers_decisions_and_centres_are_refuted(void **state) {
  (void)state;
  for (size_t k = 0; k < 2 * IMAGES; k++) {
    bool proved = strcmp(json_string_value(json_object_get(ball(files.balls, k), "decision")), "PROVED") == 0;
    json_t *root = json_deep_copy(files.balls);
    json_object_set_new(ball(root, k), "decision", json_string(proved ? "UNKNOWN" : "PROVED"));
    expect(root, QB_CHECK_REFUTED, "another decision"); /* or another curve than the decisions */
    if (json_array_size(json_object_get(ball(files.balls, k), "slopes")) > 0) {
      root = json_deep_copy(files.balls);
      json_array_clear(json_object_get(ball(root, k), "relaxed"));
      expect(root, QB_CHECK_REFUTED, "a layer that was not relaxed");
    }
  }
  json_t *root = json_deep_copy(files.balls);
  json_t *values =
      json_object_get(json_array_get(json_object_get(json_object_get(root, "around"), "centres"), 0), "values");
  json_array_set_new(values, 300, json_real(0.75));
  expect(root, QB_CHECK_REFUTED, "another centre");
  root = json_deep_copy(files.balls);
  json_object_set_new(ball(root, 0), "method", json_string("trust_me"));
  expect(root, QB_CHECK_UNKNOWN, "another method");
}

/* A decision that is claimed, and counted, where the ball is far too wide for it. */
static void decisions_are_recomputed(void **state) {
  (void)state;
  json_t *root = json_deep_copy(files.balls), *around = json_object_get(root, "around");
  json_t *point = json_array_get(json_object_get(around, "curve"), 1);
  json_t *reach = json_array_get(json_object_get(point, "reach"), 0);
  json_array_set_new(reach, 1, json_real(0.8)); /* any image: bounds are raised, decisions stay */
  for (size_t k = 1; k < 2 * IMAGES; k += 2) {
    json_object_set_new(ball(root, k), "bound", json_real(1e9));
    json_object_set_new(ball(root, k), "outputs", json_null());
    json_object_set_new(ball(root, k), "decision", json_string("UNKNOWN"));
  }
  json_object_set_new(point, "largest_bound", json_real(1e9));
  json_object_set_new(point, "median_bound", json_real(1e9));
  json_object_set_new(point, "proved", json_integer(0));
  json_object_set_new(point, "refuted", json_integer(0));
  json_object_set_new(point, "unknown", json_integer(IMAGES));
  expect(json_deep_copy(root), QB_CHECK_VERIFIED, "nothing but a large bound");
  json_object_set_new(ball(root, 1), "decision", json_string("PROVED"));
  json_object_set_new(point, "proved", json_integer(1));
  json_object_set_new(point, "unknown", json_integer(IMAGES - 1));
  expect(root, QB_CHECK_REFUTED, "a decision that does not follow");
}

/* The quantized file is another one, and its hash is made to fit. */
static void another_network_is_refuted(void **state) {
  (void)state;
  const json_t *roots[2] = {files.balls, files.cuts};
  for (int k = 0; k < 2; k++) {
    qb_error error = {0};
    qb_check_report report;
    qb_hash hash;
    char text[QB_HASH_TEXT];
    json_t *root = json_deep_copy(roots[k]);
    must(qb_hash_file(files.other[1], &hash, &error), &error);
    json_object_set_new(json_object_get(json_object_get(root, "models"), "quantized"), "sha256",
                        json_string(qb_hash_print(&hash, text)));
    assert_int_equal(json_dump_file(root, keep("planted.json"), 0), 0);
    json_decref(root);
    must(qb_check(keep("planted.json"), files.net, files.other[1], NULL, &report, &error), &error);
    assert_true(report.files_match);
    assert_int_equal(report.verdict, QB_CHECK_REFUTED);
  }
}

/* ------------------------------------------------------------------------------------------------------------- cuts */

static json_t *worst(json_t *root) { return json_object_get(root, "worst_case"); }

static void honest_cuts_are_verified(void **state) {
  (void)state;
  assert_string_equal(json_string_value(json_object_get(worst(files.cuts), "method")), "bisection");
  assert_true(json_array_size(json_object_get(worst(files.cuts), "cuts")) > 4);
  qb_check_report report = judge(json_deep_copy(files.cuts));
  if (report.verdict != QB_CHECK_VERIFIED)
    fail_msg("%s", report.why);
  assert_true(report.recomputed <= report.claimed && report.recomputed >= 0.99 * report.claimed);
}

static void other_cuts_are_refuted(void **state) {
  (void)state;
  json_t *root = json_deep_copy(files.cuts);
  scale(worst(root), "bound", 0.8); /* parts around a leaf may prove a little more than the engine asked for */
  expect(root, QB_CHECK_REFUTED, "a smaller bound");
  root = json_deep_copy(files.cuts);
  json_t *cuts = json_object_get(worst(root), "cuts");
  json_array_clear(cuts);
  json_array_append_new(cuts, json_integer(-1));
  expect(root, QB_CHECK_REFUTED, "no cuts");
  root = json_deep_copy(files.cuts);
  cuts = json_object_get(worst(root), "cuts");
  json_array_remove(cuts, json_array_size(cuts) - 1);
  expect(root, QB_CHECK_REFUTED, "half a tree");
  int refuted = 0, planted = 0;
  for (size_t i = 0; i < json_array_size(json_object_get(worst(files.cuts), "cuts")) && planted < 8; i++) {
    root = json_deep_copy(files.cuts);
    cuts = json_object_get(worst(root), "cuts");
    json_int_t axis = json_integer_value(json_array_get(cuts, i));
    if (axis >= 0) { /* across an input that does not vary, then across another one */
      json_array_set_new(cuts, i, json_integer(0));
      expect(json_deep_copy(root), QB_CHECK_REFUTED, "a cut across nothing");
      json_array_set_new(cuts, i, json_integer(axis == 75 ? 225 : 75));
      refuted += judge(json_deep_copy(root)).verdict == QB_CHECK_REFUTED;
      planted++;
    }
    json_decref(root);
  }
  print_message("%d of %d changed cuts refuted\n", refuted, planted);
  assert_true(planted > 1 && refuted > 0);
}

/* The last ball, whose radius is the larger one. */
static json_t *wide(json_t *root) { return ball(root, json_array_size(json_object_get(root, "balls")) - 1); }

static json_t *first_cut(json_t *root) { return json_array_get(json_object_get(wide(root), "cuts"), 0); }

static void honest_cuts_across_neurons_are_verified(void **state) {
  (void)state;
  assert_true(json_array_size(json_object_get(wide(files.neurons), "cuts")) > 4);
  assert_true(json_is_object(first_cut(files.neurons)));
  double cut = json_number_value(json_object_get(wide(files.neurons), "bound"));
  double whole = json_number_value(json_object_get(ball(files.balls, 1), "bound"));
  print_message("%.4g in place of %.4g\n", cut, whole);
  assert_true(cut < 0.999 * whole);
  expect(json_deep_copy(files.neurons), QB_CHECK_VERIFIED, "cuts across neurons");
}

static void other_cuts_across_neurons_are_refuted(void **state) {
  (void)state;
  json_t *root = json_deep_copy(files.neurons);
  scale(wide(root), "bound", 0.8);
  expect(root, QB_CHECK_REFUTED, "a smaller bound");
  root = json_deep_copy(files.neurons);
  json_array_clear(json_object_get(wide(root), "cuts"));
  json_array_append_new(json_object_get(wide(root), "cuts"), json_integer(-1));
  expect(root, QB_CHECK_REFUTED, "no cuts");
  root = json_deep_copy(files.neurons);
  json_array_remove(json_object_get(wide(root), "cuts"), 0);
  expect(root, QB_CHECK_REFUTED, "a side alone");
  root = json_deep_copy(files.neurons);
  json_object_set_new(first_cut(root), "node", json_integer(1000));
  expect(root, QB_CHECK_REFUTED, "a node that is not there");
  root = json_deep_copy(files.neurons);
  json_object_set_new(first_cut(root), "element", json_integer(20));
  expect(root, QB_CHECK_REFUTED, "an element that is not there");
  root = json_deep_copy(files.neurons);
  json_object_set_new(first_cut(root), "at", json_real(100));
  expect(root, QB_CHECK_REFUTED, "a cut where no value is");
  root = json_deep_copy(files.neurons);
  json_array_set_new(json_object_get(wide(root), "cuts"), 0, json_integer(75));
  expect(root, QB_CHECK_REFUTED, "a cut across an input in place of a neuron");
}

static void cuts_of_another_form_are_told(void **state) {
  (void)state;
  static const char *const keys[] = {"node", "element", "network", "at", "network"};
  for (int k = 0; k < 5; k++) {
    json_t *root = json_deep_copy(files.neurons);
    qb_check_report report;
    qb_error error = {0};
    if (k < 4)
      json_object_del(first_cut(root), keys[k]);
    else
      json_object_set_new(first_cut(root), keys[k], json_string("both"));
    assert_int_equal(judge_with(root, NULL, &report, &error), QB_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "'cuts'"));
  }
}

/* ------------------------------------------------------------------------------------------ points, what was found */

static void honest_points_and_found_inputs_are_verified(void **state) {
  (void)state;
  assert_string_equal(json_string_value(json_object_get(ball(files.found, 0), "method")), "point");
  assert_true(json_number_value(json_object_get(worst(files.found), "lower")) > 0);
  qb_check_report report = judge(json_deep_copy(files.found));
  if (report.verdict != QB_CHECK_VERIFIED)
    fail_msg("%s", report.why);
  assert_string_equal(report.lower, "verified");
  assert_null(judge(json_deep_copy(files.balls)).lower); /* without a search nothing is claimed */
}

static void other_points_are_refuted(void **state) {
  (void)state;
  json_t *root = json_deep_copy(files.found);
  scale(ball(root, 0), "bound", 1 - 1e-8);
  expect(root, QB_CHECK_REFUTED, "a smaller bound at a point");
  for (size_t end = 0; end < 2; end++) {
    root = json_deep_copy(files.found);
    json_t *output = json_array_get(json_object_get(ball(root, 2), "outputs"), 3 + end);
    double y = json_number_value(json_array_get(output, end)), ulp = nextafter(fabs(y), INFINITY) - fabs(y);
    json_array_set_new(output, end, json_real(y + (end == 0 ? 3 : -3) * ulp));
    expect(root, QB_CHECK_REFUTED, "a range that misses by two units in the last place");
  }
  root = json_deep_copy(files.found);
  json_object_set_new(ball(root, 1), "method", json_string("point"));
  expect(root, QB_CHECK_REFUTED, "a ball as a point");
}

static void set_input(json_t *at, const char *hash_key, json_t *values) {
  float input[QB_DIGITS_PIXELS];
  qb_hash hash;
  char text[QB_HASH_TEXT];
  assert_int_equal(json_array_size(values), QB_DIGITS_PIXELS);
  for (size_t i = 0; i < QB_DIGITS_PIXELS; i++)
    input[i] = (float)json_number_value(json_array_get(values, i));
  must(qb_hash_bytes(input, sizeof input, &hash, NULL), NULL);
  json_object_set_new(at, hash_key, json_string(qb_hash_print(&hash, text)));
}

static void other_lower_sides_are_refuted(void **state) {
  (void)state;
  for (int k = -1; k < 2 * IMAGES; k++) {
    json_t *root = json_deep_copy(files.found), *claimed = k < 0 ? worst(root) : ball(root, (size_t)k);
    scale(claimed, "lower", 1 + 1e-6);
    expect(root, QB_CHECK_REFUTED, "a higher lower side");
    root = json_deep_copy(files.found);
    json_t *at = json_object_get(k < 0 ? worst(root) : ball(root, (size_t)k), "lower_input");
    json_t *values = json_object_get(at, "values");
    json_array_set_new(values, 400, json_real(json_number_value(json_array_get(values, 400)) == 0.5 ? 0.25 : 0.5));
    expect(json_deep_copy(root), QB_CHECK_REFUTED, "another input, not its hash");
    for (size_t i = 0; i < QB_DIGITS_PIXELS; i++) /* inside the domain, outside the balls */
      json_array_set_new(values, i, json_real(0.5));
    set_input(at, "sha256", values);
    expect(root, QB_CHECK_REFUTED, "another input and its hash");
  }
  json_t *root = json_deep_copy(files.found);
  scale(json_array_get(json_object_get(json_object_get(root, "around"), "curve"), 0), "largest_lower", 1.01);
  expect(root, QB_CHECK_REFUTED, "a curve with a higher lower side");
}

static void other_flips_are_refuted(void **state) {
  (void)state;
  json_t *root = json_deep_copy(files.found), *flip = json_object_get(worst(root), "flip");
  assert_true(json_is_object(flip)); /* six bits, all images */
  int top = (int)json_integer_value(json_object_get(flip, "top"));
  json_object_set_new(flip, "top", json_integer(json_integer_value(json_object_get(flip, "other_top"))));
  json_object_set_new(flip, "other_top", json_integer(top));
  expect(root, QB_CHECK_REFUTED, "the outputs of a flip exchanged");
  root = json_deep_copy(files.found);
  flip = json_object_get(worst(root), "flip");
  json_t *values = json_object_get(flip, "input");
  for (size_t i = 0; i < QB_DIGITS_PIXELS; i++)
    json_array_set_new(values, i, json_real(0));
  set_input(flip, "input_sha256", values);
  expect(root, QB_CHECK_REFUTED, "an input that does not flip");
  root = json_deep_copy(files.balls);
  json_object_set_new(ball(root, 0), "decision", json_string("REFUTED"));
  expect(root, QB_CHECK_REFUTED, "a decision refuted by nothing");
}

/* The promise stays when an input is missing; what was found is unknown then. */
static void inputs_that_are_not_stored_are_unknown(void **state) {
  (void)state;
  json_t *root = json_deep_copy(files.found);
  json_object_set_new(json_object_get(worst(root), "lower_input"), "values", json_null());
  scale(worst(root), "lower", 10);
  qb_check_report report = judge(root);
  assert_int_equal(report.verdict, QB_CHECK_VERIFIED);
  assert_string_equal(report.lower, "unknown");
  assert_non_null(strstr(report.why, "'lower' is not verified: the input is not stored"));
}

/* -------------------------------------------------------------------------------------------------- centres from data
 */

static json_t *without_centres(void) {
  json_t *root = json_deep_copy(files.found), *centre;
  size_t i;
  json_array_foreach(json_object_get(json_object_get(root, "around"), "centres"), i, centre)
      json_object_set_new(centre, "values", json_null());
  return root;
}

static void centres_are_read_from_data(void **state) {
  (void)state;
  qb_error error = {0};
  qb_check_report report;
  expect(without_centres(), QB_CHECK_UNKNOWN, "no centres");
  must(judge_with(without_centres(), "digits:2:5", &report, &error), &error);
  if (report.verdict != QB_CHECK_VERIFIED)
    fail_msg("%s", report.why);
  json_t *root = without_centres();
  scale(ball(root, 3), "bound", 0.99);
  must(judge_with(root, "digits:2:5", &report, &error), &error);
  assert_int_equal(report.verdict, QB_CHECK_REFUTED);
  must(judge_with(without_centres(), "digits:2:6", &report, &error), &error);
  assert_int_equal(report.verdict, QB_CHECK_UNKNOWN); /* other images prove nothing */
  assert_non_null(strstr(report.why, "the data hold another input"));
  root = without_centres();
  json_object_set_new(json_object_get(root, "around"), "preprocess", json_string("raw"));
  must(judge_with(root, "digits:2:5", &report, &error), &error);
  assert_int_equal(report.verdict, QB_CHECK_UNKNOWN);
  assert_int_equal(judge_with(without_centres(), "digits:1:5", &report, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(judge_with(without_centres(), keep("nothing"), &report, &error), QB_ERROR_IO);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(honest_balls_are_verified),
      cmocka_unit_test(smaller_claims_are_refuted),
      cmocka_unit_test(other_slopes_are_refuted),
      cmocka_unit_test(untold_turns_are_refuted),
      cmocka_unit_test(other_layers_decisions_and_centres_are_refuted),
      cmocka_unit_test(decisions_are_recomputed),
      cmocka_unit_test(another_network_is_refuted),
      cmocka_unit_test(honest_cuts_are_verified),
      cmocka_unit_test(other_cuts_are_refuted),
      cmocka_unit_test(honest_cuts_across_neurons_are_verified),
      cmocka_unit_test(other_cuts_across_neurons_are_refuted),
      cmocka_unit_test(cuts_of_another_form_are_told),
      cmocka_unit_test(honest_points_and_found_inputs_are_verified),
      cmocka_unit_test(other_points_are_refuted),
      cmocka_unit_test(other_lower_sides_are_refuted),
      cmocka_unit_test(other_flips_are_refuted),
      cmocka_unit_test(inputs_that_are_not_stored_are_unknown),
      cmocka_unit_test(centres_are_read_from_data),
  };
  return cmocka_run_group_tests(tests, make_files, drop_files);
}
