/* Drawing digits; see digits.h.
 *
 * A glyph's points go through an affine map and an elastic bend (a coarse grid of random displacements, interpolated
 * bilinearly) and become a chain of straight segments. A pixel's ink is a ramp of its distance to the nearest segment.
 * Background, ink level, neighbours and noise are then mixed and rounded to a byte.
 *
 * Random numbers are drawn one per statement: C leaves the order of evaluation within an expression open. */
#include "data/digits.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>

#include "base/rng.h"
#include "data/digit_glyphs.h"

#if FLT_EVAL_METHOD != 0
#error "the digits are defined by double arithmetic without excess precision"
#endif

enum {
  CURVE_STEPS = 6, /* straight pieces of one curve: the chord error is below 0.1 pixel */
  MAX_GLYPHS = 3,  /* the digit and a neighbour on each side */
  MAX_SEGMENTS = MAX_GLYPHS * QB_GLYPH_MAX_POINTS * CURVE_STEPS,
  BEND_NODES = 4 /* nodes of the displacement grid along one side */
};

typedef struct point {
  double x, y;
} point;

typedef struct segment {
  point from, along;     /* the segment is from + t along, t in [0, 1] */
  double inverse_square; /* 1 / |along|^2, 0 for a dot */
} segment;

typedef struct drawing {
  segment segments[MAX_SEGMENTS];
  int32_t segment_count;
  point bend[BEND_NODES][BEND_NODES]; /* displacement at the nodes, in pixels */
} drawing;

/* Maps the glyph box to pixels: centre + A (p - 50). */
typedef struct affine {
  double xx, xy, yx, yy;
  point centre;
} affine;

/* ------------------------------------------------------------------------------------------------------ geometry */

static double clamp(double value, double lo, double hi) { return value < lo ? lo : value > hi ? hi : value; }

static double mix(double a, double b, double t) { return a + (b - a) * t; }

/* The elastic displacement at pixel position p, bilinear between the grid's nodes. */
static point bend_at(const drawing *d, point p) {
  double u = clamp(p.x / QB_DIGITS_WIDTH, 0, 1) * (BEND_NODES - 1);
  double v = clamp(p.y / QB_DIGITS_HEIGHT, 0, 1) * (BEND_NODES - 1);
  int column = u < BEND_NODES - 2 ? (int)u : BEND_NODES - 2;
  int row = v < BEND_NODES - 2 ? (int)v : BEND_NODES - 2;
  const point *upper = &d->bend[row][column], *lower = &d->bend[row + 1][column];
  double s = u - column, t = v - row;
  return (point){mix(mix(upper[0].x, upper[1].x, s), mix(lower[0].x, lower[1].x, s), t),
                 mix(mix(upper[0].y, upper[1].y, s), mix(lower[0].y, lower[1].y, s), t)};
}

static void add_segment(drawing *d, point from, point to) {
  point from_bend = bend_at(d, from), to_bend = bend_at(d, to);
  from = (point){from.x + from_bend.x, from.y + from_bend.y};
  to = (point){to.x + to_bend.x, to.y + to_bend.y};
  point along = {to.x - from.x, to.y - from.y};
  double square = along.x * along.x + along.y * along.y;
  d->segments[d->segment_count++] = (segment){from, along, square > 1e-12 ? 1 / square : 0};
}

static void add_curve(drawing *d, point from, point control, point to) {
  point last = from;
  for (int i = 1; i <= CURVE_STEPS; i++) {
    double t = (double)i / CURVE_STEPS;
    point next = {mix(mix(from.x, control.x, t), mix(control.x, to.x, t), t),
                  mix(mix(from.y, control.y, t), mix(control.y, to.y, t), t)};
    add_segment(d, last, next);
    last = next;
  }
}

static point map_point(const affine *map, const qb_glyph_point *p) {
  double x = p->x - 50.0, y = p->y - 50.0;
  return (point){map->centre.x + (map->xx * x + map->xy * y), map->centre.y + (map->yx * x + map->yy * y)};
}

static void add_glyph(drawing *d, const affine *map, const qb_glyph_point *glyph) {
  point last = {0, 0};
  for (const qb_glyph_point *p = glyph; p->kind != QB_GLYPH_END; p++) {
    point here = map_point(map, p);
    if (p->kind == QB_GLYPH_LINE)
      add_segment(d, last, here);
    if (p->kind == QB_GLYPH_CURVE) {
      point to = map_point(map, ++p);
      add_curve(d, last, here, to);
      here = to;
    }
    last = here;
  }
}

/* Distance from p to the nearest segment. */
static double distance(const drawing *d, point p) {
  double best = 1e9;
  for (int32_t i = 0; i < d->segment_count; i++) {
    const segment *s = &d->segments[i];
    double x = p.x - s->from.x, y = p.y - s->from.y;
    double t = clamp((x * s->along.x + y * s->along.y) * s->inverse_square, 0, 1);
    x -= t * s->along.x;
    y -= t * s->along.y;
    double square = x * x + y * y;
    best = square < best ? square : best;
  }
  return sqrt(best);
}

/* ----------------------------------------------------------------------------------------------------- randomness */

/* Blocks of ten samples are random permutations of the classes. */
int32_t qb_digits_label(uint64_t seed, uint64_t index) {
  int32_t order[QB_DIGITS_CLASSES];
  qb_rng rng;
  qb_rng_seed(&rng, ~seed, index / QB_DIGITS_CLASSES);
  for (int32_t i = 0; i < QB_DIGITS_CLASSES; i++) {
    int32_t j = (int32_t)qb_rng_below(&rng, (uint64_t)i + 1);
    order[i] = order[j];
    order[j] = i;
  }
  return order[index % QB_DIGITS_CLASSES];
}

/* Roughly normal with standard deviation 1 and no libm: a sum of 12 uniform numbers of 16 bits each. */
static double rough_normal(qb_rng *rng) {
  int32_t sum = 0;
  for (int i = 0; i < 3; i++)
    for (uint64_t bits = qb_rng_u64(rng), j = 0; j < 4; j++, bits >>= 16)
      sum += (int32_t)(bits & 0xffff);
  return (sum - 6 * 0x10000) * 0x1p-16;
}

static affine draw_affine(qb_rng *rng) {
  double half_height = qb_rng_range(rng, 6.5, 10.5);
  double aspect = qb_rng_range(rng, 0.5, 0.85);
  double shear = qb_rng_range(rng, -0.35, 0.35);
  double tangent = qb_rng_range(rng, -0.14, 0.14); /* of half the angle: at most 16 degrees */
  double shift_x = qb_rng_range(rng, -2.5, 2.5);
  double shift_y = qb_rng_range(rng, -2.5, 2.5);
  double cosine = (1 - tangent * tangent) / (1 + tangent * tangent), sine = 2 * tangent / (1 + tangent * tangent);
  double y = half_height / 50, x = y * aspect;
  return (affine){cosine * x,
                  y * (cosine * shear * aspect - sine),
                  sine * x,
                  y * (sine * shear * aspect + cosine),
                  {QB_DIGITS_WIDTH / 2.0 + shift_x, QB_DIGITS_HEIGHT / 2.0 + shift_y}};
}

static void draw_bend(qb_rng *rng, drawing *d) {
  double strength = qb_rng_range(rng, 0.3, 2.4);
  for (int row = 0; row < BEND_NODES; row++)
    for (int column = 0; column < BEND_NODES; column++) {
      double x = qb_rng_range(rng, -strength, strength);
      double y = qb_rng_range(rng, -strength, strength);
      d->bend[row][column] = (point){x, y};
    }
}

static const qb_glyph_point *draw_style(qb_rng *rng, int32_t digit) {
  return qb_glyph_points(digit, (int32_t)qb_rng_below(rng, (uint64_t)qb_glyph_style_count(digit)));
}

/* A part of another digit at the left (side = -1) or right border, one time in three. */
static void draw_neighbour(qb_rng *rng, drawing *d, affine map, double side) {
  bool present = qb_rng_below(rng, 3) == 0;
  int32_t digit = (int32_t)qb_rng_below(rng, QB_DIGITS_CLASSES);
  const qb_glyph_point *glyph = draw_style(rng, digit);
  double away = qb_rng_range(rng, 15.0, 20.0);
  map.centre.x += side * away;
  if (present)
    add_glyph(d, &map, glyph);
}

/* How ink and paper look. */
typedef struct look {
  double paper, slope_x, slope_y; /* level at the centre and change per pixel */
  double ink;
  double radius, ramp; /* half the pen's width; width of the blurred edge */
  double noise;        /* standard deviation */
} look;

static look draw_look(qb_rng *rng) {
  look k;
  k.paper = qb_rng_range(rng, 0.0, 0.45);
  double contrast = qb_rng_range(rng, 0.2, 0.6);
  k.ink = k.paper + contrast;
  k.slope_x = qb_rng_range(rng, -0.008, 0.008);
  k.slope_y = qb_rng_range(rng, -0.008, 0.008);
  k.radius = qb_rng_range(rng, 0.45, 1.7);
  k.ramp = qb_rng_range(rng, 0.8, 2.2);
  k.noise = qb_rng_range(rng, 0.02, 0.16);
  if (qb_rng_below(rng, 4) == 0) { /* dark on light */
    k.paper = 1 - k.paper;
    k.ink = 1 - k.ink;
  }
  return k;
}

/* -------------------------------------------------------------------------------------------------------- picture */

static uint8_t shade(const drawing *d, const look *k, int row, int column, double noise) {
  point p = {column + 0.5, row + 0.5};
  double paper = k->paper + k->slope_x * (p.x - QB_DIGITS_WIDTH / 2.0) + k->slope_y * (p.y - QB_DIGITS_HEIGHT / 2.0);
  double ink = clamp((k->radius - distance(d, p)) / k->ramp + 0.5, 0, 1);
  double level = mix(paper, k->ink, ink) + k->noise * noise;
  return (uint8_t)(clamp(level, 0, 1) * 255 + 0.5);
}

void qb_digits_image(uint64_t seed, uint64_t index, uint8_t pixels[QB_DIGITS_PIXELS], int32_t *label) {
  qb_rng rng;
  qb_rng_seed(&rng, seed, index);
  *label = qb_digits_label(seed, index);
  drawing d;
  d.segment_count = 0;
  draw_bend(&rng, &d);
  affine map = draw_affine(&rng);
  add_glyph(&d, &map, draw_style(&rng, *label));
  draw_neighbour(&rng, &d, map, -1);
  draw_neighbour(&rng, &d, map, 1);
  look k = draw_look(&rng);
  for (int row = 0; row < QB_DIGITS_HEIGHT; row++)
    for (int column = 0; column < QB_DIGITS_WIDTH; column++)
      pixels[row * QB_DIGITS_WIDTH + column] = shade(&d, &k, row, column, rough_normal(&rng));
}
