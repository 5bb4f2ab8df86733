/* What a figure is drawn with: a few calls that a picture format implements. Coordinates are pixels from the top left
 * corner; text is placed by its baseline. */
#ifndef QB_REPORT_PLOT_CANVAS_H
#define QB_REPORT_PLOT_CANVAS_H

#include "report/plot.h"

/* What colours mean; a page may choose its own for all but the palette. */
typedef enum qb_paint {
  QB_PAINT_INK, /* text */
  QB_PAINT_AXIS,
  QB_PAINT_GRID,
  QB_PAINT_PAPER,
  QB_PAINT_SERIES /* + colour */
} qb_paint;

typedef enum qb_anchor { QB_ANCHOR_START, QB_ANCHOR_MIDDLE, QB_ANCHOR_END } qb_anchor;

typedef struct qb_text {
  double x, y, size;
  qb_anchor anchor;
  bool upwards; /* turned by a quarter, read from below */
  bool bold;
  const char *string;
} qb_text;

typedef struct qb_canvas qb_canvas;
struct qb_canvas {
  /* A line through `count` points (x, y pairs). */
  void (*line)(qb_canvas *canvas, const double *points, int count, int paint, double width, bool dashed);
  /* A closed shape; `hollow`: filled with paper, outlined. */
  void (*polygon)(qb_canvas *canvas, const double *points, int count, int paint, bool hollow);
  void (*text)(qb_canvas *canvas, const qb_text *text);
};

/* Size of the whole picture. */
void qb_figure_size(const qb_figure *figure, double *width, double *height);

/* QB_ERROR_ARGUMENT: the figure cannot be drawn. */
QB_MUST_CHECK qb_status qb_figure_check(const qb_figure *figure, qb_error *error);

/* Draws everything but the background. */
void qb_figure_draw(const qb_figure *figure, qb_canvas *canvas);

/* Red, green and blue 0..255 of a paint. */
void qb_paint_rgb(int paint, int rgb[3]);

/* ------------------------------------------------------------------------------------------------------------ text */

/* A piece of text on one level: the start of the next piece, NULL at the end. Level 0 is plain, 1 raised, -1 lowered.
 * The piece is [*start, *start + *length). */
const char *qb_text_piece(const char *text, const char **start, int *length, int *level);

enum { QB_TEXT_SMALL_PERCENT = 72 }; /* size of raised and lowered parts */

/* Width of a marked-up text in pixels at a font size, as the built-in font draws it. */
double qb_text_width(const char *text, double size);

/* The strokes of one character: coordinates 0..9 across, 0 (top of capitals) to 7 (baseline) to 9 down, as digits in
 * pairs, a space between strokes; `*advance` in the same units. A box for characters that the font does not have. */
const char *qb_font_glyph(unsigned char character, double *advance);

enum { QB_FONT_BASELINE = 7 };
extern const double qb_font_unit; /* of the coordinates, in font sizes */

#endif
