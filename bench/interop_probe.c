/* One row of the comparison with ONNX Runtime: prepares and quantizes a network, writes it, reads the written file back
 * and runs it on the executor.
 *
 *   interop_probe MODEL STEPS OUT.onnx INPUT.f32 OUTPUT.f32
 *
 * STEPS, joined by '+': copy (write the document as it is), fold, equalize, compat, wN (weights of N bits per channel),
 * tN (per tensor), affine. INPUT holds float32 samples, OUTPUT gets the network's first output for them. Prints the
 * written opset and size. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "graph/pass_equalize.h"
#include "graph/pass_fold_bn.h"
#include "onnx/onnx.h"
#include "quant/quant.h"
#include "run/run.h"

static void check(qb_status status, const qb_error *error) {
  if (status == QB_OK)
    return;
  fprintf(stderr, "%s\n", error->message);
  exit(1);
}

static int number_after(const char *steps, char letter) {
  for (const char *at = steps; *at != '\0'; at++)
    if (*at == letter && (at == steps || at[-1] == '+') && at[1] >= '0' && at[1] <= '9')
      return atoi(at + 1);
  return 0;
}

static void edit(qb_graph *graph, const char *steps, qb_error *error) {
  qb_fold_bn_info folded;
  qb_equalize_settings equalize;
  qb_equalize_info equalized;
  qb_quantize_settings settings;
  qb_quantize_info info = {0};
  if (strstr(steps, "fold") != NULL)
    check(qb_fold_bn(graph, &folded, error), error);
  qb_equalize_settings_default(&equalize);
  if (strstr(steps, "equalize") != NULL)
    check(qb_equalize(graph, &equalize, &equalized, error), error);
  int per_channel = number_after(steps, 'w'), per_tensor = number_after(steps, 't');
  if (per_channel + per_tensor == 0)
    return;
  qb_quantize_settings_default(&settings);
  settings.bits = per_channel + per_tensor;
  settings.granularity = per_channel > 0 ? QB_PER_CHANNEL : QB_PER_TENSOR;
  settings.affine = strstr(steps, "affine") != NULL;
  check(qb_quantize_weights(graph, &settings, NULL, &info, error), error);
  qb_quantize_info_free(&info);
}

static void write_edited(const char *model, const char *steps, const char *path, qb_error *error) {
  const qb_onnx_write_settings settings = {.compat = strstr(steps, "compat") != NULL};
  qb_onnx_write_info info = {0};
  qb_onnx *document;
  qb_graph graph;
  FILE *file = fopen(path, "wb");
  if (file == NULL) {
    perror(path);
    exit(1);
  }
  check(qb_onnx_read(model, &document, error), error);
  if (strcmp(steps, "copy") == 0) {
    info.opset = qb_onnx_opset(document);
    check(qb_onnx_write(document, file, path, error), error);
    info.size_bytes = ftell(file);
  } else {
    check(qb_onnx_to_graph(document, &graph, error), error);
    edit(&graph, steps, error);
    check(qb_graph_validate(&graph, error), error);
    check(qb_onnx_write_graph(document, &graph, &settings, file, path, &info, error), error);
    qb_graph_free(&graph);
  }
  fclose(file);
  qb_onnx_free(document);
  printf("%lld %lld\n", (long long)info.opset, (long long)info.size_bytes);
}

static void run_written(const char *path, const char *input_path, const char *output_path, qb_error *error) {
  qb_onnx *document;
  qb_graph graph;
  qb_run_settings settings;
  qb_run *run;
  check(qb_onnx_read(path, &document, error), error);
  check(qb_onnx_to_graph(document, &graph, error), error);
  qb_run_settings_default(&settings);
  check(qb_run_create(&graph, &settings, &run, error), error);
  size_t inputs = qb_shape_elements(&graph.values[graph.inputs[0]].shape);
  size_t outputs = qb_shape_elements(&graph.values[graph.outputs[0]].shape);
  float *sample = qb_alloc(inputs, sizeof *sample);
  FILE *input = fopen(input_path, "rb"), *output = fopen(output_path, "wb");
  if (sample == NULL || input == NULL || output == NULL) {
    perror(input_path);
    exit(1);
  }
  while (fread(sample, sizeof *sample, inputs, input) == inputs) {
    check(qb_run_forward(run, sample, 1, error), error);
    fwrite(qb_run_value(run, graph.outputs[0]), sizeof(float), outputs, output);
  }
  fclose(input);
  fclose(output);
  qb_free(sample);
  qb_run_free(run);
  qb_graph_free(&graph);
  qb_onnx_free(document);
}

int main(int count, char **arguments) {
  qb_error error = {0};
  if (count != 6) {
    fprintf(stderr, "usage: interop_probe MODEL STEPS OUT.onnx INPUT.f32 OUTPUT.f32\n");
    return 2;
  }
  write_edited(arguments[1], arguments[2], arguments[3], &error);
  run_written(arguments[3], arguments[4], arguments[5], &error);
  return 0;
}
