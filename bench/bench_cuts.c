/* What cuts across neurons gain: balls of PIXELS/255 around 30 digits or CIFAR-10 images (less their mean, over their
 * spread) without cuts and with SECONDS of them.
 *
 *   bench_cuts ORIGINAL.onnx QUANTIZED.onnx PIXELS SECONDS [IMAGES [OUTPUT [decide]]]
 *
 * SECONDS below 0: so many parts instead.
 * Prints for each image the largest difference (of OUTPUT alone where it is not -1) before and after, the seconds and
 * the number of parts; then the means. Data: $QBOUND_DATA, else ../shared/data. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bound/refine.h"
#include "graph/pass_drop_clip.h"
#include "onnx/onnx.h"
#include "pixel_boxes.h"

static qb_error failure;

static void check(qb_status status) {
  if (status == QB_OK)
    return;
  fprintf(stderr, "bench_cuts: %s\n", failure.message);
  exit(EXIT_FAILURE);
}

static double largest(const qb_interval *d, int64_t count, int64_t only) {
  double size = 0;
  for (int64_t k = 0; k < count; k++)
    size = only < 0 || only == k ? fmax(size, qb_interval_magnitude(d[k])) : size;
  return size;
}

/* Without cuts, as many parts as one, and with them. */
static void bound_image(const qb_pair *pair, const qb_domain *domain, double seconds, int64_t output, bool decide,
                        double sum[4]) {
  double start = qb_clock_seconds(), size[2];
  int64_t parts = 0;
  bool kept[2];
  for (int with = 0; with < 2; with++) {
    qb_refine_settings settings = qb_refine_settings_default();
    qb_refinement r;
    settings.neurons = true;
    settings.ball = qb_ball_settings_default();
    settings.ball.output = output;
    settings.ball.decide = decide;
    settings.most_parts = with == 0 ? 1 : seconds < 0 ? (int64_t)-seconds : 0;
    settings.timeout_seconds = seconds < 0 ? 0 : seconds;
    start = qb_clock_seconds();
    check(qb_bound_refined(pair, domain, &settings, &r, &failure));
    size[with] = r.applies ? largest(r.difference, r.count, output) : INFINITY;
    kept[with] = r.keeps_top;
    parts = r.parts;
    sum[2 * with + 1] += qb_clock_seconds() - start;
    sum[2 * with] += size[with];
    qb_refinement_free(&r);
  }
  printf("%.6g -> %.6g (%.1f %%), %lld parts, %.2f s%s%s\n", size[0], size[1], 100 * (size[1] / size[0] - 1),
         (long long)parts, qb_clock_seconds() - start, kept[0] ? ", kept" : "",
         kept[1] && !kept[0] ? ", now kept" : "");
  fflush(stdout);
}

int main(int argc, char **argv) {
  static uint8_t pictures[IMAGES * PICTURE];
  static float lo[PICTURE], hi[PICTURE];
  qb_onnx *documents[2];
  qb_graph graphs[2];
  qb_pair pair;
  double sum[4] = {0};
  int images = argc > 5 ? atoi(argv[5]) : IMAGES;
  if (argc < 5 || images < 1 || images > IMAGES) {
    fprintf(stderr, "usage: bench_cuts ORIGINAL QUANTIZED PIXELS SECONDS [IMAGES [OUTPUT [decide]]]\n");
    return 2;
  }
  for (int i = 0; i < 2; i++) {
    check(qb_onnx_read(argv[1 + i], &documents[i], &failure));
    check(qb_onnx_to_graph(documents[i], &graphs[i], &failure));
  }
  qb_drop_clips(&graphs[1]);
  check(qb_pair_match_any(&graphs[0], &graphs[1], &pair, &failure));
  int64_t pixels = (int64_t)qb_shape_elements(&graphs[0].values[graphs[0].inputs[0]].shape);
  read_images(pixels, images, pictures);
  for (int i = 0; i < images; i++) {
    pixel_box(pictures + i * pixels, pixels, atof(argv[3]), lo, hi);
    bound_image(&pair, &(qb_domain){pixels, lo, hi}, atof(argv[4]), argc > 6 ? atoll(argv[6]) : -1, argc > 7, sum);
  }
  printf("mean of %d: %.6g in %.3f s -> %.6g in %.3f s\n", images, sum[0] / images, sum[1] / images, sum[2] / images,
         sum[3] / images);
  qb_pair_free(&pair);
  for (int i = 0; i < 2; i++) {
    qb_graph_free(&graphs[i]);
    qb_onnx_free(documents[i]);
  }
  return 0;
}
