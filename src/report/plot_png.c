/* Figures as PNG: shapes become coverage of pixels, by the distance to their lines. */
#include <math.h>
#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "report/plot_canvas.h"

typedef struct png_canvas {
  qb_canvas canvas;
  int width, height;
  double scale;
  unsigned char *pixels; /* (height, width, 3) */
} png_canvas;

/* Mixes `coverage` of a paint into a pixel. */
static void blend(png_canvas *png, int x, int y, const int rgb[3], double coverage) {
  unsigned char *pixel = png->pixels + 3 * ((size_t)y * (size_t)png->width + (size_t)x);
  for (int i = 0; i < 3; i++)
    pixel[i] = (unsigned char)lround(pixel[i] + (rgb[i] - pixel[i]) * coverage);
}

/* The whole pixels that a shape between lo and hi can touch. */
static void pixel_range(double lo, double hi, int size, int range[2]) {
  range[0] = (int)fmax(0, floor(fmin(lo, size)));
  range[1] = (int)fmin(size - 1, ceil(fmax(hi, -1)));
}

static double distance_to_segment(double x, double y, const double s[4]) {
  double dx = s[2] - s[0], dy = s[3] - s[1], length = dx * dx + dy * dy;
  double t = length > 0 ? ((x - s[0]) * dx + (y - s[1]) * dy) / length : 0;
  t = fmax(0, fmin(1, t));
  return hypot(x - s[0] - t * dx, y - s[1] - t * dy);
}

/* A stroke with round ends; `s` and `width` in pixels of the picture. */
static void draw_segment(png_canvas *png, const double s[4], double width, const int rgb[3]) {
  int across[2], down[2];
  double reach = width / 2 + 1;
  pixel_range(fmin(s[0], s[2]) - reach, fmax(s[0], s[2]) + reach, png->width, across);
  pixel_range(fmin(s[1], s[3]) - reach, fmax(s[1], s[3]) + reach, png->height, down);
  for (int y = down[0]; y <= down[1]; y++)
    for (int x = across[0]; x <= across[1]; x++) {
      double coverage = width / 2 + 0.5 - distance_to_segment(x + 0.5, y + 0.5, s);
      if (coverage > 0)
        blend(png, x, y, rgb, fmin(1, coverage) * fmin(1, width));
    }
}

static void draw_dashes(png_canvas *png, const double s[4], double width, const int rgb[3]) {
  double length = hypot(s[2] - s[0], s[3] - s[1]), dash = 6 * png->scale, period = 10 * png->scale;
  for (double at = 0; at < length; at += period) {
    double a = at / length, b = fmin(1, (at + dash) / length);
    const double part[4] = {s[0] + a * (s[2] - s[0]), s[1] + a * (s[3] - s[1]), s[0] + b * (s[2] - s[0]),
                            s[1] + b * (s[3] - s[1])};
    draw_segment(png, part, width, rgb);
  }
}

static void draw_line(qb_canvas *canvas, const double *points, int count, int paint, double width, bool dashed) {
  png_canvas *png = (png_canvas *)canvas;
  int rgb[3];
  qb_paint_rgb(paint, rgb);
  for (int i = 0; i + 1 < count; i++) {
    double segment[4];
    for (int k = 0; k < 4; k++)
      segment[k] = points[2 * i + k] * png->scale;
    if (dashed)
      draw_dashes(png, segment, width * png->scale, rgb);
    else
      draw_segment(png, segment, width * png->scale, rgb);
  }
}

/* True when (x, y) lies in the polygon, by crossings. */
static bool inside(const double *points, int count, double x, double y) {
  bool in = false;
  for (int i = 0, j = count - 1; i < count; j = i++) {
    double xi = points[2 * i], yi = points[2 * i + 1], xj = points[2 * j], yj = points[2 * j + 1];
    if ((yi > y) != (yj > y) && x < (xj - xi) * (y - yi) / (yj - yi) + xi)
      in = !in;
  }
  return in;
}

enum { SAMPLES = 4 }; /* of a pixel, each way */

static void fill_polygon(png_canvas *png, const double *points, int count, const int rgb[3]) {
  double lo[2] = {INFINITY, INFINITY}, hi[2] = {-INFINITY, -INFINITY};
  for (int i = 0; i < 2 * count; i++) {
    lo[i % 2] = fmin(lo[i % 2], points[i] * png->scale);
    hi[i % 2] = fmax(hi[i % 2], points[i] * png->scale);
  }
  int across[2], down[2];
  pixel_range(lo[0], hi[0], png->width, across);
  pixel_range(lo[1], hi[1], png->height, down);
  for (int y = down[0]; y <= down[1]; y++)
    for (int x = across[0]; x <= across[1]; x++) {
      int hits = 0;
      for (int k = 0; k < SAMPLES * SAMPLES; k++)
        hits += inside(points, count, (x + (k % SAMPLES + 0.5) / SAMPLES) / png->scale,
                       (y + (k / SAMPLES + 0.5) / SAMPLES) / png->scale);
      if (hits > 0)
        blend(png, x, y, rgb, hits / (double)(SAMPLES * SAMPLES));
    }
}

static void draw_polygon(qb_canvas *canvas, const double *points, int count, int paint, bool hollow) {
  png_canvas *png = (png_canvas *)canvas;
  int rgb[3];
  qb_paint_rgb(hollow ? QB_PAINT_PAPER : paint, rgb);
  fill_polygon(png, points, count, rgb);
  if (!hollow)
    return;
  draw_line(canvas, points, count, paint, 1.5, false);
  const double closing[4] = {points[2 * count - 2], points[2 * count - 1], points[0], points[1]};
  draw_line(canvas, closing, 2, paint, 1.5, false);
}

/* ------------------------------------------------------------------------------------------------------------ text */

/* A pen that writes a line of text, turned where asked. */
typedef struct pen {
  png_canvas *png;
  const qb_text *text;
  double along; /* from the anchor, in pixels of the figure */
} pen;

static void pen_point(const pen *p, double right, double down, double point[2]) {
  point[0] = p->text->upwards ? p->text->x + down : p->text->x + right;
  point[1] = p->text->upwards ? p->text->y - right : p->text->y + down;
}

static void write_glyph(pen *p, unsigned char character, double size, double raise) {
  double advance, unit = qb_font_unit * size, width = size * (p->text->bold ? 0.125 : 0.085);
  double points[4];
  bool down = false;
  for (const char *at = qb_font_glyph(character, &advance); *at != '\0'; at++) {
    if (*at == ' ') {
      down = false;
      continue;
    }
    double right = p->along + (*at - '0') * unit, below = (at[1] - '0' - QB_FONT_BASELINE) * unit - raise;
    memcpy(points, points + 2, 2 * sizeof *points);
    pen_point(p, right, below, points + 2);
    if (down)
      draw_line(&p->png->canvas, points, 2, QB_PAINT_INK, width, false);
    down = true;
    at++;
  }
  p->along += advance * unit;
}

static void draw_text(qb_canvas *canvas, const qb_text *text) {
  pen p = {(png_canvas *)canvas, text, 0};
  if (text->anchor != QB_ANCHOR_START)
    p.along = -qb_text_width(text->string, text->size) / (text->anchor == QB_ANCHOR_MIDDLE ? 2 : 1);
  const char *at = text->string, *start;
  int length, level;
  while ((at = qb_text_piece(at, &start, &length, &level)) != NULL) {
    double size = level == 0 ? text->size : text->size * QB_TEXT_SMALL_PERCENT / 100;
    double raise = level > 0 ? 0.38 * text->size : level < 0 ? -0.22 * text->size : 0;
    for (int i = 0; i < length; i++)
      if (((unsigned char)start[i] & 0xc0) != 0x80)
        write_glyph(&p, (unsigned char)start[i], size, raise);
  }
}

/* --------------------------------------------------------------------------------------------------------- the file */

static void ignore_warning(png_structp png, png_const_charp message) {
  (void)png;
  (void)message;
}

/* libpng reports by longjmp: nothing here is allocated after the jump is set. */
static void fail_png(png_structp png, png_const_charp message) {
  (void)message;
  longjmp(*(jmp_buf *)png_get_error_ptr(png), 1);
}

static qb_status write_rows(png_structp writer, png_infop info, jmp_buf *jump, const png_canvas *png, FILE *stream,
                            qb_error *error) {
  if (setjmp(*jump) != 0)
    return qb_fail(error, QB_ERROR_IO, "the picture cannot be written");
  png_init_io(writer, stream);
  png_set_IHDR(writer, info, (png_uint_32)png->width, (png_uint_32)png->height, 8, PNG_COLOR_TYPE_RGB,
               PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(writer, info);
  for (int y = 0; y < png->height; y++)
    png_write_row(writer, png->pixels + 3 * (size_t)y * (size_t)png->width);
  png_write_end(writer, info);
  return QB_OK;
}

static qb_status write_png(const png_canvas *png, FILE *stream, qb_error *error) {
  jmp_buf jump;
  png_structp writer = png_create_write_struct(PNG_LIBPNG_VER_STRING, &jump, fail_png, ignore_warning);
  png_infop info = writer != NULL ? png_create_info_struct(writer) : NULL;
  qb_status status = info != NULL ? write_rows(writer, info, &jump, png, stream, error)
                                  : qb_fail_memory(error, "a picture", (size_t)png->width);
  png_destroy_write_struct(&writer, &info);
  if (status == QB_OK && ferror(stream))
    return qb_fail(error, QB_ERROR_IO, "the picture cannot be written");
  return status;
}

qb_status qb_plot_png(const qb_figure *figure, int scale, FILE *stream, qb_error *error) {
  double width, height;
  QB_TRY(qb_figure_check(figure, error));
  if (scale < 1 || scale > 8)
    return qb_fail(error, QB_ERROR_ARGUMENT, "a picture of %d times the size: choose 1 to 8", scale);
  qb_figure_size(figure, &width, &height);
  png_canvas png = {.canvas = {draw_line, draw_polygon, draw_text},
                    .width = (int)ceil(width) * scale,
                    .height = (int)ceil(height) * scale,
                    .scale = scale};
  size_t size = 3 * (size_t)png.width * (size_t)png.height;
  png.pixels = qb_alloc(size, 1);
  if (png.pixels == NULL)
    return qb_fail_memory(error, "a picture", size);
  memset(png.pixels, 255, size);
  qb_figure_draw(figure, &png.canvas);
  qb_status status = write_png(&png, stream, error);
  qb_free(png.pixels);
  return status;
}
