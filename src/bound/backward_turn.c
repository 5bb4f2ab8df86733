/* Planes that are chosen for one form: turned towards where it is largest.
 *
 * A bound is the maximum over the box of a form that the planes make; the best planes are those of a saddle point. From
 * the planes at the centres, the form's largest value lies at a corner of the box. The next form takes its planes
 * lowest at what both networks compute half way between the middle of the box and that corner, the one after it at a
 * third of the way on to its corner, and so on: fictitious play. Each row keeps its smallest bound. */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "bound/backward_internal.h"

/* Inputs that a form hardly depends on stay in the middle: less than about FAINT of its largest part, or NOTHING of its
 * bound, where rounding alone may be what is left. Where a coordinate goes is one of a few steps, so that another
 * evaluation with its own rounding goes to the same point. */
static const double FAINT = 1e-3, NOTHING = 1e-6, STEPS = 16;

/* Adds the corner of one form with coefficients c (NULL: none) and what it is at most, in steps from the middle towards
 * the ends. */
static void add_corner(const qb_box_track *x, int64_t n, const double *c, double upper, double *steps) {
  double largest = 0;
  for (int64_t i = 0; c != NULL && i < n; i++)
    largest = qb_larger(largest, fabs(c[i]) * (x->hi[i] - x->lo[i]));
  for (int64_t i = 0; c != NULL && i < n; i++) {
    double part = c[i] * (x->hi[i] - x->lo[i]), size = fabs(part) + FAINT * largest + NOTHING * fabs(upper);
    steps[i] += size > 0 ? rint(STEPS * part / size) : 0;
  }
}

/* The mean of the middle and of `count` corners. */
static void find_point(const qb_box_track *x, int64_t n, int32_t count, const double *steps, double *point) {
  for (int64_t i = 0; i < n; i++) {
    double half = 0.5 * (x->hi[i] - x->lo[i]), at = 0.5 * (x->lo[i] + x->hi[i]);
    point[i] = qb_clamp(at + half * (steps[i] / (STEPS * (count + 1))), x->lo[i], x->hi[i]);
  }
}

/* The points after one more corner, `count` in all, and both networks there; `upper`: of the forms that gave it. */
static qb_status move_on(qb_walk *walk, int32_t count, const double *upper, double *steps, double *points) {
  qb_value_id input = walk->backward->pair->quantized->inputs[0];
  const qb_box_state *state = &walk->backward->box->states[input];
  const qb_box_track *x = &state->track[QB_TRACK_ORIGINAL];
  const double *c = walk->coefficient[0][input];
  int64_t n = state->count;
  for (int64_t r = 0; r < walk->rows; r++) {
    add_corner(x, n, c == NULL ? NULL : c + r * n, upper[r], steps + r * n);
    find_point(x, n, count, steps + r * n, points + r * n);
  }
  return qb_walk_evaluate(walk, points);
}

/* A row gained when its bound became smaller by more than this share of itself. */
static const double GAIN = 1e-3;

static bool take_smaller(int64_t rows, const double *turned, double *upper) {
  bool gained = false;
  for (int64_t r = 0; r < rows; r++) {
    gained = gained || turned[r] < upper[r] - GAIN * fabs(upper[r]);
    upper[r] = qb_smaller(upper[r], turned[r]);
  }
  return gained;
}

static qb_status turn(qb_walk *walk, const qb_rows *rows, int64_t first, double *upper, double *memory,
                      int32_t *turns) {
  int64_t all = walk->rows * walk->backward->box->states[walk->backward->pair->quantized->inputs[0]].count;
  double *turned = memory + 2 * all;
  bool gained = true;
  for (*turns = 0; gained && *turns < rows->turns; ++*turns) {
    if (*turns > 0 && rows->deadline > 0 && qb_clock_seconds() > rows->deadline)
      break;
    QB_TRY(move_on(walk, *turns + 1, *turns == 0 ? upper : turned, memory, memory + all));
    qb_walk_empty(walk);
    QB_TRY(qb_walk_back(walk, rows, first));
    qb_walk_upper(walk, turned);
    gained = take_smaller(walk->rows, turned, upper);
  }
  return QB_OK;
}

qb_status qb_walk_turn(qb_walk *walk, const qb_rows *rows, int64_t first, double *upper, int32_t *turns) {
  int64_t n = walk->backward->box->states[walk->backward->pair->quantized->inputs[0]].count;
  size_t count = (size_t)(walk->rows * (2 * n + 1));
  double *memory = qb_alloc(count, sizeof *memory);
  qb_walk_points points = {0};
  if (memory == NULL)
    return qb_fail_memory(walk->error, "points of a relaxation", count * sizeof *memory);
  qb_arena_init(&points.arena);
  qb_arena_init(&points.scratch);
  walk->points = &points;
  qb_status status = turn(walk, rows, first, upper, memory, turns);
  walk->points = NULL;
  qb_arena_free(&points.arena);
  qb_arena_free(&points.scratch);
  qb_free(memory);
  return status;
}
