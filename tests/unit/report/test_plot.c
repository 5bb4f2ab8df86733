/* Pictures: ticks on round numbers, labels, escaped text, gaps in curves, both formats from one struct. */
#include "report/plot.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <png.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "report/plot_canvas.h"

static void ticks_are_round_numbers_inside_the_range(void **state) {
  (void)state;
  double ticks[QB_PLOT_TICK_LIMIT], step;
  assert_int_equal(qb_plot_ticks(0, 1, false, 5, ticks, &step), 6);
  assert_true(fabs(step - 0.2) <= 1e-12);
  assert_true(fabs(ticks[5] - 1) <= 1e-12);
  assert_int_equal(qb_plot_ticks(1.3, 17.2, false, 8, ticks, &step), 8);
  assert_true(fabs(ticks[0] - 2) <= 0);
  assert_int_equal(qb_plot_ticks(-3.5, 150, true, 5, ticks, &step), 4);
  assert_true(fabs(ticks[0] - 0) <= 0);
  assert_true(fabs(step - 50) <= 0);
  assert_int_equal(qb_plot_ticks(2.2, 3.4, true, 5, ticks, &step), 1); /* decades only */
  assert_true(fabs(ticks[0] - 3) <= 0);
  assert_int_equal(qb_plot_ticks(1, 1, false, 5, ticks, &step), 0);
  assert_int_equal(qb_plot_ticks(0, INFINITY, false, 5, ticks, &step), 0);
  assert_int_equal(qb_plot_ticks(NAN, 1, false, 5, ticks, &step), 0);
}

static void ticks_fit_any_range(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 7, 0);
  for (int i = 0; i < 2000; i++) {
    double ticks[QB_PLOT_TICK_LIMIT], step;
    double size = pow(10, 600 * qb_rng_double(&rng) - 300), lo = (2 * qb_rng_double(&rng) - 1) * size;
    double hi = lo + (0.001 + qb_rng_double(&rng)) * size;
    int wanted = 1 + (int)(40 * qb_rng_double(&rng));
    int count = qb_plot_ticks(lo, hi, i % 2 == 0, wanted, ticks, &step);
    assert_in_range(count, 0, QB_PLOT_TICK_LIMIT);
    for (int t = 0; t < count; t++) {
      assert_true(ticks[t] >= lo - 1e-6 * step && ticks[t] <= hi + 1e-6 * step);
      if (t > 0)
        assert_true(ticks[t] > ticks[t - 1]);
    }
  }
}

static void assert_label(double tick, double step, bool log, const char *expected) {
  char text[QB_PLOT_LABEL];
  qb_plot_label(tick, step, log, text);
  assert_string_equal(text, expected);
}

static void labels_have_the_digits_of_their_step(void **state) {
  (void)state;
  assert_label(0.2, 0.2, false, "0.2");
  assert_label(0.25, 0.05, false, "0.25");
  assert_label(16, 2, false, "16");
  assert_label(0, 0.001, false, "0.000");
  assert_label(3e9, 1e9, false, "3e+09");
  assert_label(37, 1, true, "10^{37}");
  assert_label(-4, 2, true, "10^{-4}");
  assert_label(0, 1, true, "1");
  assert_label(1, 1, true, "10");
}

/* ------------------------------------------------------------------------------------------------------------- SVG */

static const double bits[4] = {2, 4, 6, 8};
static const double values[4] = {40, 30, NAN, 10}, others[4] = {12, 11, 10, 9};

static const qb_plot_series series[2] =
    {{.name = "prior <1>", .x = bits, .y = values, .count = 4, .colour = 0, .line = true},
     {.name = "new", .x = bits, .y = others, .count = 4, .colour = 1, .line = true, .dashed = true}};
static const qb_plot panel = {.title = "ResNet & \"friends\"",
                              .x = {.title = "weight bits"},
                              .y = {.title = "largest |change| <= 10^{x}", .log = true},
                              .series_count = 2,
                              .series = series};
static const qb_figure figure = {.title = "A title",
                                 .subtitle = "r_{conv} and r",
                                 .columns = 1,
                                 .panel_count = 1,
                                 .panels = &panel};

static char *draw_svg(const qb_figure *f, bool embedded, size_t *size) {
  char *text = NULL;
  FILE *stream = open_memstream(&text, size);
  assert_non_null(stream);
  qb_error error;
  assert_int_equal(qb_plot_svg(f, embedded, stream, &error), QB_OK);
  fclose(stream);
  return text;
}

static int count_of(const char *text, const char *what) {
  int count = 0;
  for (const char *at = text; (at = strstr(at, what)) != NULL; at++)
    count++;
  return count;
}

static void svg_keeps_text_and_escapes_it(void **state) {
  (void)state;
  size_t size;
  char *text = draw_svg(&figure, false, &size);
  assert_non_null(strstr(text, "ResNet &amp; &quot;friends&quot;</text>"));
  assert_non_null(strstr(text, ">prior &lt;1&gt;</text>"));
  assert_null(strstr(text, "<1>"));
  assert_non_null(strstr(text, "r<tspan dy=\"2.9\" font-size=\"9.4\">conv</tspan><tspan dy=\"-2.9\"> and r</tspan>"));
  assert_non_null(strstr(text, "10<tspan dy=\"-4.6\" font-size=\"8.6\">20</tspan></text>"));
  assert_int_equal(count_of(text, "<svg "), 1);
  assert_int_equal(count_of(text, "</svg>"), 1);
  assert_non_null(strstr(text, "<rect width=\"100%\""));
  free(text);
  text = draw_svg(&figure, true, &size);
  assert_memory_equal(text, "<svg ", 5);
  assert_null(strstr(text, "<rect width=\"100%\""));
  free(text);
}

/* One legend sample and the segments between finite neighbours, of the first colour; a marker for each point. */
static void a_missing_value_interrupts_the_curve(void **state) {
  (void)state;
  size_t size;
  char *text = draw_svg(&figure, false, &size);
  assert_int_equal(count_of(text, "<polyline fill=\"none\" stroke=\"#0072b2\""), 1 + 1);
  assert_int_equal(count_of(text, "<polyline fill=\"none\" stroke=\"#d55e00\""), 1 + 3);
  assert_int_equal(count_of(text, "<polygon stroke=\"#0072b2\""), 1 + 3);
  assert_int_equal(count_of(text, "<polygon stroke=\"#d55e00\""), 1 + 4);
  free(text);
}

/* Series of equal name share an entry; one without a name has none. */
static void the_legend_names_everything_once(void **state) {
  (void)state;
  qb_plot_series unnamed = series[0];
  unnamed.name = NULL;
  const qb_plot panels[3] = {panel, panel, {.series_count = 1, .series = &unnamed}};
  const qb_figure three = {.columns = 2, .panel_count = 3, .panels = panels};
  size_t size;
  char *text = draw_svg(&three, false, &size);
  assert_int_equal(count_of(text, ">prior &lt;1&gt;</text>"), 1);
  assert_int_equal(count_of(text, ">new</text>"), 1);
  free(text);
}

static void figures_that_cannot_be_drawn_are_refused(void **state) {
  (void)state;
  qb_error error;
  const qb_figure none = {.columns = 1};
  assert_int_equal(qb_plot_svg(&none, false, stderr, &error), QB_ERROR_ARGUMENT);
  const qb_plot crowded = {.series_count = QB_PLOT_SERIES_LIMIT + 1};
  const qb_figure crowd = {.columns = 1, .panel_count = 1, .panels = &crowded};
  assert_int_equal(qb_plot_svg(&crowd, false, stderr, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_plot_png(&figure, 0, stderr, &error), QB_ERROR_ARGUMENT);
}

/* ------------------------------------------------------------------------------------------------------------- PNG */

static unsigned char *draw_png(const qb_figure *f, int scale, size_t *size) {
  char *bytes = NULL;
  FILE *stream = open_memstream(&bytes, size);
  assert_non_null(stream);
  qb_error error;
  assert_int_equal(qb_plot_png(f, scale, stream, &error), QB_OK);
  fclose(stream);
  return (unsigned char *)bytes;
}

/* Pixels of exactly one colour. */
static long count_colour(const unsigned char *png, size_t size, int r, int g, int b, double *width, double *height) {
  png_image image = {.version = PNG_IMAGE_VERSION};
  assert_true(png_image_begin_read_from_memory(&image, png, size));
  image.format = PNG_FORMAT_RGB;
  unsigned char *pixels = malloc(PNG_IMAGE_SIZE(image));
  assert_non_null(pixels);
  assert_true(png_image_finish_read(&image, NULL, pixels, 0, NULL));
  long count = 0;
  for (size_t i = 0; i < PNG_IMAGE_SIZE(image); i += 3)
    count += pixels[i] == r && pixels[i + 1] == g && pixels[i + 2] == b;
  free(pixels);
  *width = image.width;
  *height = image.height;
  return count;
}

static void png_shows_the_same_figure(void **state) {
  (void)state;
  size_t size, again_size;
  double width, height, wanted_width, wanted_height;
  unsigned char *png = draw_png(&figure, 2, &size), *again = draw_png(&figure, 2, &again_size);
  assert_int_equal(size, again_size);
  assert_memory_equal(png, again, size);
  qb_figure_size(&figure, &wanted_width, &wanted_height);
  assert_true(count_colour(png, size, 0x00, 0x72, 0xb2, &width, &height) > 300);
  assert_true(count_colour(png, size, 0xd5, 0x5e, 0x00, &width, &height) > 300);
  assert_true(count_colour(png, size, 0x1f, 0x23, 0x28, &width, &height) > 300); /* text */
  assert_true(fabs(width - (2 * wanted_width)) <= 2);
  assert_true(fabs(height - (2 * wanted_height)) <= 2);
  free(png);
  free(again);
}

static void extreme_data_are_drawn(void **state) {
  (void)state;
  const double x[3] = {0, 1, 2}, huge[3] = {-1e308, INFINITY, 1e300}, same[3] = {5, 5, 5}, nothing[3] = {NAN, NAN, NAN};
  const double *const data[3] = {huge, same, nothing};
  for (int i = 0; i < 3; i++) {
    const qb_plot_series one = {.x = x, .y = data[i], .count = 3, .line = true};
    const qb_plot plot = {.series_count = 1, .series = &one};
    const qb_figure f = {.columns = 1, .panel_count = 1, .panels = &plot};
    size_t size;
    free(draw_png(&f, 1, &size));
    free(draw_svg(&f, false, &size));
  }
}

static void failures_are_reported(void **state) {
  (void)state;
  qb_error error;
  qb_alloc_fail_after(0);
  FILE *full = fopen("/dev/full", "w");
  assert_int_equal(qb_plot_png(&figure, 1, full != NULL ? full : stderr, &error), QB_ERROR_MEMORY);
  qb_alloc_fail_after(-1);
  if (full == NULL)
    return;
  setvbuf(full, NULL, _IONBF, 0);
  assert_int_equal(qb_plot_png(&figure, 1, full, &error), QB_ERROR_IO);
  assert_int_equal(qb_plot_svg(&figure, false, full, &error), QB_ERROR_IO);
  fclose(full);
  assert_int_equal(qb_alloc_live(), 0);
}

/* ------------------------------------------------------------------------------------------------------------ text */

static void every_character_has_strokes(void **state) {
  (void)state;
  for (int c = 0; c < 256; c++) {
    double advance;
    const char *strokes = qb_font_glyph((unsigned char)c, &advance);
    assert_true(advance > 1 && advance < 10);
    assert_true(c == ' ' || strlen(strokes) >= 4);
    for (const char *at = strokes; *at != '\0'; at += *at == ' ' ? 1 : 2)
      assert_true(*at == ' ' || (*at >= '0' && *at <= '9' && at[1] >= '0' && at[1] <= '9'));
  }
  assert_true(qb_text_width("10^{37}", 12) < qb_text_width("1037", 12));
  assert_true(qb_text_width("\xc3\xa9", 12) == qb_text_width("\xc3", 12)); /* two bytes, one character */
  assert_true(qb_text_width("a_{", 10) > qb_text_width("a", 10));          /* not a lowered part */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(ticks_are_round_numbers_inside_the_range),
      cmocka_unit_test(ticks_fit_any_range),
      cmocka_unit_test(labels_have_the_digits_of_their_step),
      cmocka_unit_test(svg_keeps_text_and_escapes_it),
      cmocka_unit_test(a_missing_value_interrupts_the_curve),
      cmocka_unit_test(the_legend_names_everything_once),
      cmocka_unit_test(figures_that_cannot_be_drawn_are_refused),
      cmocka_unit_test(png_shows_the_same_figure),
      cmocka_unit_test(extreme_data_are_drawn),
      cmocka_unit_test(failures_are_reported),
      cmocka_unit_test(every_character_has_strokes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
