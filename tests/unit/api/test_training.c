/* The public training call: a file that reads back, the same bytes from the same settings, what it refuses; on MNIST,
 * where it is at hand, the accuracy that the depth study needs. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/hash.h"
#include "onnx/onnx.h"
#include "support/test_data.h"

static char folder[] = "/tmp/qbound_training_XXXXXX", path[64];

static int make_folder(void **state) {
  (void)state;
  if (mkdtemp(folder) == NULL)
    return 1;
  snprintf(path, sizeof path, "%s/mlp.onnx", folder);
  return 0;
}

static int remove_folder(void **state) {
  (void)state;
  unlink(path);
  return rmdir(folder); /* fails when a call left anything else behind */
}

static qb_data digits(const char *spec) { return (qb_data){.path = spec, .preprocess = "scale=255:mean=0.5:std=0.25"}; }

static qb_train_settings quick(void) {
  qb_train_settings settings;
  qb_train_settings_default(&settings);
  settings.layers = 3;
  settings.width = 16;
  settings.epochs = 2;
  return settings;
}

static void the_file_is_the_trained_network(void **state) {
  (void)state;
  qb_data data = digits("digits:300:1"), test = digits("digits:200:2");
  qb_train_settings settings = quick();
  qb_train_info info;
  qb_error error = {0};
  if (qb_train_mlp(&data, &test, &settings, NULL, path, &info, &error) != QB_OK)
    fail_msg("%s", error.message);
  assert_int_equal(info.samples, 300);
  assert_int_equal(info.test_samples, 200);
  assert_int_equal(info.inputs, 784);
  assert_int_equal(info.classes, 10);
  assert_int_equal(info.parameters, 785 * 16 + 17 * 16 + 17 * 10);
  assert_true(info.accuracy >= 0 && info.accuracy <= 1 && info.test_accuracy >= 0 && info.test_accuracy <= 1);
  assert_true(info.loss > 0 && isfinite(info.loss));

  qb_onnx *document;
  qb_graph graph;
  assert_int_equal(qb_onnx_read(path, &document, NULL), QB_OK);
  assert_string_equal(qb_onnx_metadata(document, "qbound.training"),
                      "layers=3 width=16 epochs=2 batch=128 rate=0.001 seed=0 samples=300");
  assert_int_equal(qb_onnx_to_graph(document, &graph, NULL), QB_OK);
  assert_int_equal(graph.node_count, 5);
  assert_int_equal(graph.values[graph.inputs[0]].shape.dims[1], 784);
  qb_graph_free(&graph);
  qb_onnx_free(document);
}

static qb_hash trained(const qb_train_settings *settings) {
  qb_data data = digits("digits:200:1");
  qb_hash hash;
  assert_int_equal(qb_train_mlp(&data, NULL, settings, NULL, path, NULL, NULL), QB_OK);
  assert_int_equal(qb_hash_file(path, &hash, NULL), QB_OK);
  return hash;
}

static void the_same_settings_give_the_same_bytes(void **state) {
  (void)state;
  qb_train_settings settings = quick();
  qb_hash first = trained(&settings), again = trained(&settings);
  assert_memory_equal(&first, &again, sizeof first);
  settings.threads = 3;
  again = trained(&settings);
  assert_memory_equal(&first, &again, sizeof first);
  settings.seed = 1;
  again = trained(&settings);
  assert_int_not_equal(memcmp(&first, &again, sizeof first), 0);
}

static void refuse(const qb_data *data, const qb_data *test, const qb_train_settings *settings, const char *words) {
  qb_error error = {0};
  unlink(path);
  assert_int_equal(qb_train_mlp(data, test, settings, NULL, path, NULL, &error), QB_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, words));
  assert_int_not_equal(access(path, F_OK), 0); /* nothing is left behind */
}

static void refusals_leave_no_file(void **state) {
  (void)state;
  qb_data data = digits("digits:50:1"), small = digits("digits:50:2");
  qb_train_settings settings = quick();
  small.preprocess = "crop=20";
  refuse(&data, &small, &settings, "400 elements");
  data.label_offset = -1;
  refuse(&data, NULL, &settings, "the class -1 of record");
  data.label_offset = 0;
  settings.layers = 33;
  refuse(&data, NULL, &settings, "33 layers");
  settings = quick(), settings.width = 0;
  refuse(&data, NULL, &settings, "width 0");
  settings = quick(), settings.rate = -1;
  refuse(&data, NULL, &settings, "learning rate");
  data = digits("digits:x");
  settings = quick();
  refuse(&data, NULL, &settings, "digits:COUNT");
}

#ifdef __OPTIMIZE__
static const int64_t mnist_samples = 60000;
static const double mnist_accuracy = 0.97; /* after four epochs; the default of ten reaches 98 % */
#else
static const int64_t mnist_samples = 6000; /* plain loops without optimisation take ten times as long */
static const double mnist_accuracy = 0.85;
#endif

static void depth_five_learns_mnist(void **state) {
  (void)state;
  qb_data data = {.path = test_data("mnist/train-images-idx3-ubyte.gz"), .preprocess = "unit"};
  qb_data test = {.path = test_data("mnist/t10k-images-idx3-ubyte.gz"), .preprocess = "unit"};
  data.samples = mnist_samples;
  qb_train_settings settings;
  qb_train_settings_default(&settings);
  settings.epochs = 4;
  settings.threads = 1; /* beside other tests, waiting for a second thread costs more than it gives */
  qb_train_info info;
  qb_error error = {0};
  if (qb_train_mlp(&data, &test, &settings, NULL, path, &info, &error) != QB_OK)
    fail_msg("%s", error.message);
  print_message("MNIST: %.2f %% after 4 epochs on %lld images, %.1f s\n", 100 * info.test_accuracy,
                (long long)mnist_samples, info.seconds);
  assert_int_equal(info.samples, mnist_samples);
  assert_int_equal(info.test_samples, 10000);
  assert_true(info.test_accuracy >= mnist_accuracy);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_file_is_the_trained_network),
      cmocka_unit_test(the_same_settings_give_the_same_bytes),
      cmocka_unit_test(refusals_leave_no_file),
      cmocka_unit_test(depth_five_learns_mnist),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
