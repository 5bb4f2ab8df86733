/* The shapes of the digits 0 to 9 in several handwritings, as strokes of lines and quadratic curves. */
#ifndef QB_DATA_DIGIT_GLYPHS_H
#define QB_DATA_DIGIT_GLYPHS_H

#include <stdint.h>

typedef enum qb_glyph_kind {
  QB_GLYPH_END,   /* after the last point */
  QB_GLYPH_START, /* the pen goes down here */
  QB_GLYPH_LINE,  /* the pen moves here, straight or around the control points before it */
  QB_GLYPH_CURVE  /* control point of a quadratic curve to the next point */
} qb_glyph_kind;

/* A point in the digit's box: x from 0 (left) to 100, y from 0 (top) to 100; a little outside is fine. A control
 * point is always followed by a LINE point. */
typedef struct qb_glyph_point {
  int16_t x, y;
  qb_glyph_kind kind;
} qb_glyph_point;

enum { QB_GLYPH_MAX_STYLES = 4, QB_GLYPH_MAX_POINTS = 24 };

/* Number of styles of `digit` (0..9), at least 2. */
int32_t qb_glyph_style_count(int32_t digit);

/* The points of one style, closed by QB_GLYPH_END; static. */
const qb_glyph_point *qb_glyph_points(int32_t digit, int32_t style);

#endif
