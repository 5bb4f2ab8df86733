/* Preprocessing: its text form, shapes, crops and padding, the pixel box, and resizing against exact weights. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "data/image.h"
#include "data/preprocess.h"

static qb_preprocess parsed(const char *text) {
  qb_preprocess preprocess;
  qb_error error = {0};
  if (qb_preprocess_parse(text, &preprocess, &error) != QB_OK)
    fail_msg("%s: %s", text, error.message);
  return preprocess;
}

static void presets_are_the_documented_pairs(void **state) {
  (void)state;
  qb_preprocess a = parsed("imagenet");
  qb_preprocess b = parsed("resize=256:crop=224:scale=255:mean=0.485,0.456,0.406:std=0.229,0.224,0.225:layout=nchw");
  assert_memory_equal(&a, &b, sizeof a);
  assert_int_equal(a.resize, 256);
  assert_int_equal(a.crop, 224);
  assert_true(a.scale == 255.0f && a.mean[2] == 0.406f && a.std[0] == 0.229f && a.channels == 3 && a.normalize);
  assert_int_equal(parsed("imagenet-224").resize, 0);
  assert_int_equal(parsed("imagenet-224").crop, 224);
  assert_int_equal(parsed("imagenet-norm").crop, 0);
  assert_true(parsed("imagenet-norm").normalize);
  assert_true(parsed("unit").scale == 255.0f && !parsed("unit").normalize);
  assert_true(parsed("raw").scale == 0.0f && !parsed("raw").normalize);
}

static void one_value_serves_every_channel(void **state) {
  (void)state;
  qb_preprocess p = parsed("mean=0.5:std=2");
  assert_int_equal(p.channels, 1);
  for (int c = 0; c < 4; c++)
    assert_true(p.mean[c] == 0.5f && p.std[c] == 2.0f);
  p = parsed("mean=1,2,3");
  assert_true(p.mean[1] == 2.0f && p.std[1] == 1.0f && p.channels == 3);
}

static void bad_texts_are_named(void **state) {
  (void)state;
  static const char *const bad[] = {
      "",        "imagenette", "size=3",  "resize",   "resize=",       "resize=0",       "resize=-3",
      "scale=x", "crop=99999", "scale=0", "crop=2.5", "scale=inf",     "scale=1,2",      "mean=nan",
      "mean=1,", "mean=,1",    "std=0",   "std=-1",   "layout=nhwc",   "mean=1,2:std=1", "mean=1,2,3,4,5",
      "crop=3:", ":crop=3",    "crop=3 ", "Resize=3", "crop=3:crop=3",
  };
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    qb_preprocess p;
    qb_error error = {0};
    if (qb_preprocess_parse(bad[i], &p, &error) != QB_ERROR_ARGUMENT || error.message[0] == '\0')
      fail_msg("'%s' is accepted or unexplained", bad[i]);
  }
  qb_error error = {0};
  qb_preprocess p;
  assert_int_equal(qb_preprocess_parse("crop=3:sacle=255", &p, &error), QB_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, "'sacle=255'"));
  assert_non_null(strstr(error.message, "scale="));
  assert_non_null(strstr(error.message, "imagenet-224"));
}

/* ------------------------------------------------------------------------------------------------- shapes, crops */

static void check_shape(const char *text, int64_t height, int64_t width, int64_t wanted_height, int64_t wanted_width) {
  qb_preprocess p = parsed(text);
  qb_shape shape, stored = QB_SHAPE(3, height, width);
  qb_error error = {0};
  assert_int_equal(qb_preprocess_shape(&p, QB_DTYPE_U8, &stored, "x", &shape, &error), QB_OK);
  assert_true(qb_shape_equal(&shape, &QB_SHAPE(3, wanted_height, wanted_width)));
}

static void sides_round_as_in_torchvision(void **state) {
  (void)state;
  check_shape("resize=256", 375, 500, 256, 341); /* int(256 * 500 / 375) = int(341.33) */
  check_shape("resize=256", 500, 333, 384, 256); /* int(384.38) */
  check_shape("resize=7", 5, 5, 7, 7);
  check_shape("resize=256:crop=224", 10, 2000, 224, 224);
  check_shape("crop=9", 3, 20, 9, 9);
  check_shape("raw", 3, 20, 3, 20);
}

/* Crops a ramp whose pixel (y, x) is 16 y + x + 1. */
static void crop_ramp(int64_t height, int64_t width, int32_t crop, float *out) {
  float ramp[256];
  for (int64_t y = 0; y < height; y++)
    for (int64_t x = 0; x < width; x++)
      ramp[y * width + x] = (float)(16 * y + x + 1);
  qb_preprocess p = parsed("raw");
  p.crop = crop;
  qb_stored_sample stored = {QB_DTYPE_F32, QB_SHAPE(1, height, width), false, ramp, "ramp"};
  assert_int_equal(qb_preprocess_apply(&p, &stored, &QB_SHAPE(1, crop, crop), out, NULL), QB_OK);
}

static void crops_start_at_round_half_even(void **state) {
  (void)state;
  float out[256];
  crop_ramp(7, 7, 4, out); /* 1.5 -> 2, as 227 -> 224 */
  assert_true(out[0] == 2 * 16 + 2 + 1);
  crop_ramp(5, 5, 4, out); /* 0.5 -> 0 */
  assert_true(out[0] == 1);
  crop_ramp(9, 7, 4, out); /* 2.5 -> 2 and 1.5 -> 2 */
  assert_true(out[0] == 2 * 16 + 2 + 1);
  crop_ramp(8, 4, 4, out);
  assert_true(out[0] == 2 * 16 + 0 + 1 && out[15] == 5 * 16 + 3 + 1);
}

static void small_images_get_a_frame_of_zeros(void **state) {
  (void)state;
  float out[25];
  crop_ramp(2, 4, 5, out); /* (5-2)/2: 1 row above, 2 below; 0 columns left, 1 right */
  const float wanted[25] = {0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 17, 18, 19, 20, 0};
  assert_memory_equal(out, wanted, sizeof wanted);
  crop_ramp(7, 2, 5, out); /* one side larger, one smaller: rows from 1, 1 column left, 2 right */
  assert_true(out[0] == 0 && out[1] == 17 && out[2] == 18 && out[3] == 0 && out[4] == 0 && out[21] == 81);
}

static void a_frame_is_a_black_pixel_not_a_zero_input(void **state) {
  (void)state;
  const uint8_t pixel = 255;
  float out[9];
  qb_preprocess p = parsed("crop=3:scale=255:mean=0.5:std=0.25");
  qb_stored_sample stored = {QB_DTYPE_U8, QB_SHAPE(1, 1, 1), false, &pixel, "pixel"};
  assert_int_equal(qb_preprocess_apply(&p, &stored, &QB_SHAPE(1, 3, 3), out, NULL), QB_OK);
  for (int i = 0; i < 9; i++)
    assert_true(out[i] == (i == 4 ? 2.0f : -2.0f));
}

static void misfits_are_refused(void **state) {
  (void)state;
  qb_shape shape;
  qb_error error = {0};
  qb_preprocess norm = parsed("imagenet-norm"), resize = parsed("resize=4"), crop = parsed("crop=4");
  assert_int_equal(qb_preprocess_shape(&norm, QB_DTYPE_U8, &QB_SHAPE(1, 8, 8), "x.npy", &shape, &error),
                   QB_ERROR_SHAPE);
  assert_non_null(strstr(error.message, "x.npy"));
  assert_int_equal(qb_preprocess_shape(&resize, QB_DTYPE_F32, &QB_SHAPE(3, 8, 8), "x", &shape, &error),
                   QB_ERROR_UNSUPPORTED);
  assert_int_equal(qb_preprocess_shape(&resize, QB_DTYPE_U8, &QB_SHAPE(64), "x", &shape, &error), QB_ERROR_UNSUPPORTED);
  assert_int_equal(qb_preprocess_shape(&crop, QB_DTYPE_F32, &QB_SHAPE(64), "x", &shape, &error), QB_ERROR_UNSUPPORTED);
  assert_int_equal(qb_preprocess_shape(&crop, QB_DTYPE_F32, &QB_SHAPE(3, 0, 8), "x", &shape, &error), QB_ERROR_SHAPE);
  resize.resize = 16384;
  assert_int_equal(qb_preprocess_shape(&resize, QB_DTYPE_U8, &QB_SHAPE(3, 1, 1 << 20), "x", &shape, &error),
                   QB_ERROR_SHAPE);
}

static void values_that_are_not_finite_are_refused(void **state) {
  (void)state;
  const double values[][2] = {{1.0, NAN}, {-INFINITY, 0.0}, {1e300, 0.0}};
  qb_preprocess p = parsed("raw");
  for (int i = 0; i < 3; i++) {
    float out[2];
    qb_error error = {0};
    qb_stored_sample stored = {QB_DTYPE_F64, QB_SHAPE(2), false, values[i], "record 7"};
    assert_int_equal(qb_preprocess_apply(&p, &stored, &QB_SHAPE(2), out, &error), QB_ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "record 7"));
  }
}

/* ---------------------------------------------------------------------------------------------------- pixel box */

/* The box must contain the real interval, evaluated with 64 significant bits, and all 256 float evaluations, and be at
 * most a few units in the last place wider. */
static void check_box(const qb_preprocess *p, int32_t channel) {
  float lo, hi, out[256];
  uint8_t pixels[256];
  assert_true(qb_preprocess_pixel_box(p, channel, &lo, &hi));
  long double scale = p->scale > 0 ? (long double)p->scale : 1.0L, mean = p->mean[channel], std = p->std[channel];
  long double first = (0.0L - mean) / std, last = (255.0L / scale - mean) / std;
  assert_true((long double)lo <= first && (long double)hi >= last);
  long double slack = 4.0L * FLT_EPSILON * (255.0L / scale + fabsl(mean)) / std;
  assert_true((long double)lo >= first - slack && (long double)hi <= last + slack);
  for (int i = 0; i < 256; i++)
    pixels[i] = (uint8_t)i;
  qb_preprocess single = *p; /* the same statistics for one plane */
  single.channels = single.channels > 0 ? 1 : 0;
  single.mean[0] = p->mean[channel];
  single.std[0] = p->std[channel];
  qb_stored_sample stored = {QB_DTYPE_U8, QB_SHAPE(1, 16, 16), false, pixels, "pixels"};
  assert_int_equal(qb_preprocess_apply(&single, &stored, &QB_SHAPE(1, 16, 16), out, NULL), QB_OK);
  for (int i = 0; i < 256; i++)
    assert_true(out[i] >= lo && out[i] <= hi);
}

static void the_pixel_box_contains_every_image(void **state) {
  (void)state;
  static const char *const texts[] = {"imagenet-norm",
                                      "unit",
                                      "raw",
                                      "mean=123.675,116.28,103.53:std=58.395,57.12,57.375",
                                      "scale=127.5:mean=1",
                                      "scale=3:mean=7.25:std=0.1"};
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    qb_preprocess p = parsed(texts[i]);
    for (int32_t c = 0; c < 3; c++)
      check_box(&p, c);
  }
  qb_rng rng;
  qb_rng_seed(&rng, 1, 0);
  for (int i = 0; i < 2000; i++) {
    qb_preprocess p = parsed("mean=0,0,0,0:std=1,1,1,1");
    p.scale = (float)qb_rng_range(&rng, 0.5, 300.0);
    for (int c = 0; c < 4; c++) {
      p.mean[c] = (float)qb_rng_range(&rng, -2.0, 2.0);
      p.std[c] = (float)qb_rng_range(&rng, 0.01, 3.0);
    }
    check_box(&p, (int32_t)qb_rng_below(&rng, 4));
  }
}

static void exact_boxes_stay_exact(void **state) {
  (void)state;
  float lo, hi;
  qb_preprocess p = parsed("raw");
  assert_true(qb_preprocess_pixel_box(&p, 0, &lo, &hi) && lo == 0.0f && hi == 255.0f);
  p = parsed("unit");
  assert_true(qb_preprocess_pixel_box(&p, 5, &lo, &hi) && lo == 0.0f && hi == 1.0f);
  p = parsed("imagenet");
  assert_false(qb_preprocess_pixel_box(&p, 3, &lo, &hi));
  assert_false(qb_preprocess_pixel_box(&p, -1, &lo, &hi));
}

/* ------------------------------------------------------------------------------------------------------ resizing */

/* The value of the antialiased triangle filter in long double, without rounding between the passes. */
static long double filtered(const qb_image *from, int32_t height, int32_t width, int32_t y, int32_t x, int32_t c) {
  long double steps[2] = {(long double)from->height / height, (long double)from->width / width};
  long double half[2] = {fmaxl(steps[0], 1), fmaxl(steps[1], 1)}, sum = 0, total = 0;
  for (int32_t i = 0; i < from->height; i++)
    for (int32_t j = 0; j < from->width; j++) {
      long double a = 1 - fabsl((i + 0.5L) - (y + 0.5L) * steps[0]) / half[0];
      long double b = 1 - fabsl((j + 0.5L) - (x + 0.5L) * steps[1]) / half[1];
      if (a <= 0 || b <= 0)
        continue;
      sum += a * b * from->pixels[(i * from->width + j) * from->channels + c];
      total += a * b;
    }
  return sum / total;
}

static void check_resize(const qb_image *from, int32_t height, int32_t width) {
  qb_image to;
  assert_int_equal(qb_image_resize(from, height, width, "x", &to, NULL), QB_OK);
  assert_true(to.height == height && to.width == width && to.channels == from->channels);
  for (int32_t y = 0; y < height; y++)
    for (int32_t x = 0; x < width; x++)
      for (int32_t c = 0; c < to.channels; c++) {
        long double wanted = filtered(from, height, width, y, x, c);
        /* each pass rounds to 8 bits: half a step twice */
        assert_true(fabsl(to.pixels[(y * width + x) * to.channels + c] - wanted) < 1.001L);
      }
  qb_image_free(&to);
}

static void resizing_is_the_triangle_filter(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 2, 0);
  for (int round = 0; round < 60; round++) {
    qb_image from;
    int32_t channels = 1 + (int32_t)qb_rng_below(&rng, 4);
    int64_t height = 1 + (int64_t)qb_rng_below(&rng, 30), width = 1 + (int64_t)qb_rng_below(&rng, 30);
    assert_int_equal(qb_image_create(&from, height, width, channels, "x", NULL), QB_OK);
    for (int64_t i = 0; i < height * width * channels; i++)
      from.pixels[i] = (uint8_t)qb_rng_below(&rng, 256);
    check_resize(&from, 1 + (int32_t)qb_rng_below(&rng, 20), 1 + (int32_t)qb_rng_below(&rng, 20));
    qb_image_free(&from);
  }
}

static void resizing_to_the_same_size_changes_nothing(void **state) {
  (void)state;
  qb_image from, to;
  assert_int_equal(qb_image_create(&from, 3, 5, 3, "x", NULL), QB_OK);
  for (int i = 0; i < 45; i++)
    from.pixels[i] = (uint8_t)(i * 17);
  assert_int_equal(qb_image_resize(&from, 3, 5, "x", &to, NULL), QB_OK);
  assert_memory_equal(from.pixels, to.pixels, 45);
  qb_image_free(&from);
  qb_image_free(&to);
}

static void planes_and_interleaved_pixels_give_the_same(void **state) {
  (void)state;
  uint8_t planes[3 * 6 * 9], interleaved[3 * 6 * 9];
  float a[3 * 4 * 6], b[3 * 4 * 6];
  for (int c = 0; c < 3; c++)
    for (int i = 0; i < 54; i++)
      interleaved[i * 3 + c] = planes[c * 54 + i] = (uint8_t)(i * 31 + c * 77);
  qb_preprocess p = parsed("resize=4:scale=255:mean=0.1,0.2,0.3");
  qb_stored_sample stored = {QB_DTYPE_U8, QB_SHAPE(3, 6, 9), false, planes, "x"};
  assert_int_equal(qb_preprocess_apply(&p, &stored, &QB_SHAPE(3, 4, 6), a, NULL), QB_OK);
  stored.interleaved = true;
  stored.data = interleaved;
  assert_int_equal(qb_preprocess_apply(&p, &stored, &QB_SHAPE(3, 4, 6), b, NULL), QB_OK);
  assert_memory_equal(a, b, sizeof a);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(presets_are_the_documented_pairs),
      cmocka_unit_test(one_value_serves_every_channel),
      cmocka_unit_test(bad_texts_are_named),
      cmocka_unit_test(sides_round_as_in_torchvision),
      cmocka_unit_test(crops_start_at_round_half_even),
      cmocka_unit_test(small_images_get_a_frame_of_zeros),
      cmocka_unit_test(a_frame_is_a_black_pixel_not_a_zero_input),
      cmocka_unit_test(misfits_are_refused),
      cmocka_unit_test(values_that_are_not_finite_are_refused),
      cmocka_unit_test(the_pixel_box_contains_every_image),
      cmocka_unit_test(exact_boxes_stay_exact),
      cmocka_unit_test(resizing_is_the_triangle_filter),
      cmocka_unit_test(resizing_to_the_same_size_changes_nothing),
      cmocka_unit_test(planes_and_interleaved_pixels_give_the_same),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
