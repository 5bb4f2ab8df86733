/* The C interface in one page: 4 bit weights, written as ONNX, with a proved limit on the change of any output.
 *
 * cc api.c $(pkg-config --cflags --libs qbound) -o api && ./api digits.onnx digits_w4.onnx */
#include <qbound/qbound.h>
#include <stdio.h>

int main(int argc, char **argv) {
  if (argc != 3)
    return 2;
  qb_error error;
  qb_model *model = NULL, *quantized = NULL;
  qb_bound_report report = {0};
  qb_quantize_settings how;
  qb_bound_settings inputs;
  qb_quantize_settings_default(&how);
  qb_bound_settings_default(&inputs);
  how.bits = 4;
  inputs.bits = &how.bits;
  inputs.granularities = &how.granularity;
  inputs.preprocess = "unit"; /* every image with pixels in [0,1] */

  int failed = qb_model_load(argv[1], &model, &error) != QB_OK ||
               qb_quantize(model, &how, NULL, &quantized, NULL, &error) != QB_OK ||
               qb_model_save(quantized, argv[2], NULL, NULL, &error) != QB_OK ||
               qb_bound_sweep(model, &inputs, NULL, &report, &error) != QB_OK;
  if (failed)
    fprintf(stderr, "%s\n", error.message);
  else
    printf("%s: no output moves by more than %s\n", argv[2], report.rows[0].bounds[report.rows[0].count - 1].value);

  qb_bound_report_free(&report);
  qb_model_free(quantized);
  qb_model_free(model);
  return failed;
}
