/* What a ball costs and how wide it comes out: weights of 8 bits, boxes of PIXELS/255 around 30 digits or, for networks
 * of 3 x 32 x 32 inputs, CIFAR-10 images less their mean and over their spread.
 *
 *   bench_ball MODEL [PIXELS [IMAGES [TURNS [decide]]]]
 *
 * Prints the median time of bounding every output (with `decide` also the decision), of as many images, and the mean
 * of the largest output difference; planes are turned at most TURNS times (default: as a ball does). Data:
 * $QBOUND_DATA, else ../shared/data. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bound/ball.h"
#include "graph/pass_fold_bn.h"
#include "onnx/onnx.h"
#include "pixel_boxes.h"
#include "quant/quant.h"

static qb_error failure;

static void check(qb_status status) {
  if (status == QB_OK)
    return;
  fprintf(stderr, "bench_ball: %s\n", failure.message);
  exit(EXIT_FAILURE);
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

int main(int argc, char **argv) {
  static uint8_t pictures[IMAGES * PICTURE];
  static float lo[PICTURE], hi[PICTURE];
  double radius = argc > 2 ? atof(argv[2]) : 1, seconds[IMAGES], widest = 0;
  int images = argc > 3 ? atoi(argv[3]) : IMAGES, kept = 0;
  qb_onnx *document;
  qb_graph original, quantized;
  qb_fold_bn_info folded;
  qb_quantize_settings how;
  qb_quantize_info info = {0};
  qb_pair pair;
  qb_backward *backward;
  if (argc < 2 || images < 1 || images > IMAGES) {
    fprintf(stderr, "usage: bench_ball MODEL [PIXELS [IMAGES [TURNS [decide]]]]\n");
    return 2;
  }
  check(qb_onnx_read(argv[1], &document, &failure));
  check(qb_onnx_to_graph(document, &original, &failure));
  check(qb_fold_bn(&original, &folded, &failure));
  check(qb_graph_clone(&original, &quantized, &failure));
  qb_quantize_settings_default(&how);
  check(qb_quantize_weights(&quantized, &how, NULL, &info, &failure));
  check(qb_pair_match(&original, &quantized, &pair, &failure));
  check(qb_backward_create(&pair, &backward, &failure));
  int64_t pixels = (int64_t)qb_shape_elements(&original.values[original.inputs[0]].shape);
  read_images(pixels, images, pictures);
  for (int i = 0; i < images; i++) {
    qb_domain domain = {pixels, lo, hi};
    qb_ball_settings settings = qb_ball_settings_default();
    qb_ball ball;
    double largest = 0, start = qb_clock_seconds();
    settings.turns = argc > 4 ? atoi(argv[4]) : settings.turns;
    settings.decide = argc > 5;
    pixel_box(pictures + i * pixels, pixels, radius, lo, hi);
    check(qb_bound_ball(backward, &domain, &settings, &ball, &failure));
    seconds[i] = qb_clock_seconds() - start;
    for (int64_t k = 0; k < ball.count; k++)
      largest = fmax(largest, qb_interval_magnitude(ball.difference[k]));
    widest += largest / images;
    kept += ball.keeps_top;
    qb_ball_free(&ball);
  }
  qsort(seconds, (size_t)images, sizeof *seconds, compare);
  printf("%s: %.1f ms a ball of %g/255 (median of %d, at most %.1f), mean largest difference %.8g, %d decided\n",
         argv[1], 1e3 * seconds[images / 2], radius, images, 1e3 * seconds[images - 1], widest, kept);
  qb_backward_free(backward);
  qb_pair_free(&pair);
  qb_quantize_info_free(&info);
  qb_graph_free(&quantized);
  qb_graph_free(&original);
  qb_onnx_free(document);
  return EXIT_SUCCESS;
}
