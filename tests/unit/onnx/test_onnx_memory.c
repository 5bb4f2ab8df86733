/* Reading and writing a large network needs its weights in memory once: the peak stays below 1.5 times the file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "onnx/onnx.h"
#include "support/test_data.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* In a process of its own: reads, imports and writes the file both ways; the exit status tells failure. */
static int read_and_write(const char *path, bool edited) {
  qb_onnx *document;
  qb_graph graph;
  qb_onnx_write_info info;
  qb_error error;
  FILE *file = tmpfile();
  if (file == NULL || qb_onnx_read(path, &document, &error) != QB_OK ||
      qb_onnx_to_graph(document, &graph, &error) != QB_OK)
    return 1;
  if (edited && qb_onnx_write_graph(document, &graph, NULL, file, "edited.onnx", &info, &error) != QB_OK)
    return 1;
  return !edited && qb_onnx_write(document, file, "copy.onnx", &error) != QB_OK;
}

/* Peak resident size of that process in bytes. */
static double measure(const char *path, bool edited) {
  struct rusage usage;
  int status;
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0)
    _exit(read_and_write(path, edited));
  assert_int_equal(wait4(child, &status, 0, &usage), child);
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  return 1024.0 * (double)usage.ru_maxrss;
}

/* The baseline is what a process needs that does the same with a tiny model. */
static void weights_are_in_memory_once(void **state) {
  (void)state;
  const char *tiny = test_data("mnist/mlp2_mnist.onnx"),
             *large = test_data("imagenet/resnet50_pqf_imagenet_bn.onnx.gz");
  const double size = 102487264;
  if (SANITIZED) {
    print_message("a sanitizer keeps freed memory, so that its use can be noticed\n");
    skip();
  }
  for (int edited = 0; edited < 2; edited++) {
    double peak = measure(large, edited) - measure(tiny, edited);
    print_message("%s: %.2f times the model\n", edited ? "edited" : "copied", peak / size);
    assert_true(peak < 1.5 * size);
    assert_true(peak > 0.5 * size); /* the measurement measures something */
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(weights_are_in_memory_once)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
